"""Cases of a data set that a fold trains on, stream by stream, and validates on."""

from collections.abc import Sequence

from foveal.case import CaseFiles, Dataset
from foveal.methods.interface import Method
from foveal.planning.splits import Fold


def files_of_streams(
    method: Method, dataset: Dataset, division: Fold
) -> dict[str, tuple[CaseFiles, ...]]:
    """Cases to train on, by the names that a method's streams use.

    Patients of whom nothing is outlined are trained on in every fold.
    """
    labelled = cases_of(dataset, division.train)
    kept_apart = {*division.validation, *division.test}
    image_labelled = [
        case
        for case in dataset.image_labelled
        if case.patient not in kept_apart and case.split in (None, "train")
    ]
    known = {"labelled": labelled, "image_labelled": (*labelled, *image_labelled)}
    return {stream.cases: known[stream.cases] for stream in method.streams.values()}


def held_out_files(
    task: str, dataset: Dataset, division: Fold
) -> tuple[CaseFiles, ...]:
    """Cases to validate on.

    A classifier is validated on images that nobody outlined too, if their patient is
    validated or the data set says so.
    """
    labelled = cases_of(dataset, division.validation)
    if task != "classification":
        return labelled
    known_otherwise = {*division.train, *division.test}
    shown = [
        case
        for case in dataset.image_labelled
        if (case.patient in division.validation and case.split != "test")
        or (case.split == "validation" and case.patient not in known_otherwise)
    ]
    return (*labelled, *shown)


def cases_of(dataset: Dataset, patients: Sequence[str]) -> tuple[CaseFiles, ...]:
    """Labelled cases of some patients, in the data set's order."""
    wanted = set(patients)
    return tuple(case for case in dataset.labelled if case.patient in wanted)
