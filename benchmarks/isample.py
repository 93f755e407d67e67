"""Table 1 and figure 1 of the isample paper in small: Dice with and without, per step.

    python benchmarks/isample.py --problem kidneys --out results
    python benchmarks/isample.py --problem headneck --out results
    python benchmarks/isample.py --problem organs --out results

Berger et al. 2018, https://arxiv.org/abs/1709.02764. `kidneys`: made-up trunks in which
kidneys fill 0.3 % of the voxels; `headneck`: uncropped planning CTs with brainstem,
cord and parotids, about 0.1 %; `organs`: made-up abdomens with four organs, the dense
problem. For each the same network makes the same number of steps with patches of the
same sizes, drawn around background and every structure alike, with and without
`sampling.adaptive`. Dice of the held-out cases, on the grid that the network sees, at
every eighth of the training. Cross entropy alone and a constant learning rate, as the
paper has, so that early checkpoints compare.

Error maps are refreshed after a fixed number of steps, so that other programs on the
machine change nothing; with ``--refresh-fraction`` for a share of the time, found by
timing. Finished trainings are kept, and one that was cut off goes on; the same command
ends with the same tables and figure. Runs are named by all that was chosen, so any
argument may be varied in the same folder.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from sparse_problems import (
    NUM_HELD_OUT,
    NUM_TRAIN,
    PROBLEMS,
    foreground_share,
    problem_table,
)
from trainings import num_parameters, trained

from foveal.engine.log import read_log

STOPS = {"an eighth": 1, "a quarter": 2, "half": 4, "the whole": 8}
"""Words of the table to eighths of the training; 5000, 10000, 20000 and 40000 steps in
the paper, where mean Dice was 0.797, 0.849, 0.905, 0.899 without isample and 0.855,
0.897, 0.920, 0.927 with it."""

COLOURS = {"without": "tab:grey", "with isample": "tab:red"}

SMOOTHED_STEPS = 40

Log = Sequence[Mapping[str, Any]]
"""Rows of ``log.jsonl``."""


def main() -> None:
    """Train both arms with every seed, print the tables, draw the figure."""
    arguments = parsed()
    table = problem_table(arguments.problem, arguments.out)
    print(
        f"{arguments.problem}: {NUM_TRAIN} cases train, {NUM_HELD_OUT} are held out; "
        f"{100 * foreground_share(table):.2f} % of all voxels are of a structure",
        flush=True,
    )
    arms: dict[str, dict[str, Any]] = {
        "without": {},
        "with isample": adaptive_options(arguments),
    }
    logs: dict[str, list[Log]] = {name: [] for name in arms}
    # Seed by seed, so that what is there after any time compares.
    for seed in arguments.seeds:
        for name, options in arms.items():
            run = arguments.out / arguments.problem / run_name(arguments, options, seed)
            record = trained(
                table,
                run,
                None,
                {**common_options(arguments), "training.seed": seed, **options},
            )
            logs[name].append(read_log(run / "log.jsonl"))
            print(
                f"seed {seed}, {name}: {num_parameters(run):,} parameters, "
                f"{record['seconds_per_step']:.2f} s/step, {told(logs[name][-1])}",
                flush=True,
            )
    print_dice(logs)
    print_reached(logs)
    print_structures(logs)
    print_sampling(logs["with isample"])
    picture = arguments.out / f"isample_{run_name(arguments, arms['with isample'])}.png"
    draw(logs, picture, arguments.problem)
    print(f"\nfigure: {picture}")


def parsed() -> argparse.Namespace:
    """Arguments, with the rhythm of refreshing settled."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problem", choices=list(PROBLEMS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800, help="a multiple of 8")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epsilon", type=float, default=0.01)
    # As after the paper's epochs of 100 batches. With fewer cases at a time, those that
    # have no map yet count as wrong everywhere and are drawn nearly alone meanwhile.
    parser.add_argument(
        "--every-steps", type=int, default=100, help="between refreshes"
    )
    parser.add_argument(
        "--cases-per-refresh", type=int, default=NUM_TRAIN, help="predicted then"
    )
    parser.add_argument(
        "--refresh-fraction", type=float, help="of the time, instead of the two above"
    )
    parser.add_argument("--draw", choices=["direct", "loop"], default="direct")
    parser.add_argument(
        "--one-case", action="store_true", help="all patches of a step from one case"
    )
    parser.add_argument("--patch", type=int, default=32, help="voxels along each axis")
    parser.add_argument("--batch", type=int, default=6, help="patches per step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dice-loss", type=float, default=0.0, help="its weight")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.steps % 8:
        parser.error("--steps must be a multiple of 8")
    return arguments


