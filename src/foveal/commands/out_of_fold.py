"""What the runs of a cross-validation predicted, each case by the run that left it out.

The validation predictions of one run are the same thing with a single part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foveal.case import Dataset
from foveal.engine.run_directory import RunDirectory, find_runs
from foveal.errors import EvaluationError, RunError, listed
from foveal.io.segmentations import found_segmentations
from foveal.metrics.evaluation import Evaluation, joined, read_evaluation
from foveal.planning.splits import Fold, read_splits
from foveal.settings_files import read_settings


@dataclass(frozen=True)
class OutOfFold:
    """Validation predictions of one run or several."""

    runs: tuple[RunDirectory, ...]

    predictions: dict[str, Path]
    """Case to its predicted label map, or folder of masks."""

    run_of: dict[str, RunDirectory]
    """Case to the run that predicted it."""


def find_out_of_fold(path: Path) -> OutOfFold:
    """Gather the validation predictions of a run, or of every run in a folder.

    Raises:
        RunError: ``path`` holds no run.
        EvaluationError: Several runs predicted the same case.
    """
    runs = find_runs(path)
    predictions: dict[str, Path] = {}
    run_of: dict[str, RunDirectory] = {}
    for run in runs:
        for case, file in validation_predictions(run).items():
            if case in run_of:
                raise EvaluationError(
                    f"case {case} was predicted by {run_of[case].path.name} and by "
                    f"{run.path.name}; out of fold, every case is predicted by one run "
                    "only. Give one of the runs, or a folder with one run per fold"
                )
            predictions[case], run_of[case] = file, run
    return OutOfFold(runs, predictions, run_of)


def validation_predictions(run: RunDirectory) -> dict[str, Path]:
    """Case to its predicted label map or folder of masks; empty before validation."""
    return found_segmentations(run.validation) if run.validation.is_dir() else {}


def measured_out_of_fold(runs: Sequence[RunDirectory]) -> Evaluation | None:
    """What the runs measured in their validation cases; ``None`` if nothing yet.

    Raises:
        EvaluationError: Several runs measured the same case, or a file is damaged.
    """
    measured = {
        run.path.name: read_evaluation(run.metrics)
        for run in runs
        if run.metrics.exists()
    }
    return joined(measured) if measured else None


def read_measured(source: Path) -> Evaluation:
    """What a file holds, or a run or all runs of a folder measured.

    Args:
        source: A ``metrics.json``, a run, or a folder of runs.

    Raises:
        EvaluationError: It is absent, damaged, or nothing was measured yet.
        RunError: The folder holds no run.
    """
    if not source.is_dir():
        return read_evaluation(source)
    measured = measured_out_of_fold(find_runs(source))
    if measured is None:
        raise EvaluationError(
            f"the runs in {source} have measured no validation case yet; let them "
            "finish, or give a metrics.json"
        )
    return measured


def division(run: RunDirectory) -> Fold:
    """Patients that a run trains on, validates on and never reads."""
    settings, _ = read_settings(run.settings)
    return read_splits(run.splits).folds[settings.splits.fold]


def dataset_of(runs: Sequence[RunDirectory]) -> Path:
    """The data set that all the runs were trained on.

    Raises:
        RunError: They were trained on several, or their settings name none.
    """
    paths = {read_settings(run.settings)[0].dataset for run in runs}
    if len(paths) > 1:
        named = ", ".join(sorted(str(path) for path in paths))
        raise RunError(
            f"the runs were trained on different data sets ({named}); give REFERENCES, "
            "or a folder with the runs of one"
        )
    (path,) = paths
    if path is None:
        raise RunError("the settings of the runs name no data set; give REFERENCES")
    return path


def notes_on_coverage(found: OutOfFold, dataset: Dataset) -> list[str]:
    """Say which cases should have been predicted and were not.

    Raises:
        EvaluationError: A run predicted a case that it did not leave out.
    """
    patient_of = {case.name: case.patient for case in dataset.labelled}
    validated_by = {run.path: set(division(run).validation) for run in found.runs}
    for case, run in found.run_of.items():
        if case in patient_of and patient_of[case] not in validated_by[run.path]:
            raise EvaluationError(
                f"{found.predictions[case]} is no validation case of its run, so its "
                "score would not be out of fold; remove the file, and keep "
                "predictions of other cases elsewhere"
            )
    if len(found.runs) == 1:
        patients = validated_by[found.runs[0].path]
        expected = [name for name, patient in patient_of.items() if patient in patients]
    else:
        expected = [case.name for case in dataset.labelled if case.split != "test"]
    missing = [name for name in expected if name not in found.predictions]
    if not missing:
        return []
    count = f"{len(missing)} of {len(expected)} cases"
    note = (
        f"{count} have no prediction and are not measured: {listed(missing)}. "
        "Unfinished runs go on with foveal train --resume."
    )
    return [note]
