"""Are networks surer than right, and does their uncertainty mark their errors?

    python benchmarks/uncertainty.py --out results --steps 500 --seeds 0 1 2

On hippocampi, 40 of 200 cases, fixed by a hash of their names, are the test.

Calibration: the same U-Net is trained with cross entropy, soft Dice and soft IoU, after
which a thesis saw maps that are nearly black and white (Figure 4.1 there). Printed are
ECE, excess (mean probability less frequency), Brier score and NLL of the most probable
class within 5 mm of foreground, and Dice; drawn is the frequency against the
probability of foreground.

Dropout: a U-Net with dropout of 0.5 sees each test case ten times with dropout on.
Printed is how well predictive entropy, mutual information and variance mark the wrong
voxels within 5 mm of foreground: the area between the sparsification curve and the
oracle's (AUSE) and the share of the oracle's gain that is reached.

Two pictures, `calibration.png` and `dropout.png`, in `--out`. The number format is
fixed, as the fastest might be another from run to run. Whatever is finished is kept;
the same command goes on.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from trainings import held_out_table, tested, trained

import foveal
from foveal.case import Case
from foveal.geometry import reorientation
from foveal.inference.restore import decided_classes
from foveal.metrics.calibration import (
    ALL_CLASSES,
    Calibration,
    case_calibration,
    near_foreground,
    structure_calibration,
    summed,
)
from foveal.preprocessing.pipeline import reference_classes
from foveal.uncertainty.maps import mutual_information
from foveal.uncertainty.sparsification import Sparsification, sparsification

mpl.use("Agg")

NUM_TEST = 40
NUM_PASSES = 10
BAND_MM = 5.0

LOSSES = ("cross_entropy", "dice", "iou")
"""Each alone, with weight 1."""

FOREGROUND = "foreground"

MEASURES = ("predictive_entropy", "mutual_information", "variance")


class Seen(NamedTuple):
    """A test case as a model sees it, brought to the plan's orientation."""

    image: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    decided: NDArray[np.integer]
    reference: NDArray[np.uint8]
    near: NDArray[np.bool_]
    """Within `BAND_MM` of foreground."""

    maps: dict[str, NDArray[np.float32]]
    """Of `MEASURES`; all but the entropy are 0 for a single pass."""


def main() -> None:
    """Train, measure, print two tables, draw two pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", default=["calibration", "dropout"])
    parser.add_argument("--test", type=int, default=NUM_TEST, help="held-out cases")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = held_out_table("hippocampus", arguments.test, arguments.out)
    if "calibration" in arguments.parts:
        calibration(table, arguments)
    if "dropout" in arguments.parts:
        dropout(table, arguments)


def calibration(table: Path, arguments: argparse.Namespace) -> None:
    """Compare the losses."""
    print("| loss | Dice | ECE | excess | Brier | NLL | ECE per seed |")
    print("|---|---|---|---|---|---|---|")
    found = {}
    for loss in LOSSES:
        weights = {"cross_entropy": 0.0, "dice": 0.0, loss: 1.0}
        options = {f"loss.{name}": weight for name, weight in weights.items()}
        records = [
            kept(table, loss, seed, options, calibration_of_run, arguments)
            for seed in arguments.seeds
        ]
        found[loss] = records
        means = [
            format(fmean(one[name] for one in records), ".4f")
            for name in ("dice", "ece", "excess", "brier", "nll")
        ]
        of_seeds = ", ".join(format(one["ece"], ".4f") for one in records)
        print(f"| {loss} | {' | '.join(means)} | {of_seeds} |", flush=True)
    draw_calibration(found, arguments)


def dropout(table: Path, arguments: argparse.Namespace) -> None:
    """Measure whether the uncertainty of dropout marks errors."""
    options = {"network.dropout_fraction": 0.5}
    records = []
    print("| seed | wrong near foreground | measure | AUSE | of the oracle's gain |")
    print("|---|---|---|---|---|")
    for seed in arguments.seeds:
        found = kept(table, "dropout", seed, options, dropout_of_run, arguments)
        records.append(found)
        for name in MEASURES:
            one = found["curves"][name]
            print(
                f"| {seed} | {one['random']:.4f} | {name} | {one['ause']:.3f} | "
                f"{one['gain']:.1%} |",
                flush=True,
            )
    run = run_of("dropout", arguments.seeds[0], arguments)
    draw_dropout(run, table, records, arguments)


def run_of(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Folder of a training."""
    return arguments.out / f"uncertainty_{name}_{arguments.steps}_{seed}"