def common_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What both arms have."""
    return {
        "store": (arguments.out / "store").as_posix(),
        "preprocessing.spacing_mm": list(PROBLEMS[arguments.problem].spacing_mm),
        "network.features": [12, 24, 48],
        "network.kernels": [[3, 3, 3]] * 3,
        "network.strides": [[2, 2, 2]] * 2,
        "patches.size": [arguments.patch] * 3,
        "patches.batch_size": arguments.batch,
        "sampling.sampler": "class_equal",
        "sampling.one_case_per_batch": arguments.one_case,
        "loss.dice": arguments.dice_loss,
        "optimiser.learning_rate": arguments.learning_rate,
        "schedule.name": "constant",
        "training.steps": arguments.steps,
        "training.validate_every_steps": arguments.steps // 8,
        "training.threads": arguments.threads,
        # The same numerics in every run, however busy the machine is.
        "training.precision": "bfloat16",
        "training.memory_layout": "channels_last",
        "prediction.overlap_fraction": 0.25,
    }


def adaptive_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What isample adds."""
    options = {
        "sampling.adaptive": True,
        "error_maps.epsilon": arguments.epsilon,
        "error_maps.draw": arguments.draw,
    }
    if arguments.refresh_fraction is not None:
        return options | {
            "error_maps.refresh": "fraction",
            "error_maps.refresh_fraction": arguments.refresh_fraction,
        }
    return options | {
        "error_maps.refresh": "epoch",
        "error_maps.every_steps": arguments.every_steps,
        "error_maps.cases_per_refresh": arguments.cases_per_refresh,
    }


def run_name(
    arguments: argparse.Namespace, options: Mapping[str, Any], seed: int | None = None
) -> str:
    """Everything that was chosen; without a seed that of the figure."""
    words = [
        arguments.problem,
        f"{arguments.steps}steps",
        f"{arguments.batch}x{arguments.patch}",
        f"rate{arguments.learning_rate:g}",
    ]
    if arguments.dice_loss:
        words.append(f"dice{arguments.dice_loss:g}")
    if arguments.one_case:
        words.append("one_case")
    if options:
        words += ["isample", f"eps{arguments.epsilon:g}", arguments.draw]
        words.append(
            f"every{arguments.every_steps}x{arguments.cases_per_refresh}"
            if arguments.refresh_fraction is None
            else f"fraction{arguments.refresh_fraction:g}"
        )
    else:
        words.append("without")
    if seed is not None:
        words.append(f"seed{seed}")
    return "_".join(words)


# ----------------------------------------------------------------- what was found


def of_kind(log: Log, kind: str) -> Log:
    """Rows of one kind."""
    return [row for row in log if row["kind"] == kind]


def dice_curve(log: Log) -> list[float]:
    """Mean Dice of the structures at every eighth."""
    # None: nothing was predicted and nothing is there, which no held-out case has.
    return [row["mean"] or 0.0 for row in of_kind(log, "validation")]


def told(log: Log) -> str:
    """What a run is known by while the others are still to come."""
    refreshed = of_kind(log, "refresh")
    seconds = sum(row["seconds"] for row in refreshed)
    curve = ", ".join(f"{value:.3f}" for value in dice_curve(log))
    return f"Dice {curve}; {len(refreshed)} refreshes in {seconds:.0f} s"


