"""The same U-Net, trained for the same number of steps with each loss.

    python benchmarks/losses.py --out results --steps 500 --seeds 0 1 2

On hippocampi, 40 of 200 cases, fixed by a hash of their names, are the test. Printed,
as means over seeds and with each seed's: Dice and HD95, means of the two structures on
the cases' own grids, and the expected calibration error of "this voxel is hippocampus":
how far, in the mean over all voxels of the test, the probability is from the frequency
among voxels of like probability (15 bins of equal width). A picture, `losses.png` in
`--out`, shows them and the calibration in each bin.

The number format is fixed, as the fastest might be another from run to run. Whatever is
finished is kept; the same command goes on.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from trainings import held_out_table, tested, trained

import foveal
from foveal.geometry import reorientation

mpl.use("Agg")

NUM_TEST = 40

LOSSES: dict[str, dict[str, float]] = {
    "cross_entropy": {"cross_entropy": 1.0},
    "top_k": {"top_k": 1.0},
    "focal": {"focal": 1.0},
    "dice": {"dice": 1.0},
    "generalised_dice": {"generalised_dice": 1.0},
    "iou": {"iou": 1.0},
    "tversky": {"tversky": 1.0},
    "cross_entropy + dice": {"cross_entropy": 1.0, "dice": 1.0},
    "region_cross_entropy": {"region_cross_entropy": 1.0},
}
"""Name in the table to weights; options are the defaults."""

SCORES = {
    "dice": "Dice",
    "hd95_mm": "HD95 [mm]",
    "calibration_error": "calibration error",
}

NUM_BINS = 15


def main() -> None:
    """Train with every loss and seed, test, print a table, draw it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=LOSSES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="bfloat16")
    arguments = parser.parse_args()
    table = held_out_table("hippocampus", NUM_TEST, arguments.out)
    print("| loss | s/step | Dice | HD95 mm | calibration error | Dice per seed |")
    print("|---|---|---|---|---|---|")
    found = {}
    for name in arguments.losses:
        records = [result(table, name, seed, arguments) for seed in arguments.seeds]
        found[name] = records
        means = {score: fmean(one[score] for one in records) for score in SCORES}
        print(
            f"| {name} | {fmean(one['seconds_per_step'] for one in records):.3f} | "
            f"{means['dice']:.4f} | {means['hd95_mm']:.2f} | "
            f"{means['calibration_error']:.4f} | "
            f"{', '.join(format(one['dice'], '.4f') for one in records)} |",
            flush=True,
        )
    draw(found, arguments)


def result(
    table: Path, name: str, seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train and test once, or read what was found before."""
    short = name.replace(" + ", "_and_")
    run = arguments.out / f"{short}_{arguments.steps}_{seed}"
    path = arguments.out / f"{run.name}_tested.json"
    if path.exists():
        return json.loads(path.read_text())
    weights = {"cross_entropy": 0.0, "dice": 0.0} | LOSSES[name]
    record = trained(
        table,
        run,
        None,
        {
            "store": (arguments.out / "store").as_posix(),
            "training.steps": arguments.steps,
            "training.seed": seed,
            "training.threads": arguments.threads,
            "training.precision": arguments.precision,
            "training.memory_layout": "channels_last",
            "splits.folds": 1,
            **{f"loss.{loss}": weight for loss, weight in weights.items()},
        },
    )
    measured = tested(run, table)
    bins = calibration(run, table)
    found = {
        **record,
        "dice": fmean(measured.mean(one, "dice") for one in measured.structures),
        "hd95_mm": fmean(measured.mean(one, "hd95_mm") for one in measured.structures),
        "calibration_error": expected_calibration_error(bins),
        "bins": bins.tolist(),
    }
    path.write_text(json.dumps(found))
    return found


def calibration(run: Path, table: Path) -> np.ndarray:
    """All voxels of the test by their probability of being foreground.

    Returns:
        ``(3, bin)``: voxels, sum of their probabilities, and those that are foreground.
    """
    model = foveal.load_model(run)
    bins = np.zeros((3, NUM_BINS))
    for files in foveal.read_dataset(table).cases:
        if files.split != "test":
            continue
        case = foveal.read_case(files)
        upright = reorientation(case.grid, model.orientation)
        is_foreground = upright.apply(case.label_map) > 0
        background = [rows[0].numpy() for rows in model.probabilities(case)]
        probability = 1 - np.concatenate(background).astype(np.float64)
        number = np.clip((probability * NUM_BINS).astype(int), 0, NUM_BINS - 1)
        for row, values in enumerate((None, probability, is_foreground)):
            bins[row] += np.bincount(
                number.ravel(),
                None if values is None else values.ravel(),
                minlength=NUM_BINS,
            )
    return bins


def expected_calibration_error(bins: np.ndarray) -> float:
    """Mean over voxels of how far probability and frequency of their bin lie apart.

    Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602.
    """
    voxels, probability, foreground = bins
    return float(np.abs(probability - foreground).sum() / voxels.sum())


def draw(
    found: Mapping[str, Sequence[Mapping[str, Any]]], arguments: argparse.Namespace
) -> None:
    """A dot per training, a bar at their mean; a line per loss of its calibration."""
    figure, every_axes = plt.subplots(
        1, len(SCORES) + 1, figsize=(14, 4), width_ratios=[1, 1, 1, 1.3]
    )
    names = list(found)
    for axes, (score, title) in zip(every_axes, SCORES.items(), strict=False):
        for place, name in enumerate(names):
            values = [one[score] for one in found[name]]
            axes.plot(values, [place] * len(values), "o", alpha=0.6, color=f"C{place}")
            axes.plot(fmean(values), place, "|", markersize=18, color=f"C{place}")
        axes.set_yticks(range(len(names)), names if axes is every_axes[0] else [])
        axes.invert_yaxis()
        axes.set_xlabel(title)
        axes.grid(axis="x", alpha=0.3)
    axes = every_axes[-1]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for place, name in enumerate(names):
        voxels, probability, foreground = np.sum(
            [r["bins"] for r in found[name]], axis=0
        )
        seen = voxels > 0
        axes.plot(
            probability[seen] / voxels[seen],
            foreground[seen] / voxels[seen],
            ".-",
            label=name,
            color=f"C{place}",
        )
    axes.set_xlabel("probability of hippocampus")
    axes.set_ylabel("frequency")
    axes.legend(fontsize=7)
    figure.suptitle(
        f"hippocampus, {NUM_TEST} test cases, {arguments.steps} steps; dots: seeds"
    )
    figure.tight_layout()
    figure.savefig(arguments.out / "losses.png", dpi=120)


if __name__ == "__main__":
    main()
