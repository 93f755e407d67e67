"""Made-up data sets for the benchmarks: bright balls in noise, in seconds."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SMALLEST_RUN = (
    "network.features=[4,8]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[16,16,16]",
    "patches.batch_size=2",
    "training.threads=1",
    "training.precision=float32",
    "training.memory_layout=contiguous",
)
"""Options of trainings whose outcome does not matter."""


def write_balls(folder: Path, num_cases: int, length: int) -> Path:
    """Write a data set in the layout of the Medical Segmentation Decathlon.

    Args:
        folder: To be made; one that is there is taken as it is.
        num_cases: All labelled.
        length: Voxels per axis of every volume.
    """
    if (folder / "dataset.json").exists():
        return folder
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.5, 1.5, 2.0, 1.0])
    indices = np.indices((length,) * 3)
    names = [f"case_{number:04d}" for number in range(num_cases)]
    for number, name in enumerate(names):
        generator = np.random.default_rng(number)
        image = generator.normal(100, 8, (length,) * 3).astype(np.float32)
        label_map = np.zeros(image.shape, np.uint8)
        for label in (1, 2):
            centre = generator.uniform(length / 4, 3 * length / 4, (3, 1, 1, 1))
            ball = ((indices - centre) ** 2).sum(axis=0) < (length / 6) ** 2
            label_map[ball] = label
            image[ball] += 60 * (3 - 2 * label)
        for part, array in (("imagesTr", image), ("labelsTr", label_map)):
            nib.save(nib.Nifti1Image(array, affine), folder / part / f"{name}.nii.gz")
    description = {
        "name": "Balls",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "bright", "2": "dark"},
        "training": [
            {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"}
            for name in names
        ],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder
