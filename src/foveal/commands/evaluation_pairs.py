"""Which prediction is measured against which reference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from foveal.case import CaseFiles, Dataset
from foveal.commands.out_of_fold import (
    OutOfFold,
    dataset_of,
    find_out_of_fold,
    listed,
    notes_on_coverage,
)
from foveal.config import read_plan
from foveal.engine.run_directory import is_run
from foveal.errors import DatasetError
from foveal.io.datasets import read_dataset
from foveal.io.segmentations import segmentations_in
from foveal.io.volumes import case_stem, is_volume


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
        found = find_out_of_fold(predictions)
        if not found.predictions:
            raise DatasetError(
                f"{predictions} has no validation predictions yet; they are made when "
                "training ends. If it was stopped, go on with foveal train --resume"
            )
        return _match_runs(predictions, found, references)
    if references is None:
        raise DatasetError(
            f"{predictions} is no run, so its references are not known; give them: "
            "foveal evaluate PREDICTIONS REFERENCES"
        )
    if references.is_file() and is_volume(references):
        return _match_files(predictions, references)
    predicted = segmentations_in(predictions)
    if _holds_segmentations(references, predicted):
        return _match_folders(predictions, predicted, references)
    return _match_dataset(predicted, references)


def _holds_runs(path: Path) -> bool:
    return path.is_dir() and (
        is_run(path) or any(is_run(folder) for folder in path.iterdir())
    )


def _holds_segmentations(references: Path, predicted: Iterable[str]) -> bool:
    """Whether a path is a folder of label maps or of masks, rather than a data set."""
    return references.is_dir() and (
        any(is_volume(path) for path in references.iterdir())
        or any((references / case).is_dir() for case in predicted)
    )


def _match_runs(path: Path, found: OutOfFold, references: Path | None) -> Matched:
    """Find the reference of each case that a run left out."""
    labels = read_plan(found.runs[0].plan).labels.structure_values
    if references is not None and _holds_segmentations(references, found.predictions):
        matched = _match_folders(path, found.predictions, references)
        return replace(matched, prediction_labels=labels)
    root = dataset_of(found.runs) if references is None else references
    dataset = read_dataset(root)
    notes = notes_on_coverage(found, dataset)
    matched = _match_cases(found.predictions, dataset, root)
    return replace(matched, prediction_labels=labels, notes=tuple(notes))


def _match_files(prediction: Path, reference: Path) -> Matched:
    """Pair two files, whatever their names."""
    if prediction.is_dir():
        raise DatasetError(
            f"predictions {prediction} is a folder but references {reference} is one "
            "file; give two folders, two files, or a data set as references"
        )
    return Matched((Pair(case_stem(prediction), prediction, reference),))


def _match_folders(
    predictions: Path, predicted: Mapping[str, Path], references: Path
) -> Matched:
    """Pair two folders by case; both must hold the same cases."""
    expected = segmentations_in(references)
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


def _match_dataset(predicted: Mapping[str, Path], references: Path) -> Matched:
    """Find the reference of each prediction in a data set."""
    return _match_cases(predicted, read_dataset(references), references)


def _match_cases(
    predicted: Mapping[str, Path], dataset: Dataset, root: Path
) -> Matched:
    by_name = {case.name: case for case in dataset.labelled}
    without_reference = sorted(predicted.keys() - by_name.keys())
    if without_reference:
        raise DatasetError(
            f"data set {root} has no labelled case for the predictions "
            f"{listed(without_reference)}; a prediction must have the name of its case"
        )
    pairs = [Pair(case, predicted[case], by_name[case]) for case in sorted(predicted)]
    return Matched(tuple(pairs), dataset)
