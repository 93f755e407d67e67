"""Small made-up cases whose right answers are known by hand."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np


def ball_and_box(seed, shape=(22, 20, 18)):
    """A bright ball (1) and a dark box (2) at random places on noise.

    Returns:
        Image and label map.
    """
    generator = np.random.default_rng(seed)
    i, j, k = np.indices(shape)
    label_map = np.zeros(shape, np.uint8)
    centre = [generator.integers(6, length - 6) for length in shape]
    start = [generator.integers(0, length - 6) for length in shape]
    label_map[
        start[0] : start[0] + 5, start[1] : start[1] + 6, start[2] : start[2] + 5
    ] = 2
    ball = (i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2 <= 20
    label_map[ball] = 1
    image = generator.normal(0, 0.3, shape).astype(np.float32)
    image += np.choose(label_map, [0.0, 3.0, -3.0]).astype(np.float32)
    return 100 + 20 * image, label_map


def write_ball_and_box_dataset(
    folder: Path, num_cases=6, values=(1, 2), shape=(22, 20, 18)
) -> Path:
    """Decathlon folder of `ball_and_box` cases with label values of one's choice."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    lookup = np.array([0, *values], np.int16)
    affine = np.diag([-1.5, 1.5, 2.0, 1.0])
    affine[:3, 3] = [30, -20, 5]
    training = []
    for n in range(num_cases):
        image, label_map = ball_and_box(n, shape)
        for part, array in (("imagesTr", image), ("labelsTr", lookup[label_map])):
            nib.save(nib.Nifti1Image(array, affine), folder / part / f"case_{n}.nii.gz")
        training.append(
            {
                "image": f"./imagesTr/case_{n}.nii.gz",
                "label": f"./labelsTr/case_{n}.nii.gz",
            }
        )
    description = {
        "name": "BallAndBox",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", str(values[0]): "ball", str(values[1]): "box"},
        "training": training,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def placed(restoration, cropped):
    """A label map of the crop back in the stored volume, background around it."""
    whole = np.zeros(restoration.reoriented_shape, cropped.dtype)
    whole[restoration.window] = cropped
    return restoration.reorientation.undo(whole)
