"""A run directory as training leaves it, small and with known errors."""

import json

import nibabel as nib
import numpy as np

from foveal.commands.evaluate import evaluate
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.planning.splits import Fold, Splits, splits_to_toml
from foveal.settings_files import to_toml

STRUCTURES = {"Ball": 1, "Box <b>": 2}
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
SHAPE = (24, 20, 12)

PLAN = {
    "dataset_name": "MadeUp",
    "labels": {"names": list(STRUCTURES), "values": list(STRUCTURES.values())},
    "preprocessing": {
        "spacing_mm": [2.0, 2.0, 5.0],
        "channels": [
            {
                "name": "CT",
                "normalisation": "ct",
                "clip": [-150.0, 250.0],
                "mean": 80.0,
                "deviation": 40.0,
            }
        ],
    },
    "patches": {"size": [16, 16, 8], "batch_size": 2},
    "network": {},
}


def label_map(ball_size):
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[4 : 4 + ball_size, 5:11, 3:7] = 1
    labels[14:20, 8:14, 4:9] = 2
    return labels


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)


def made_up_run(folder, *, ball_sizes):
    """Write a data set and a run on it.

    Args:
        folder: Gets ``data`` and ``run``.
        ball_sizes: Case to the predicted length of "Ball", whose true length is 6.
    """
    data, run = folder / "data", folder / "run"
    generator = np.random.default_rng(0)
    for case, ball_size in ball_sizes.items():
        reference = label_map(6)
        image = np.where(reference > 0, 120, 30) + generator.normal(scale=9, size=SHAPE)
        save(data / "imagesTr" / f"{case}.nii.gz", image.astype(np.int16))
        save(data / "labelsTr" / f"{case}.nii.gz", reference)
        save(run / "validation" / f"{case}.nii.gz", label_map(ball_size))
    description = {
        "name": "MadeUp",
        "modality": {"0": "CT"},
        "labels": {
            "0": "background",
            **{str(value): name for name, value in STRUCTURES.items()},
        },
        "training": [
            {
                "image": f"./imagesTr/{case}.nii.gz",
                "label": f"./labelsTr/{case}.nii.gz",
            }
            for case in ball_sizes
        ],
    }
    (data / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    evaluate(run / "validation", data, output=run / "validation" / "metrics.json")
    settings = Settings(
        dataset=data,
        training={"steps": 40, "precision": "float32", "memory_layout": "contiguous"},
    )
    (run / "settings.toml").write_text(to_toml(settings), encoding="utf-8")
    plan = Plan.model_validate(PLAN)
    (run / "plan.toml").write_text(to_toml(plan), encoding="utf-8")
    splits = Splits((Fold(("trained_on",), tuple(ball_sizes), ()),))
    (run / "splits.toml").write_text(splits_to_toml(splits), encoding="utf-8")
    environment = {
        "commit": None,
        "foveal": "0.1.0",
        "python": "3.11.7",
        "torch": "2.13.0",
        "device": "cpu",
        "threads": 2,
        "platform": "Linux",
    }
    (run / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    (run / "log.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in log_rows()), encoding="utf-8"
    )
    return run


def log_rows():
    for step in range(40):
        yield {
            "kind": "step",
            "step": step,
            "loss": 2.0 * 0.95**step,
            "terms": {"dice": 0.95**step, "cross_entropy": 0.95**step},
            "learning_rate_factor": 1 - step / 40,
            "seconds": 0.5,
            "waited_seconds": 0.0,
        }
        if step % 10 == 9:
            dice = {"Ball": step / 50, "Box <b>": None if step < 20 else 0.9}
            yield {
                "kind": "validation",
                "step": step + 1,
                "measure": "Dice",
                "scores": dice,
                "mean": step / 50,
                "seconds": 5.0,
            }
