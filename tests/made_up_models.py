"""Runs with random weights, as training would leave them, made in milliseconds."""

import json

import numpy as np
import torch

from foveal import building
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.checkpoints import save_checkpoint
from foveal.planning.splits import Fold, Splits, splits_to_toml
from foveal.settings_files import to_toml

FINGERPRINT = {
    "num_cases": 6,
    "median_shape": [22.0, 20.0, 18.0],
    "spacing_mm_range": [[1.5, 1.5], [1.5, 1.5], [2.0, 2.0]],
    "intensity_ranges": [[20.0, 180.0]],
    "structure_volumes_ml": {"ball": [0.3, 0.4], "box": [0.6, 0.7]},
    "orientations": ["LAS"],
    "extent_mm_range": [[30.0, 36.0], [28.0, 32.0], [34.0, 40.0]],
    "image_quantiles": [[[88.0, 92.0], [99.0, 101.0], [110.0, 140.0]]],
}


def write_run(folder, *, seed=0, channels=1, values=(1, 2), plan=None, dataset=None):
    """A run of a tiny network for the cases of `phantoms.ball_and_box`.

    Args:
        folder: Of the run.
        seed: Of the weights.
        channels: Of the image.
        values: Of the two structures.
        plan: Tables of the plan to replace.
        dataset: Named in the settings.
    """
    fingerprint = {
        **FINGERPRINT,
        "intensity_ranges": FINGERPRINT["intensity_ranges"] * channels,
        "image_quantiles": FINGERPRINT["image_quantiles"] * channels,
    }
    tables = {
        "dataset_name": "BallAndBox",
        "labels": {"names": ["ball", "box"], "values": values},
        "preprocessing": {
            "spacing_mm": [1.5, 1.5, 2.0],
            "channels": [
                {"name": f"MRI_{n}", "normalisation": "robust_zscore"}
                for n in range(channels)
            ],
        },
        "patches": {"size": [16, 16, 16], "batch_size": 2},
        "network": {
            "features": [2, 4],
            "kernels": [[3, 3, 3]] * 2,
            "strides": [[2, 2, 2]],
        },
        "fingerprint": fingerprint,
        **(plan or {}),
    }
    made = Plan.model_validate(tables)
    settings = Settings.model_validate(
        {
            "dataset": dataset,
            "training": {
                "steps": 3,
                "precision": "float32",
                "memory_layout": "contiguous",
            },
        }
    )
    folder.mkdir(parents=True)
    (folder / "plan.toml").write_text(to_toml(made))
    (folder / "settings.toml").write_text(to_toml(settings))
    splits = Splits((Fold(("patient_a", "patient_b"), ("patient_c",), ()),))
    (folder / "splits.toml").write_text(splits_to_toml(splits))
    torch.manual_seed(seed)
    weights = building.planned_network(made).state_dict()
    save_checkpoint(
        folder / "checkpoints",
        "best",
        {f"predictor.{name}": tensor for name, tensor in weights.items()},
        {"step": 3},
    )
    return folder


def write_metrics(run, case):
    """Scores of one validation case."""
    (run / "validation").mkdir()
    values = {"dice": 0.75, "hd95_mm": 3.0, "assd_mm": 1.0}
    rows = [
        {"case": case, "structure": "ball", "metric": metric, "value": value}
        for metric, value in values.items()
    ]
    summary = [
        {
            "structure": "ball",
            "metric": metric,
            "num_cases": 1,
            "mean": value,
            "median": value,
            "std": None,
        }
        for metric, value in values.items()
    ]
    record = {
        "format_version": 1,
        "rows": rows,
        "summary": summary,
        "notes": [],
        "definitions": {},
    }
    (run / "validation" / "metrics.json").write_text(json.dumps(record))


def scan(seed=0, shape=(22, 20, 18)):
    """An image like those of `FINGERPRINT`, with its affine."""
    generator = np.random.default_rng(seed)
    image = generator.normal(100, 6, shape).astype(np.float32)
    image[8:13, 8:12, 6:13] += 40
    return image, np.diag([-1.5, 1.5, 2.0, 1.0])
