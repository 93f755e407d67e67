"""Networks for pictures: hearts in MR slices, membranes in electron microscopy.

    python benchmarks/pictures.py --out results --budget 360

`deeplabv3`, `segnet` and `fcn8s`, at a quarter of their width, on 260 slices of hearts
(a fifth of the patients are the test), and `unet2d` with and without border weights on
30 images of membranes (the last 6 are the test), each trained for the same time. The
scores are those of `foveal evaluate` over all voxels of the test together, background
included. Finished trainings are kept; the same command goes on.
"""

import re
from pathlib import Path
from typing import Any

import tomli_w
from trainings import (
    data_folder,
    in_hashed_order,
    tested,
    trained_alike,
    training_parser,
)

NARROW_VGG = {
    "network.features": [16, 32, 64, 128, 128],
    "network.input_padding": 1,
    "network.head_features": 256,
}
"""A quarter of VGG16's width; padding as small images need it."""

HEARTS: dict[str, dict[str, Any]] = {
    "deeplabv3 (ResNet-18, quarter width)": {
        "network.name": "deeplabv3",
        "network.backbone": "resnet18",
        "network.first_features": 16,
        "network.head_features": 64,
        "network.output_stride": 8,
    },
    "segnet (quarter width)": {
        "network.name": "segnet",
        "network.features": NARROW_VGG["network.features"],
    },
    "fcn8s (quarter width)": {"network.name": "fcn8s", **NARROW_VGG},
    "unet2d (planned)": {},
}

MEMBRANES: dict[str, dict[str, Any]] = {
    "unet2d": {},
    "unet2d, border weights": {
        "loss.cross_entropy": 0.0,
        "loss.border_cross_entropy": 1.0,
    },
}

SCORES = (
    "mean_iou",
    "mean_dice",
    "pixel_accuracy",
    "mean_accuracy",
    "frequency_weighted_iou",
)


def main() -> None:
    """Train every network on both data sets, test, print a table."""
    parser = training_parser(__doc__, budget=360)
    arguments = parser.parse_args()
    print("| data | network | steps | s/step | MIoU | Dice | PA | MPA | FWIoU |")
    print("|---|---|---|---|---|---|---|---|---|")
    parts = (
        ("hearts", heart_table(arguments.out), HEARTS),
        ("membranes", membrane_table(arguments.out), MEMBRANES),
    )
    for data, table, networks in parts:
        for name, options in networks.items():
            short = re.sub(r"\W+", "_", name)
            run, record = trained_alike(
                arguments,
                table,
                f"{data}_{short}",
                {"patches.batch_size": 4, **options},
            )
            scores = tested(run, table).class_scores
            print(
                f"| {data} | {name} | {record['steps']:.0f} | "
                f"{record['seconds_per_step']:.2f} | "
                + " | ".join(f"{scores[score]:.4f}" for score in SCORES)
                + " |",
                flush=True,
            )


def heart_table(out: Path) -> Path:
    """Slices with their patients, a fifth of whom are the test."""
    folder = data_folder("cardiac_2d")
    images = sorted((folder / "Images").rglob("*.png"))
    patients = in_hashed_order({patient_of(image) for image in images})
    test = set(patients[: round(len(patients) / 5)])
    rows = [
        {
            "case": image.stem,
            "patient": patient_of(image),
            "channels": [image.resolve().as_posix()],
            "label_map": (folder / "Labels" / image.relative_to(folder / "Images"))
            .resolve()
            .as_posix(),
            "split": "test" if patient_of(image) in test else "train",
        }
        for image in images
    ]
    return write(out / "hearts.toml", {"ventricle": 255}, rows)


def membrane_table(out: Path) -> Path:
    """Images of which the last six are the test; what is drawn are the cells."""
    folder = data_folder("membrane_em")
    images = sorted((folder / "image").iterdir(), key=lambda path: int(path.stem))
    rows = [
        {
            "case": image.stem,
            "channels": [image.resolve().as_posix()],
            "label_map": (folder / "label" / image.name).resolve().as_posix(),
            "split": "test" if image in images[-6:] else "train",
        }
        for image in images
    ]
    return write(out / "membranes.toml", {"cell": 255}, rows)


def write(path: Path, labels: dict[str, int], rows: list[dict[str, Any]]) -> Path:
    """A table in TOML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps({"labels": labels, "cases": rows}))
    return path


def patient_of(image: Path) -> str:
    """What comes before the series and the slice, as in ``SC-N-03-IM-0001-0280``."""
    return image.stem.split("-IM-")[0]


if __name__ == "__main__":
    main()
