"""Cases of a data set that a fold trains on, stream by stream, and validates on."""

from collections.abc import Sequence

from foveal.case import CaseFiles, Dataset
from foveal.methods.interface import Method, Stream
from foveal.planning.splits import Fold

DOMAIN_STREAMS = ("source", "target")
"""Streams whose cases are chosen by domain."""


def files_of_streams(
    method: Method, dataset: Dataset, division: Fold
) -> dict[str, tuple[CaseFiles, ...]]:
    """Cases to train on, by the names that a method's streams use.

    Patients of whom nothing is outlined are trained on in every fold.

    Raises:
        SettingsError: A stream has no case; says what it needs.
    """
    labelled = cases_of(dataset, division.train)
    kept_apart = {*division.validation, *division.test}
    others = [
        case
        for case in dataset.cases
        if not case.is_labelled
        and case.patient not in kept_apart
        and case.split in (None, "train")
    ]
    image_labelled = [case for case in others if case.present is not None]
    known = {
        "labelled": labelled,
        "image_labelled": (*labelled, *image_labelled),
        "unlabelled": tuple(others),
    }
    found: dict[str, tuple[CaseFiles, ...]] = {}
    for stream in method.streams.values():
        found[stream.cases] = (
            of_domains(stream, labelled, others)
            if stream.cases in DOMAIN_STREAMS
            else known[stream.cases]
        )
    return found


def of_domains(
    stream: Stream, labelled: Sequence[CaseFiles], others: Sequence[CaseFiles]
) -> tuple[CaseFiles, ...]:
    """Cases of a stream's domains, whether outlined or not."""
    everyone = (*labelled, *others)
    outlined = {case.domain for case in labelled}
    if stream.domains:
        return tuple(case for case in everyone if case.domain in stream.domains)
    is_source = stream.cases == "source"
    return tuple(case for case in everyone if (case.domain in outlined) == is_source)


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
