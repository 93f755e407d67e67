"""Cases of a data set that a fold trains on, stream by stream, and validates on."""

from collections import Counter
from collections.abc import Mapping, Sequence

from foveal.case import CaseFiles, Dataset
from foveal.errors import SettingsError, listed
from foveal.methods.interface import Method
from foveal.planning.splits import Fold

DOMAIN_STREAMS = ("source", "target")
"""Streams whose cases are chosen by domain."""

WHERE = "docs/unlabelled.md"


def files_of_streams(
    method: Method, dataset: Dataset, division: Fold
) -> dict[str, tuple[CaseFiles, ...]]:
    """Cases to train on, by the names that a method's streams use.

    Patients of whom nothing is outlined are trained on in every fold.

    Raises:
        SettingsError: A stream has no case, or its domain is not known; says what is
            there and what it needs.
    """
    labelled = cases_of(dataset, division.train)
    kept_apart = {*division.validation, *division.test}
    others = tuple(
        case for case in dataset.unlabelled if case.patient not in kept_apart
    )
    image_labelled = [case for case in others if case.present is not None]
    known = {
        "labelled": labelled,
        "image_labelled": (*labelled, *image_labelled),
        "unlabelled": others,
    }
    wanted = [stream.cases for stream in method.streams.values()]
    if "unlabelled" in wanted and not others:
        raise SettingsError(_without_unlabelled(dataset))
    if any(cases in DOMAIN_STREAMS for cases in wanted):
        everyone = (*labelled, *others)
        domains = _domains_of_streams(
            {stream.cases: stream.domains for stream in method.streams.values()},
            labelled,
            everyone,
        )
        known |= {
            cases: tuple(case for case in everyone if case.domain in found)
            for cases, found in domains.items()
        }
    return {cases: known[cases] for cases in wanted}


def _without_unlabelled(dataset: Dataset) -> str:
    """Why there is no unlabelled case, and what to do."""
    num_others = len(dataset.unlabelled)
    if num_others:
        return (
            f"the method learns from unlabelled cases, but all {num_others} of the "
            "data set are of patients who are validated or tested; add scans of "
            f"others ({WHERE})"
        )
    return (
        f"the method learns from unlabelled cases, but all {len(dataset.cases)} cases "
        "of the data set are labelled or for the test; put images without label maps "
        "into a folder imagesUn, or list them in a table without a label_map "
        f"({WHERE})"
    )


def _domains_of_streams(
    named: Mapping[str, Sequence[str]],
    labelled: Sequence[CaseFiles],
    everyone: Sequence[CaseFiles],
) -> dict[str, set[str]]:
    """Domains of the streams "source" and "target".

    Unless they are named, the source is what is outlined, and the target all others.

    Args:
        named: By the settings; nothing for a stream that names none.
        labelled: Cases to train on that are outlined.
        everyone: These and the others to train on.
    """
    counts = Counter(case.domain for case in everyone if case.domain is not None)
    _require_two_domains(counts, len(everyone))
    source, target = (set(named.get(stream, ())) for stream in DOMAIN_STREAMS)
    for stream, domains in (("source", source), ("target", target)):
        for domain in sorted(domains - counts.keys()):
            raise SettingsError(
                f'method.{stream} names the domain "{domain}", of which there is no '
                f"case to train on; there are {_domain_words(labelled, everyone)}"
            )
    if source & target:
        raise SettingsError(
            f'method.source and method.target both name "{min(source & target)}"; a '
            f"domain is one or the other, and there are "
            f"{_domain_words(labelled, everyone)}"
        )
    unknown = [case.name for case in everyone if case.domain is None]
    if unknown and not (source and target):
        raise SettingsError(
            f"case {unknown[0]} has no domain ({len(unknown)} such cases), so it is "
            "neither of the source nor of the target; write its domain into the "
            "column domain, or name the domains in method.source and method.target"
        )
    outlined = {case.domain for case in labelled if case.domain is not None}
    source = source or outlined - target
    target = target or counts.keys() - source
    for stream, domains, other in (
        ("source", source, "target"),
        ("target", target, "source"),
    ):
        if not domains:
            raise SettingsError(
                f"no domain is left as method.{stream}: unless they are named, the "
                "source is every domain with a labelled case to train on and the "
                f"target all others; there are {_domain_words(labelled, everyone)}. "
                f"Name method.{stream} and method.{other}"
            )
    return {"source": source, "target": target}


def _require_two_domains(counts: Mapping[str, int], num_cases: int) -> None:
    """Refuse what lies on one side only."""
    if len(counts) > 1:
        return
    found = "its cases to train on have no domain"
    if counts:
        ((domain, count),) = counts.items()
        found = f'{count} of its {num_cases} cases to train on are of "{domain}"'
        if count < num_cases:
            found += " and the others of none"
    raise SettingsError(
        "the method brings two domains together, but the data set names "
        f"{len(counts)}: {found}; write the scanner or site of every case into the "
        f'column domain of a table, or as "domain" into dataset.json ({WHERE})'
    )


def _domain_words(labelled: Sequence[CaseFiles], everyone: Sequence[CaseFiles]) -> str:
    """Domains with their numbers of cases."""
    outlined = Counter(case.domain for case in labelled)
    counts = Counter(case.domain for case in everyone if case.domain is not None)
    return listed(
        [
            f'"{domain}" ({outlined[domain]} labelled, '
            f"{counts[domain] - outlined[domain]} unlabelled)"
            for domain in sorted(counts)
        ]
    )


def stream_words(files: Mapping[str, Sequence[CaseFiles]]) -> str:
    """Number of cases of every stream and their domains, in a line."""
    parts = []
    for stream, cases in files.items():
        domains = sorted({case.domain for case in cases if case.domain is not None})
        of = f" of {', '.join(domains)}" if domains else ""
        parts.append(f"{stream.replace('_', '-')} {len(cases)}{of}")
    return f"cases to learn from: {'; '.join(parts)}"


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