def mean_and_deviation(values: Sequence[float]) -> str:
    """As it stands in a table."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{fmean(values):.3f} ({stdev(values):.3f})"


def print_dice(logs: Mapping[str, Sequence[Log]]) -> None:
    """Table 1: mean and deviation over seeds."""
    print(f"\n| Dice after | {' | '.join(STOPS)} |")
    print("|---" * (len(STOPS) + 1) + "|")
    for name, runs in logs.items():
        curves = [dice_curve(log) for log in runs]
        cells = [
            mean_and_deviation([curve[eighths - 1] for curve in curves])
            for eighths in STOPS.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    gains = [
        [
            adaptive[eighths - 1] - base[eighths - 1]
            for base, adaptive in zip(
                *(map(dice_curve, runs) for runs in logs.values()), strict=True
            )
        ]
        for eighths in STOPS.values()
    ]
    cells = [mean_and_deviation(values) for values in gains]
    print(f"| difference, seed by seed | {' | '.join(cells)} |")


def print_reached(logs: Mapping[str, Sequence[Log]]) -> None:
    """After which eighth isample is as good as the others are at their end."""
    base, adaptive = (
        np.mean([dice_curve(log) for log in runs], axis=0) for runs in logs.values()
    )
    # Dice may fall towards the end.
    for goal in sorted({float(base[-1]), float(base.max())}):
        reached = np.flatnonzero(adaptive >= goal)
        when = f"after {reached[0] + 1} eighths" if len(reached) else "never"
        print(f"\nmean Dice {goal:.3f} of those without is reached with isample {when}")


def print_structures(logs: Mapping[str, Sequence[Log]]) -> None:
    """Dice of every structure at the stops."""
    structures = list(of_kind(next(iter(logs.values()))[0], "validation")[0]["scores"])
    if len(structures) == 1:
        return
    print(f"\n| structure | | {' | '.join(STOPS)} |")
    print("|---" * (len(STOPS) + 2) + "|")
    for structure in structures:
        for name, runs in logs.items():
            validations = [of_kind(log, "validation") for log in runs]
            cells = [
                mean_and_deviation(
                    [rows[eighths - 1]["scores"][structure] for rows in validations]
                )
                for eighths in STOPS.values()
            ]
            print(f"| {structure} | {name} | {' | '.join(cells)} |")


def print_sampling(runs: Sequence[Log]) -> None:
    """How old maps were and how much was accepted, in each eighth of the training."""
    print("\n| eighth | map age in steps | acceptance | refreshes | mean error |")
    print("|---|---|---|---|---|")
    steps = [of_kind(log, "step") for log in runs]
    length = len(steps[0]) // 8
    for eighth in range(8):
        rows = [
            row
            for of_run in steps
            for row in of_run[eighth * length : (eighth + 1) * length]
        ]
        refreshes = [
            row
            for log in runs
            for row in of_kind(log, "refresh")
            if row["step"] // length == eighth
        ]
        errors = [
            case["mean_error"] for row in refreshes for case in row["cases"].values()
        ]
        print(
            f"| {eighth + 1} | {mean_of(rows, 'map_age_steps', '.0f')} | "
            f"{mean_of(rows, 'acceptance', '.3f')} | {len(refreshes)} | "
            f"{f'{fmean(errors):.4f}' if errors else ''} |"
        )


def mean_of(rows: Log, name: str, form: str) -> str:
    """Mean of those rows that have a value."""
    values = [row[name] for row in rows if name in row]
    return format(fmean(values), form) if values else ""


# ----------------------------------------------------------------------- figure


def draw(logs: Mapping[str, Sequence[Log]], path: Path, problem: str) -> None:
    """Figure 1: loss and Dice of both arms, every seed; and what isample looked at."""
    mpl.use("Agg")
    figure, (loss, dice, ages, accepted) = plt.subplots(
        1, 4, figsize=(15, 3.6), layout="constrained"
    )
    for name, runs in logs.items():
        for log in runs:
            draw_steps(loss, log, name, lambda row: row["loss"])
            rows = of_kind(log, "validation")
            dice.plot(
                [row["step"] for row in rows],
                dice_curve(log),
                color=COLOURS[name],
                alpha=0.5,
                marker="o",
                markersize=3,
            )
        steps = [row["step"] for row in of_kind(runs[0], "validation")]
        mean = np.mean([dice_curve(log) for log in runs], axis=0)
        dice.plot(steps, mean, color=COLOURS[name], linewidth=2.5, label=name)
    for log in logs["with isample"]:
        draw_steps(ages, log, "with isample", lambda row: row.get("map_age_steps"))
        draw_steps(accepted, log, "with isample", lambda row: row.get("acceptance"))
    loss.set(title="training loss, smoothed", yscale="log")
    dice.set(title="Dice of held-out cases", ylim=(0, 1))
    dice.legend()
    ages.set(title="mean age of error maps, steps")
    accepted.set(title="share of draws accepted", yscale="log")
    for axes in (loss, dice, ages, accepted):
        axes.set_xlabel("steps")
        axes.grid(alpha=0.3)
    figure.suptitle(f"{problem}, every seed")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_steps(
    axes: Axes,
    log: Log,
    name: str,
    value: Callable[[Mapping[str, Any]], float | None],
) -> None:
    """Something of every step, averaged over the steps before."""
    known = [
        (row["step"], found)
        for row in of_kind(log, "step")
        if (found := value(row)) is not None
    ]
    if not known:
        return
    steps, values = np.array(known, float).T
    width = min(SMOOTHED_STEPS, len(values))
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    axes.plot(steps[width - 1 :], means, color=COLOURS[name], alpha=0.7)


if __name__ == "__main__":
    main()
