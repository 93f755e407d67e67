"""What a step of every training method costs, beside a supervised one.

    python benchmarks/method_costs.py --out results

The same small U-Net, patches of the same hippocampi (8 of 160 labelled) and as many
labelled patches per step; a method's further patches are as many again, and those of
which the domain is to be told four. Each training is a process of its own; they take
turns, so that a machine that slows down slows all, and a ratio is taken within a turn.
Seconds are the processor's for whole steps, reading and augmentation of patches
included, the median of those after the first few: other programs change them less than
the time that passes. Memory is the peak of the process.

A method is compared with supervised steps of as many labelled patches, and of as many
patches in all, which tells what the method costs beside looking at more patches.

Finished trainings are kept; the same command goes on.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from few_labels import NETWORK, labelled_table
from trainings import data_folder, toml_value, trained, write_table

import foveal
from foveal.commands.fit import Watcher

WARM_UP = 5
"""Steps that are not counted."""

NUM_LABELLED = 8
TEACHER_STEPS = 150


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
    if arguments.inner:
        print("RESULT " + json.dumps(timed(arguments)))
        return
    # Whatever is asked for is compared with these.
    names = [name for name in ROWS if ROWS[name].as_many_patches == name]
    names += [name for name in arguments.rows if name not in names]
    teacher(arguments)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(arguments.turns):
        for name in names:
            found[name].append(result(arguments, name, turn))
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
    parser.add_argument("--inner", choices=ROWS, help=argparse.SUPPRESS)
    return parser.parse_args()


def result(arguments: argparse.Namespace, name: str, turn: int) -> dict[str, float]:
    """Time a training in a process of its own, or read what was found before."""
    short = "".join(letter if letter.isalnum() else "_" for letter in name)
    record = arguments.out / f"cost_{short}_{arguments.steps}_{turn}.json"
    if not record.exists():
        answer = subprocess.run(
            [
                sys.executable,
                __file__,
                "--out",
                str(arguments.out),
                "--steps",
                str(arguments.steps),
                "--threads",
                str(arguments.threads),
                "--inner",
                name,
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = answer.stdout.splitlines()
        line = next(line for line in lines if line.startswith("RESULT "))
        record.write_text(line.removeprefix("RESULT "))
    return json.loads(record.read_text())


def timed(arguments: argparse.Namespace) -> dict[str, float]:
    """Processor seconds per step and peak gigabytes of a short training."""
    import resource

    options = common_options(arguments) | ROWS[arguments.inner].options
    if arguments.inner.startswith("pseudo_label"):
        options["transfer.weights"] = teacher(arguments).as_posix()
    seconds: list[float] = []
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        foveal.train(
            labelled_table(arguments, NUM_LABELLED, 0)
            if not arguments.inner.startswith("adversarial")
            else domain_table(arguments),
            Path(folder) / "run",
            steps=WARM_UP + arguments.steps,
            options=[f"{key}={toml_value(value)}" for key, value in options.items()],
            watcher=Watcher(on_step=lambda _: seconds.append(time.process_time())),
        )
    return {
        "seconds": median(np.diff(seconds)[WARM_UP - 1 :].tolist()),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def common_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings of all trainings."""
    return {
        "store": (arguments.out / "store").as_posix(),
        "splits.folds": 1,
        "training.threads": arguments.threads,
        **NETWORK,
    }


def domain_table(arguments: argparse.Namespace) -> Path:
    """The same cases; every unlabelled one is said to be of another domain."""
    dataset = foveal.read_dataset(labelled_table(arguments, NUM_LABELLED, 0))
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


def teacher(arguments: argparse.Namespace) -> Path:
    """A training of few steps, whose outlines cost as much as better ones."""
    run = arguments.out / "cost_teacher"
    table = labelled_table(arguments, NUM_LABELLED, 0)
    options = {"training.steps": TEACHER_STEPS}
    trained(table, run, None, common_options(arguments) | options)
    return run


def print_table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Medians over turns; ratios are taken within a turn."""
    print(
        "\n| method | CPU s/step | times supervised | times that, as many patches | "
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
