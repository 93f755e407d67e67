"""Random crops of pictures: patches smaller than the picture, drawn uniformly."""

import numpy as np
import torch
from made_up_volumes import UnlabelledVolume

from foveal import building
from foveal.config.plan import Plan
from foveal.config.settings import Settings

PLAN = Plan.model_validate(
    {
        "dataset_name": "made up",
        "labels": {"names": ["heart"], "values": [1]},
        "preprocessing": {
            "spacing_mm": [1.0, 1.0, 1.0],
            "channels": [{"name": "MR", "normalisation": "zscore"}],
        },
        "patches": {"size": [450, 450, 1], "batch_size": 2},
        "network": {"name": "deeplabv2"},
    }
)


def test_a_patch_of_450_pixels_lies_anywhere_in_a_picture_of_513():
    settings = Settings.model_validate({"sampling": {"sampler": "uniform"}})
    sampler = building.sampler("uniform", settings, PLAN)
    pictures = [UnlabelledVolume(shape=(513, 513, 1))]
    generator = torch.Generator().manual_seed(0)
    corners = np.array(
        [
            sampler.draw(pictures, PLAN.patches.size, generator).corner
            for _ in range(1000)
        ]
    )
    assert (corners[:, 2] == 0).all()
    for axis in (0, 1):
        # 64 places, the first and the last among them, each as likely: the squared
        # relative differences from 1000 / 64 are 64 / 1000 on average.
        places, counts = np.unique(corners[:, axis], return_counts=True)
        assert places.tolist() == list(range(64))
        assert ((counts / 1000 * 64 - 1) ** 2).mean() < 2 * 64 / 1000
    assert abs(np.corrcoef(corners[:, 0], corners[:, 1])[0, 1]) < 0.1
