"""Which prediction is measured against which reference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from foveal.case import CaseFiles, Dataset
from foveal.commands.out_of_fold import (
    dataset_of,
    find_out_of_fold,
    notes_on_coverage,
)
from foveal.engine.run_directory import is_run
from foveal.errors import DatasetError, listed
from foveal.io.datasets import read_dataset
from foveal.io.folders import holds_volumes
from foveal.io.segmentations import segmentations_in
from foveal.io.volumes import case_stem, is_volume
from foveal.settings_files import read_plan


@dataclass(frozen=True)
class Pair:
    """A prediction and the reference to measure it against.

    Each is the file of a label map, or a folder that holds one mask per structure.
    """

    case: str
    prediction: Path

    reference: Path | CaseFiles
    """As its data set lists it, if there is one."""


@dataclass(frozen=True)
class Matched:
    """Every pair, and what is known about labels."""

    pairs: tuple[Pair, ...]

    dataset: Dataset | None = None
    """Of the references."""

    prediction_labels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Structure to its values in the label maps that runs have predicted."""

    notes: tuple[str, ...] = ()


def find_pairs(predictions: Path, references: Path | None) -> Matched:
    """Find what belongs together; see `foveal.evaluate` for the forms.

    Raises:
        DatasetError: There is nothing to measure, or the cases do not match.
        EvaluationError: Several runs predicted the same case.
    """
    for path in (predictions, references):
        if path is not None and not path.exists():
            raise DatasetError(f"{path} does not exist; correct the path")
    if _holds_runs(predictions):
        return _match_runs(predictions, references)
    if references is None:
        raise DatasetError(
            f"{predictions} is no run, so its references are not known; give them: "
            "foveal evaluate PREDICTIONS REFERENCES"
        )
    if references.is_file() and is_volume(references):
        return _match_files(predictions, references)
    predicted = segmentations_in(predictions)
    expected = _references(references, predicted)
    if isinstance(expected, Dataset):
        return _match_dataset(predicted, expected, references)
    return _match_folders(predictions, predicted, references, expected)


def _holds_runs(path: Path) -> bool:
    return path.is_dir() and (
        is_run(path) or any(is_run(folder) for folder in path.iterdir())
    )


def _references(path: Path, predicted: Iterable[str]) -> Dataset | dict[str, Path]:
    """A data set, or case to its label map or folder of masks."""
    if path.is_dir() and holds_volumes(path):
        return segmentations_in(path)
    try:
        return read_dataset(path)
    except DatasetError:
        if any((path / case).is_dir() for case in predicted):
            return segmentations_in(path)
        raise


def _match_runs(path: Path, references: Path | None) -> Matched:
    """Find the reference of each case that a run left out."""
    found = find_out_of_fold(path)
    if not found.predictions:
        raise DatasetError(
            f"{path} has no validation predictions yet; they are made when training "
            "ends. If it was stopped, go on with foveal train --resume"
        )
    references = references or dataset_of(found.runs)
    expected = _references(references, found.predictions)
    notes: list[str] = []
    if isinstance(expected, Dataset):
        notes = notes_on_coverage(found, expected)
        matched = _match_dataset(found.predictions, expected, references)
    else:
        matched = _match_folders(path, found.predictions, references, expected)
    labels: Mapping[str, Sequence[int]] = {}
    if all(path.is_file() for path in found.predictions.values()):
        labels = read_plan(found.runs[0].plan).labels.structure_values
    return replace(matched, prediction_labels=labels, notes=(*matched.notes, *notes))


def _match_files(prediction: Path, reference: Path) -> Matched:
    """Pair two files, whatever their names."""
    if prediction.is_dir():
        raise DatasetError(
            f"predictions {prediction} is a folder but references {reference} is one "
            "file; give two folders, two files, or a data set as references"
        )
    return Matched((Pair(case_stem(prediction), prediction, reference),))


def _match_folders(
    predictions: Path,
    predicted: Mapping[str, Path],
    references: Path,
    expected: Mapping[str, Path],
) -> Matched:
    """Pair two folders by case; both must hold the same cases."""
    without_reference = sorted(predicted.keys() - expected.keys())
    without_prediction = sorted(expected.keys() - predicted.keys())
    if without_reference:
        raise DatasetError(
            f"no reference in {references} for {listed(without_reference)}"
            + f"; no prediction for {listed(without_prediction)}"
            * bool(without_prediction)
            + "; a prediction must have the same name as its reference"
        )
    if without_prediction:
        raise DatasetError(
            f"every prediction has a reference, but there is no prediction in "
            f"{predictions} for {listed(without_prediction)}; predict these cases, or "
            "to measure only some, give a data set or a folder of theirs as references"
        )
    return Matched(
        tuple(Pair(case, predicted[case], expected[case]) for case in sorted(predicted))
    )


def _match_dataset(
    predicted: Mapping[str, Path], dataset: Dataset, root: Path
) -> Matched:
    """Find the reference of each prediction in a data set.

    A case that the data set excludes is left out, with its reason in the notes.
    """
    by_name = {case.name: case for case in dataset.labelled}
    excluded = {
        case.name: case.reason for case in dataset.excluded if case.name in predicted
    }
    measured = sorted(predicted.keys() - excluded.keys())
    without_reference = sorted(set(measured) - by_name.keys())
    if without_reference:
        raise DatasetError(
            f"data set {root} has no labelled case for the predictions "
            f"{listed(without_reference)}; a prediction must have the name of its case"
        )
    if not measured:
        raise DatasetError(
            f"data set {root} excludes all predicted cases: "
            f"{listed(sorted(excluded))}; give predictions of other cases, or take "
            "the exclusion out"
        )
    pairs = [Pair(case, predicted[case], by_name[case]) for case in measured]
    notes = tuple(
        f"Case {case} is not measured, as the data set excludes it: {reason}."
        for case, reason in excluded.items()
    )
    return Matched(tuple(pairs), dataset, notes=notes)
