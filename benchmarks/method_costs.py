"""What a step of every training method costs, beside a supervised one.

    python benchmarks/method_costs.py --out results

The same small U-Net, patches of the same hippocampi (8 of 160 labelled) and as many
labelled patches per step; a method's further patches are as many again, and those of
which the domain is to be told four. Each training is a process of its own; they take
turns, so that a machine that slows down slows all, and a ratio is taken within a turn.
Seconds are of whole steps, the median of those after the first few, waiting for patches
included; memory is the peak of the process.

A method is compared with supervised steps of as many labelled patches, and of as many
patches in all, which tells what the method costs beside looking at more patches.

Finished trainings are kept; the same command goes on.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from few_labels import NETWORK, labelled_table
from trainings import data_folder, trained, write_table

import foveal
from foveal.engine.log import read_log

WARM_UP = 5
"""Steps that are not counted."""

NUM_LABELLED = 8


class Row(NamedTuple):
    """A training to be timed."""

    options: Mapping[str, Any]
    as_many_patches: str
    """Row of the supervised training with as many patches per step in all."""


SUPERVISED = "supervised"
LABELLED_PATCHES: int = NETWORK["patches.batch_size"]


def supervised(num_patches: int) -> str:
    """Row of a supervised training with so many patches per step."""
    if num_patches == LABELLED_PATCHES:
        return SUPERVISED
    return f"{SUPERVISED}, {num_patches} patches"


TWICE = supervised(2 * LABELLED_PATCHES)
WITH_DOMAINS = supervised(LABELLED_PATCHES + 4)

ROWS: dict[str, Row] = {
    SUPERVISED: Row({}, SUPERVISED),
    TWICE: Row({"patches.batch_size": 2 * LABELLED_PATCHES}, TWICE),
    WITH_DOMAINS: Row({"patches.batch_size": LABELLED_PATCHES + 4}, WITH_DOMAINS),
    "pseudo_label, hard": Row({"method.name": "pseudo_label"}, TWICE),
    "pseudo_label, soft": Row(
        {"method.name": "pseudo_label", "method.labels": "soft"}, TWICE
    ),
    "consistency": Row({"method.name": "consistency"}, TWICE),
    "mean_teacher": Row({"method.name": "mean_teacher"}, TWICE),
    "cclp, 120 + 120 voxels": Row({"method.name": "cclp"}, TWICE),
    "cclp, 200 + 200 voxels": Row(
        {
            "method.name": "cclp",
            "method.labelled_voxels": 200,
            "method.unlabelled_voxels": 200,
        },
        TWICE,
    ),
    "cclp, 120 labelled voxels": Row(
        {"method.name": "cclp", "method.unlabelled_voxels": 0}, SUPERVISED
    ),
    "adversarial": Row(
        {
            "method.name": "adversarial",
            "method.batch_size": 4,
            "method.features": [16, 16],
            "method.alpha_max": 0.05,
        },
        WITH_DOMAINS,
    ),
}


def main() -> None:
    """Time all in turn and print the table."""
    arguments = parsed()
    plain = labelled_table(arguments, NUM_LABELLED, 0)
    of_domains = domain_table(arguments, plain)
    # Whatever is asked for is compared with these.
    names = [name for name in ROWS if ROWS[name].as_many_patches == name]
    names += [name for name in arguments.rows if name not in names]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(arguments.turns):
        for name in names:
            table = of_domains if name.startswith("adversarial") else plain
            found[name].append(timed(arguments, table, name, turn))
            print(f"turn {turn}, {name}: {found[name][-1]}", flush=True)
    print_table(found)


def parsed() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--steps", type=int, default=25, help="timed in each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def domain_table(arguments: argparse.Namespace, plain: Path) -> Path:
    """The same cases; every unlabelled one is said to be of another domain."""
    dataset = foveal.read_dataset(plain)
    return write_table(
        arguments.out / "domains.toml",
        data_folder("hippocampus"),
        [case.name for case in dataset.cases if case.split == "test"],
        changes={
            case.name: {"domain": "source"}
            if case.is_labelled
            else {"domain": "target", "label_map": None}
            for case in dataset.cases
        },
    )


def timed(
    arguments: argparse.Namespace, table: Path, name: str, turn: int
) -> dict[str, float]:
    """Seconds per step and peak gigabytes of a short training."""
    short = "".join(letter if letter.isalnum() else "_" for letter in name)
    options: dict[str, Any] = {
        "store": (arguments.out / "store").as_posix(),
        "splits.folds": 1,
        "training.steps": WARM_UP + arguments.steps,
        "training.threads": arguments.threads,
        **NETWORK,
        **ROWS[name].options,
    }
    if name.startswith("pseudo_label"):
        options["transfer.weights"] = teacher(arguments, table).as_posix()
    run = arguments.out / f"cost_{short}_{arguments.steps}_{turn}"
    record = trained(table, run, None, options)
    rows = [row for row in read_log(run / "log.jsonl") if row["kind"] == "step"]
    seconds = median(row["seconds"] + row["waited_seconds"] for row in rows[WARM_UP:])
    return {"seconds": seconds, "peak_gb": record["peak_gb"]}


def teacher(arguments: argparse.Namespace, table: Path) -> Path:
    """A training of a few steps, whose outlines serve as well for their price."""
    run = arguments.out / "cost_teacher"
    options: dict[str, Any] = {
        "store": (arguments.out / "store").as_posix(),
        "splits.folds": 1,
        "training.steps": 150,
        "training.threads": arguments.threads,
        **NETWORK,
    }
    trained(table, run, None, options)
    return run


def print_table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Medians over turns; ratios are taken within a turn."""
    print(
        "\n| method | s/step | times supervised | times that with as many patches | "
        "peak GB | more than supervised |\n|---|---|---|---|---|---|"
    )
    for name, turns in found.items():
        base, alike = found[SUPERVISED], found[ROWS[name].as_many_patches]
        memory = median(one["peak_gb"] for one in turns)
        more = memory - median(one["peak_gb"] for one in base)
        print(
            f"| {name} | {median(one['seconds'] for one in turns):.3f} | "
            f"{ratios(turns, base)} | {ratios(turns, alike)} | {memory:.2f} | "
            f"{more:+.2f} |"
        )


def ratios(
    turns: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]
) -> str:
    """Median over turns, and the lowest and highest."""
    found = [
        one["seconds"] / other["seconds"]
        for one, other in zip(turns, others, strict=True)
    ]
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


if __name__ == "__main__":
    main()
