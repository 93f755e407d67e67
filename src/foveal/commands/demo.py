"""The whole chain on made-up scans: what Foveal does, in minutes and without data."""

import time
from dataclasses import dataclass
from pathlib import Path

from foveal.commands.check import check
from foveal.commands.evaluate import evaluate
from foveal.commands.fit import Watcher
from foveal.commands.predict import predict
from foveal.commands.report import report
from foveal.commands.train import train
from foveal.demo_data.abdomen import write_abdomens
from foveal.errors import DatasetError

NUM_CASES = 12
SEED = 0
BUDGET_SECONDS = 90.0
"""Of training; the rest of the chain takes about as long again on two cores."""


@dataclass(frozen=True)
class Demonstration:
    """What the demo leaves behind."""

    dice: dict[str, float]
    """Structure to mean Dice on scans that training never saw."""

    report: Path
    run: Path
    predictions: Path
    seconds: float


def demo(
    out: Path | str,
    *,
    budget_seconds: float = BUDGET_SECONDS,
    watcher: Watcher | None = None,
) -> Demonstration:
    """Make scans, check, plan, train, predict, evaluate and report.

    Args:
        out: Folder to be made.
        budget_seconds: Of training.
        watcher: Told of progress.

    Raises:
        DatasetError: ``out`` already holds something, or the made-up scans fail the
            check, which would be a fault of Foveal.
    """
    watcher = watcher or Watcher()
    out = Path(out)
    start = time.perf_counter()
    watcher.on_stage("making abdominal CT scans (foveal demo)")
    dataset = write_abdomens(out / "dataset", NUM_CASES, SEED, watcher.on_cases)
    watcher.on_stage(f"checking them (foveal check {dataset})")
    audit = check(dataset, watcher.on_cases)
    if audit.num_errors:
        raise DatasetError(f"the made-up scans have {audit.num_errors} errors")
    run = out / "run"
    watcher.on_stage(f"training (foveal train {dataset} --out {run})")
    train(
        dataset,
        run,
        budget_seconds=budget_seconds,
        options=[f'store="{(out / "store").as_posix()}"'],
        watcher=watcher,
    )
    predictions = out / "predictions"
    watcher.on_stage(
        f"predicting new scans (foveal predict {run} {dataset / 'imagesTs'} "
        f"{predictions})"
    )
    predict([run], dataset / "imagesTs", predictions, on_progress=watcher.on_cases)
    watcher.on_stage(
        f"measuring them (foveal evaluate {predictions} {dataset / 'labelsTs'})"
    )
    structures = audit.dataset.label_values
    evaluation = evaluate(
        predictions,
        dataset / "labelsTs",
        labels=structures,
        output=out / "metrics.json",
    )
    page = report(run)
    return Demonstration(
        dice={name: evaluation.mean(name, "dice") for name in structures},
        report=page,
        run=run,
        predictions=predictions,
        seconds=time.perf_counter() - start,
    )
