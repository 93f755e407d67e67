"""Dice on held-out hippocampi after minutes of training on a laptop's processor.

200 cases (Medical Segmentation Decathlon, Task04), 40 of them, fixed by a hash of their
names, are only predicted at the end; nothing may be chosen on them. To choose, use
``--fold K``, which trains on four fifths of the other 160 and scores the rest.

    python benchmarks/hippocampus.py --out results
    python benchmarks/hippocampus.py --out trial --fold 0 --budgets 60 --seeds 0 \
        --set patches.batch_size=2

Every training that is finished is kept in ``--out``; the same command goes on.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean

from trainings import held_out_table

import foveal
from foveal.engine.log import read_log

NUM_TEST = 40
TARGETS = {60: 0.84, 120: 0.86, 300: 0.875, 600: 0.885}


def main() -> None:
    """Train every seed at every budget, predict, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(TARGETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fold", type=int, help="score a fold of the 160 instead")
    parser.add_argument("--set", dest="options", action="append", default=[])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = held_out_table("hippocampus", NUM_TEST, arguments.out)
    for budget in arguments.budgets:
        scores = []
        for seed in arguments.seeds:
            record = result(table, budget, seed, arguments)
            scores.append(record["mean_dice"])
            print(
                f"{budget} s, seed {seed}: Dice {record['mean_dice']:.4f} "
                f"({record['steps']} steps, {record['training_seconds']:.0f} s)",
                flush=True,
            )
        target = f", target {TARGETS[budget]}" if budget in TARGETS else ""
        print(f"{budget} s: mean Dice {fmean(scores):.4f}{target}", flush=True)


def result(
    table: Path, budget: int, seed: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Train and score once, or read what was found before."""
    path = arguments.out / f"budget{budget}_seed{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    folds = (
        ["splits.folds=1"]
        if arguments.fold is None
        else ["splits.folds=5", f"splits.fold={arguments.fold}"]
    )
    # A name of its own, so that a training that was cut off is never mistaken.
    run = arguments.out / f"run_{budget}_{seed}_{int(time.time())}"
    foveal.train(
        table,
        run,
        budget_seconds=budget,
        options=[
            f"training.seed={seed}",
            f'store="{(arguments.out / "store").as_posix()}"',
            *folds,
            *arguments.options,
        ],
    )
    if arguments.fold is None:
        foveal.predict([run], test_cases(table), run / "test")
        measured = foveal.evaluate(run / "test", table)
    else:
        measured = foveal.evaluate(run / "validation", table)
    rows = [row for row in read_log(run / "log.jsonl") if row["kind"] == "step"]
    record = {
        "mean_dice": fmean(
            measured.mean(name, "dice") for name in ("Anterior", "Posterior")
        ),
        "steps": len(rows),
        "training_seconds": sum(row["seconds"] + row["waited_seconds"] for row in rows),
    }
    path.write_text(json.dumps(record))
    return record


def test_cases(table: Path) -> list:
    """The 40."""
    return [case for case in foveal.read_dataset(table).cases if case.split == "test"]


if __name__ == "__main__":
    main()
