"""What unlabelled scans are worth where few are labelled.

    python benchmarks/few_labels.py --out results
    python benchmarks/few_labels.py --out results --part runs --seeds 1

Of 200 hippocampi (Medical Segmentation Decathlon, Task04) 40, fixed by a hash of their
names, are only predicted at the end. Of the other 160 a few have outlines, drawn anew
for each seed, the fewer among the more; the rest are images without outlines. All runs
make the same number of steps with as many labelled patches each, with the same small
U-Net, optimiser, schedule and augmentation; no case is for validation, and the weights
of the last step predict. Options of the methods are their defaults: nothing was chosen
on these cases.

Pseudo-labels need a trained run first, which is `supervised`: half as many steps again
are made from its weights, the schedule beginning anew. `supervised continued` makes
these steps too, on labelled patches only, and is what pseudo-labels are compared with.
(Sharing the steps, half for a teacher, was tried: one of two teachers was too unsure to
label anything Posterior, and the method refused it.) `all labelled` has the outlines of
all 160.

Printed are Dice of both parts and of their union, the mean over seeds of the mean over
the 40 cases and its deviation over seeds; and each method against supervised training,
paired by case with seeds averaged first: mean difference, its bootstrap interval, in
how many cases it is better, and p of a two-sided signed-rank test, in brackets after
Holm's method for the tests of that number of labels and first method. It tells whether
these runs differ; how far other draws and seeds would agree is seen in the differences
per seed. `few_labels.png` in `--out` shows both.

The number format is fixed, as the fastest might be another from run to run. Whatever is
finished is kept; the same command goes on, and several may share a folder if they make
other runs (`--part runs` and other seeds or methods).
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from trainings import (
    data_folder,
    held_out_table,
    in_hashed_order,
    trained,
    write_table,
)

import foveal
from foveal.metrics.comparison import Difference, System, compare_systems
from foveal.metrics.evaluation import Evaluation, read_evaluation

mpl.use("Agg")

NUM_TEST = 40
NUM_OTHERS = 160
WHOLE = {"whole": [1, 2]}
"""What is measured beside the two parts."""

NETWORK: dict[str, Any] = {
    "network.features": [8, 16, 32, 64],
    "network.kernels": [[3, 3, 3]] * 4,
    "network.strides": [[2, 2, 2]] * 3,
    "patches.size": [32, 48, 32],
    "patches.batch_size": 2,
    "training.precision": "bfloat16",
    "training.memory_layout": "channels_last",
}
"""About 0.13 s for a supervised step on one core."""

SUPERVISED = "supervised"
CONTINUED = "supervised continued"
ALL_LABELLED = "all labelled"

METHODS: dict[str, dict[str, Any]] = {
    SUPERVISED: {},
    CONTINUED: {},
    "pseudo_label": {"method.name": "pseudo_label"},
    "consistency": {"method.name": "consistency"},
    "mean_teacher": {"method.name": "mean_teacher"},
    "cclp": {"method.name": "cclp"},
}
"""Row of the table to settings."""

GO_ON = (CONTINUED, "pseudo_label")
"""Those that begin with the weights of the supervised run."""


def main() -> None:
    """Make the runs, then print the tables and draw the figure."""
    arguments = parsed()
    if arguments.part in ("runs", "both"):
        make_runs(arguments)
    if arguments.part in ("tables", "both"):
        tables(arguments)


def parsed() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=["runs", "tables", "both"], default="both")
    parser.add_argument("--labels", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def make_runs(arguments: argparse.Namespace) -> None:
    """Train and measure everything that is not there, seed by seed."""
    for seed in arguments.seeds:
        for name in (ALL_LABELLED, *arguments.methods):
            for num_labelled in labels_of(name, arguments):
                found = result(arguments, name, num_labelled, seed)
                dice = ", ".join(
                    f"{structure} {found.mean(structure, 'dice'):.4f}"
                    for structure in found.structures
                )
                print(f"{name}, {num_labelled}, seed {seed}: {dice}", flush=True)


def labels_of(name: str, arguments: argparse.Namespace) -> Sequence[int]:
    """Numbers of labelled cases that a row of the table has."""
    return [NUM_OTHERS] if name == ALL_LABELLED else arguments.labels


# ---------------------------------------------------------------- training, testing


def result(
    arguments: argparse.Namespace, name: str, num_labelled: int, seed: int
) -> Evaluation:
    """Train and test once, or read what was found before."""
    run = run_folder(arguments, name, num_labelled, seed)
    record = run.with_name(run.name + "_tested.json")
    if record.exists():
        return read_evaluation(record)
    train(arguments, name, num_labelled, seed)
    tested = held_out_table("hippocampus", NUM_TEST, arguments.out)
    foveal.predict(
        [run],
        [case for case in foveal.read_dataset(tested).cases if case.split == "test"],
        run / "test",
        resume=(run / "test").exists(),
        threads=arguments.threads,
    )
    return foveal.evaluate(run / "test", tested, regions=WHOLE, output=record)


def train(
    arguments: argparse.Namespace, name: str, num_labelled: int, seed: int
) -> None:
    """Train a row of the table, and before what it goes on from."""
    table = labelled_table(arguments, num_labelled, seed)
    run = run_folder(arguments, name, num_labelled, seed)
    if name == ALL_LABELLED:
        train_once(arguments, table, run, seed, arguments.steps, {})
    elif name not in GO_ON:
        train_once(arguments, table, run, seed, arguments.steps, METHODS[name])
    else:
        train(arguments, SUPERVISED, num_labelled, seed)
        first = run_folder(arguments, SUPERVISED, num_labelled, seed)
        options = METHODS[name] | {"transfer.weights": first.as_posix()}
        # Other patches than the first run saw.
        train_once(arguments, table, run, seed + 100, arguments.steps // 2, options)


def train_once(
    arguments: argparse.Namespace,
    table: Path,
    run: Path,
    seed: int,
    steps: int,
    options: Mapping[str, Any],
) -> None:
    """Train, or go on, or find it trained."""
    trained(
        table,
        run,
        None,
        {
            "store": (arguments.out / "store").as_posix(),
            "splits.folds": 1,
            "training.seed": seed,
            "training.steps": steps,
            "training.threads": arguments.threads,
            **NETWORK,
            **options,
        },
    )


def run_folder(
    arguments: argparse.Namespace, name: str, num_labelled: int, seed: int
) -> Path:
    """Where a run is kept."""
    words = ["few_labels", *name.split(), num_labelled, arguments.steps, seed]
    return arguments.out / "_".join(map(str, words))


def labelled_table(arguments: argparse.Namespace, num_labelled: int, seed: int) -> Path:
    """The data set with so many labelled cases; fewer are among more."""
    folder = data_folder("hippocampus")
    names = in_hashed_order(case.name for case in foveal.read_dataset(folder).labelled)
    test, others = names[:NUM_TEST], names[NUM_TEST:]
    drawn = in_hashed_order(f"{seed} {name}" for name in others)
    without = {name.split(" ", 1)[1] for name in drawn[num_labelled:]}
    return write_table(
        arguments.out / f"labelled_{num_labelled}_{seed}.toml",
        folder,
        test,
        changes={name: {"label_map": None} for name in without},
    )


# ------------------------------------------------------------------- what was found


def tables(arguments: argparse.Namespace) -> None:
    """Print what was found in the runs, all of which must be there, and draw it."""
    bound = system(arguments, ALL_LABELLED, NUM_OTHERS)
    found = {
        num_labelled: [
            system(arguments, name, num_labelled) for name in arguments.methods
        ]
        for num_labelled in arguments.labels
    }
    structures = bound.evaluations[0].structures
    print(f"\n| labelled | method | {' | '.join(structures)} | whole per seed |")
    print("|---" * (len(structures) + 3) + "|")
    for num_labelled, systems in found.items():
        for one in systems:
            print_row(num_labelled, one, structures)
    print_row(NUM_OTHERS, bound, structures)
    compared = {
        count: [entry for group in groups_of(systems) for entry in tests(group)]
        for count, systems in found.items()
    }
    print_tests(compared)
    draw(arguments, found, bound, compared)


def system(arguments: argparse.Namespace, name: str, num_labelled: int) -> System:
    """A row of the table: an evaluation per seed."""
    return System(
        name,
        tuple(result(arguments, name, num_labelled, seed) for seed in arguments.seeds),
    )


def means(one: System, structure: str) -> list[float]:
    """Mean Dice over cases, per seed."""
    return [evaluation.mean(structure, "dice") for evaluation in one.evaluations]


def print_row(num_labelled: int, one: System, structures: Sequence[str]) -> None:
    """Mean and deviation over seeds."""
    cells = [told(means(one, structure)) for structure in structures]
    of_seeds = ", ".join(format(value, ".3f") for value in means(one, "whole"))
    print(f"| {num_labelled} | {one.name} | {' | '.join(cells)} | {of_seeds} |")


def told(values: Sequence[float]) -> str:
    """Mean ± deviation, if there are several."""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


class Test(NamedTuple):
    """A method against supervised training."""

    first: System
    second: System
    entry: Difference


def groups_of(systems: Sequence[System]) -> list[list[System]]:
    """Those that are compared, the supervised one first."""
    going_on = [one for one in systems if one.name in GO_ON]
    others = [one for one in systems if one.name not in GO_ON]
    return [
        sorted(group, key=lambda one: one.name not in (SUPERVISED, CONTINUED))
        for group in (others, going_on)
        if len(group) > 1
    ]


def tests(group: Sequence[System]) -> list[Test]:
    """Dice of all against the first, paired by case."""
    by_name = {one.name: one for one in group}
    return [
        Test(group[0], by_name[entry.system], entry)
        for entry in compare_systems(group, ["dice"]).differences
    ]


def print_tests(compared: Mapping[int, Sequence[Test]]) -> None:
    """A line per method and structure."""
    print(
        "\n| labelled | method | against | structure | difference (95 %) "
        "| better, worse | signed-rank p (Holm) | difference per seed |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for num_labelled, found in compared.items():
        for first, second, entry in found:
            low, high = entry.interval
            of_seeds = [
                f"{theirs - ours:+.3f}"
                for theirs, ours in zip(
                    means(second, entry.structure),
                    means(first, entry.structure),
                    strict=True,
                )
            ]
            print(
                f"| {num_labelled} | {second.name} | {first.name} | "
                f"{entry.structure} | "
                f"{entry.mean_difference:+.4f} ({low:+.4f}, {high:+.4f}) | "
                f"{entry.num_better}, {entry.num_worse} | "
                f"{entry.wilcoxon_p:.2g} ({entry.wilcoxon_p_holm:.2g}) | "
                f"{', '.join(of_seeds)} |"
            )


def draw(
    arguments: argparse.Namespace,
    found: Mapping[int, Sequence[System]],
    bound: System,
    compared: Mapping[int, Sequence[Test]],
) -> None:
    """Dice of the union against the number of labels; differences with intervals."""
    figure, (dice, difference) = plt.subplots(
        1, 2, figsize=(11, 4), layout="constrained"
    )
    counts = list(found)
    bound_mean = fmean(means(bound, "whole"))
    dice.axhline(bound_mean, color="grey", linestyle="--", linewidth=1)
    dice.text(counts[0], bound_mean, f"all {NUM_OTHERS} labelled", va="bottom")
    tested = {
        (count, test.second.name): test.entry
        for count, found_tests in compared.items()
        for test in found_tests
        if test.entry.structure == "whole"
    }
    for place, name in enumerate(arguments.methods):
        of_counts = [means(found[count][place], "whole") for count in counts]
        colour = f"C{place}"
        for count, values in zip(counts, of_counts, strict=True):
            dice.plot([count] * len(values), values, ".", color=colour, alpha=0.5)
        averages = [fmean(values) for values in of_counts]
        style = "--" if name in GO_ON else "-"
        dice.plot(counts, averages, style, color=colour, label=name)
        if (counts[0], name) not in tested:
            continue
        shift = (place - len(arguments.methods) / 2) / (len(arguments.methods) + 2)
        entries = [tested[count, name] for count in counts]
        difference.errorbar(
            [at + shift for at in range(len(counts))],
            [entry.mean_difference for entry in entries],
            [
                [entry.mean_difference - entry.interval[0] for entry in entries],
                [entry.interval[1] - entry.mean_difference for entry in entries],
            ],
            fmt="o",
            capsize=3,
            color=colour,
            label=name,
        )
    for axes in (dice, difference):
        axes.grid(alpha=0.3)
        axes.set_xlabel("labelled cases")
    dice.set_xscale("log", base=2)
    dice.set_xticks(counts, [str(count) for count in counts])
    dice.set_ylabel("Dice of the whole hippocampus")
    dice.legend(loc="lower right", fontsize=8)
    difference.axhline(0, color="grey", linewidth=1)
    difference.set_xticks(range(len(counts)), [str(count) for count in counts])
    difference.set_ylabel("Dice less that of supervised training, 95 %")
    difference.legend(fontsize=8)
    figure.suptitle(
        f"hippocampus, {NUM_TEST} test cases, {arguments.steps} steps; "
        f"dots: seeds {', '.join(map(str, arguments.seeds))}"
    )
    figure.savefig(arguments.out / "few_labels.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