def kept(
    table: Path,
    name: str,
    seed: int,
    options: Mapping[str, Any],
    measure: Any,  # noqa: ANN401 - a function of run and table
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Train and measure once, or read what was found before."""
    run = run_of(name, seed, arguments)
    path = run.with_name(f"{run.name}_measured.json")
    if path.exists():
        return json.loads(path.read_text())
    trained(
        table,
        run,
        None,
        {
            "store": (arguments.out / "store").as_posix(),
            "training.steps": arguments.steps,
            "training.seed": seed,
            "training.threads": arguments.threads,
            "training.precision": "bfloat16",
            "training.memory_layout": "channels_last",
            "splits.folds": 1,
            **options,
        },
    )
    found = measure(run, table)
    path.write_text(json.dumps(found))
    return found


def calibration_of_run(run: Path, table: Path) -> dict[str, Any]:
    """Calibration near foreground in all test cases, and Dice."""
    parts: list[dict[str, Calibration]] = []
    structures = foveal.load_model(run).structures
    for seen in seen_cases(run, table):
        known = seen.near & (seen.reference != 255)
        parts.append(
            case_calibration(
                seen.probabilities, seen.reference, structures, counted=seen.near
            )
            | {
                FOREGROUND: structure_calibration(
                    1 - seen.probabilities[0][known], seen.reference[known] > 0
                )
            }
        )
    sums = summed(parts)
    every, foreground = sums[ALL_CLASSES], sums[FOREGROUND]
    measured = tested(run, table)
    return {
        "dice": fmean(measured.mean(one, "dice") for one in measured.structures),
        "ece": every.ece,
        "excess": every.excess,
        "brier": every.brier,
        "nll": every.nll,
        "bins": [
            one.tolist()
            for one in (foreground.voxels, foreground.probabilities, foreground.hits)
        ],
    }


def dropout_of_run(run: Path, table: Path) -> dict[str, Any]:
    """Sparsification by every measure over the test cases' voxels near foreground."""
    wrong: list[NDArray[np.bool_]] = []
    maps: dict[str, list[NDArray[np.float32]]] = {name: [] for name in MEASURES}
    for seen in seen_cases(run, table, NUM_PASSES):
        wrong.append(seen.decided[seen.near] != seen.reference[seen.near])
        for name in MEASURES:
            maps[name].append(seen.maps[name][seen.near])
    is_wrong = np.concatenate(wrong)
    return {
        "curves": {
            name: as_record(sparsification(np.concatenate(parts), is_wrong))
            for name, parts in maps.items()
        }
    }


def as_record(found: Sparsification) -> dict[str, Any]:
    """Plain values of curves."""
    return {
        "removed": found.removed.tolist(),
        "by_uncertainty": found.by_uncertainty.tolist(),
        "by_oracle": found.by_oracle.tolist(),
        "random": found.random,
        "ause": found.ause,
        "gain": found.gain or 0.0,
    }


def seen_cases(
    run: Path, table: Path, passes: int | None = None, most: int | None = None
) -> Iterator[Seen]:
    """Test cases, one after another.

    Args:
        run: That predicts.
        table: Whose test cases.
        passes: With dropout on; unset: one with dropout off.
        most: Cases; unset: all.
    """
    model = foveal.load_model(run, dropout_passes=passes)
    files = [one for one in foveal.read_dataset(table).cases if one.split == "test"]
    for one in files[:most]:
        case: Case = foveal.read_case(one)
        turn = reorientation(case.grid, model.task.orientation)
        reference = reference_classes(case, model.models[0].recipe, one.annotated)
        with torch.inference_mode():
            rows = list(model.fused(case, wants_spread=True).rows())
        probabilities = torch.cat([row.probabilities for row in rows], dim=1)
        variance, predictive, expected = (
            torch.cat([row.spread[place] for row in rows], dim=axis)
            for place, axis in ((0, 1), (1, 0), (2, 0))
        )
        decided = decided_classes(probabilities, tuple(model.structures.values()))
        yield Seen(
            turn.apply(case.image)[0],
            probabilities.numpy(),
            decided.numpy(),
            reference,
            near_foreground(
                reference,
                decided.numpy(),
                turn.apply_to_grid(case.grid).spacing_mm,
                BAND_MM,
            ),
            {
                "predictive_entropy": predictive.numpy(),
                "mutual_information": mutual_information(predictive, expected).numpy(),
                "variance": variance.sum(dim=0).numpy(),
            },
        )


def draw_calibration(
    found: Mapping[str, Sequence[Mapping[str, Any]]], arguments: argparse.Namespace
) -> None:
    """A line per loss: frequency against probability of foreground; and how many."""
    figure, (axes, counts) = plt.subplots(1, 2, figsize=(10, 4.2))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for loss, records in found.items():
        voxels, probability, hits = np.sum([one["bins"] for one in records], axis=0)
        seen = voxels > 0
        axes.plot(
            probability[seen] / voxels[seen],
            hits[seen] / voxels[seen],
            ".-",
            label=loss,
        )
        middles = (np.arange(len(voxels)) + 0.5) / len(voxels)
        counts.plot(middles, voxels / voxels.sum(), ".-", label=loss)
    axes.set_xlabel("probability of hippocampus")
    axes.set_ylabel("frequency")
    counts.set_xlabel("probability of hippocampus")
    counts.set_ylabel("share of voxels")
    counts.set_yscale("log")
    axes.legend()
    figure.suptitle(
        f"Within {BAND_MM:g} mm of foreground, {arguments.test} test cases, "
        f"{arguments.steps} steps, {len(arguments.seeds)} seeds"
    )
    figure.tight_layout()
    figure.savefig(arguments.out / "calibration.png", dpi=120)


def draw_dropout(
    run: Path,
    table: Path,
    records: Sequence[Mapping[str, Any]],
    arguments: argparse.Namespace,
) -> None:
    """One case: the passes together, their doubt and the errors; and the curves."""
    (seen,) = seen_cases(run, table, NUM_PASSES, most=1)
    place = int((seen.reference > 0).sum(axis=(0, 1)).argmax())
    figure, every_axes = plt.subplots(1, 5, figsize=(17, 3.8))
    is_wrong = seen.decided != seen.reference
    for axes, volume, title in (
        (every_axes[0], seen.image, "image and reference"),
        (every_axes[1], 1 - seen.probabilities[0], f"mean of {NUM_PASSES} passes"),
        (every_axes[2], seen.maps["predictive_entropy"], "predictive entropy, nats"),
        (every_axes[3], is_wrong.astype(float), "errors"),
    ):
        shown = axes.imshow(
            volume[..., place].T, cmap="gray" if volume is seen.image else "inferno"
        )
        if volume is seen.image:
            axes.contour(seen.reference[..., place].T > 0, [0.5], colors="orange")
        else:
            figure.colorbar(shown, ax=axes, fraction=0.046)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    axes = every_axes[4]
    for name in MEASURES:
        curves = [one["curves"][name] for one in records]
        mean = np.mean([one["by_uncertainty"] for one in curves], axis=0)
        axes.plot(curves[0]["removed"], mean, label=name.replace("_", " "))
    oracle = np.mean([one["by_oracle"] for one in curves], axis=0)
    axes.plot(curves[0]["removed"], oracle, "k:", label="oracle")
    axes.axhline(fmean(one["random"] for one in curves), color="grey", label="random")
    axes.set_xlabel("share of voxels removed")
    axes.set_ylabel("wrong among the rest")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(arguments.out / "dropout.png", dpi=120)


if __name__ == "__main__":
    main()
