"""What is wrong or odd about a data set, case by case, and what to do about it."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from foveal.case import Dataset
from foveal.errors import DatasetError
from foveal.in_threads import for_each
from foveal.planning.case_audit import audit_case
from foveal.planning.case_summary import CaseSummary
from foveal.planning.comparisons import (
    compare_intensities,
    compare_orientations,
    compare_spacings,
    compare_structures,
    find_copies,
)
from foveal.planning.findings import Finding, Severity, in_order, listed, told_once
from foveal.planning.resources import Resources, needed_resources, shortages
from foveal.planning.splits import USUAL_FOLDS, make_splits
from foveal.store.store import default_store_root

LAST_NUMBER = re.compile(r"(?P<shared>.*?)[-_. ]*\d+\D*")
FEWEST_GROUPS = 2

LARGEST_THREADS = 4
"""Cases read at once; each holds whole volumes in memory."""


@dataclass(frozen=True)
class Audit:
    """What was found in a data set."""

    dataset: Dataset

    annotated_cases: dict[str, int]
    """Structure to the number of labelled cases in which it was contoured."""

    present_cases: dict[str, int]
    """Structure to the number of labelled cases that have a voxel of it."""

    findings: tuple[Finding, ...]
    """The worst first; among alike those of the data set, then in order of case."""

    case_findings: Mapping[str, tuple[Finding, ...]]
    """Case to everything found in it, the worst first; also what ``findings`` tells
    once for many."""

    resources: Resources

    def count(self, severity: Severity) -> int:
        """Findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def num_errors(self) -> int:
        """Findings for which training would fail or its test be worthless."""
        return self.count("error")

    def as_table(self) -> dict[str, Any]:
        """Everything found, as plain values for JSON; no file paths of their own."""
        return {
            "format_version": 2,
            "dataset": self.dataset.name,
            "cases": len(self.dataset.cases),
            "labelled_cases": len(self.dataset.labelled),
            "unlabelled_cases": len(self.dataset.unlabelled),
            "domains": [asdict(domain) for domain in self.dataset.domains],
            "channels": list(self.dataset.channel_names),
            "structures": [
                {
                    "name": name,
                    "values": list(values),
                    "annotated_cases": self.annotated_cases[name],
                    "present_cases": self.present_cases[name],
                }
                for name, values in self.dataset.structures.items()
            ],
            "ignore_value": self.dataset.ignore_value,
            "excluded_cases": [asdict(case) for case in self.dataset.excluded],
            "resources": asdict(self.resources),
            "errors": self.num_errors,
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "findings": [finding.as_table() for finding in self.findings],
        }


def audit(
    dataset: Dataset,
    on_progress: Callable[[int, int, str], None] | None = None,
    *,
    store: Path | None = None,
    resample_channels: bool = False,
) -> Audit:
    """Read every file of a data set and list what is wrong or odd.

    Cases for testing are never trained on, so whatever is wrong with them is a warning.

    Args:
        dataset: As read from its layout.
        on_progress: Told cases done, cases in all and the name of the last.
        store: Where preprocessed cases would be kept, of which only the free space is
            looked at; unset: `default_store_root`.
        resample_channels: See `foveal.read_case`.
    """
    summaries = _summaries(dataset, on_progress, resample_channels=resample_channels)
    in_all = list(summaries.values())
    compare_spacings(in_all)
    compare_orientations(in_all)
    of_dataset = [
        *_patient_findings(dataset),
        *unsaid_patients(dataset),
        *_fold_findings(dataset),
        *_unlabelled_findings(dataset),
        *find_copies(in_all, dataset.channel_names),
        *compare_intensities(in_all, dataset.channel_names),
        *compare_structures(in_all, tuple(dataset.structures)),
    ]
    annotated, present = _structure_counts(dataset, summaries)
    of_dataset += _label_findings(dataset, summaries)
    resources = needed_resources(
        in_all, len(dataset.channel_names), store or default_store_root()
    )
    of_dataset += shortages(resources)
    by_case = [finding for summary in in_all for finding in summary.findings]
    names = [case.name for case in dataset.cases]
    return Audit(
        dataset=dataset,
        annotated_cases=annotated,
        present_cases=present,
        findings=tuple(in_order(told_once([*of_dataset, *by_case]), names)),
        case_findings=_by_case([*of_dataset, *by_case], names),
        resources=resources,
    )


def _summaries(
    dataset: Dataset,
    on_progress: Callable[[int, int, str], None] | None,
    *,
    resample_channels: bool,
) -> dict[str, CaseSummary]:
    """What each case is like, in the data set's order."""
    summaries = for_each(
        partial(audit_case, dataset=dataset, resample_channels=resample_channels),
        dataset.cases,
        threads=min(LARGEST_THREADS, os.cpu_count() or 1),
        name=lambda case: case.name,
        on_progress=on_progress,
    )
    names = (case.name for case in dataset.cases)
    return dict(zip(names, summaries, strict=True))


def _by_case(
    findings: list[Finding], names: list[str]
) -> dict[str, tuple[Finding, ...]]:
    found: dict[str, list[Finding]] = defaultdict(list)
    for finding in in_order(findings, names):
        for name in finding.cases:
            found[name].append(finding)
    return {name: tuple(found[name]) for name in names if name in found}


def _structure_counts(
    dataset: Dataset, summaries: Mapping[str, CaseSummary]
) -> tuple[dict[str, int], dict[str, int]]:
    """Labelled cases in which each structure is annotated, and is present."""
    annotated, present = {}, {}
    for name in dataset.structures:
        annotated[name] = sum(
            case.annotated is None or name in case.annotated
            for case in dataset.labelled
        )
        present[name] = sum(
            name in summaries[case.name].present for case in dataset.labelled
        )
    return annotated, present


def _patient_findings(dataset: Dataset) -> list[Finding]:
    """Patients in two splits, and too few of them."""
    findings = []
    for patient, splits in _splits_by_patient(dataset).items():
        if len(splits) > 1:
            findings.append(
                Finding(
                    "patient in two splits",
                    "error",
                    f"patient {patient} has cases in the splits "
                    f"{listed(sorted(splits))}",
                    "the test would be of a patient that was trained on",
                    "put all cases of a patient in one split",
                )
            )
    patients = {case.patient for case in dataset.labelled if case.split != "test"}
    if 0 < len(patients) < USUAL_FOLDS:
        findings.append(
            Finding(
                "few patients",
                "warning",
                f"{len(patients)} labelled patient(s), fewer than the usual "
                f"{USUAL_FOLDS} folds",
                "there will be a fold per patient, and scores of so few say little",
                "label more scans, of other patients, if you can",
            )
        )
    return findings


def unsaid_patients(dataset: Dataset) -> list[Finding]:
    """Cases that share all of their name but the last number with others.

    That is how slices or visits of a patient are called; "scan_7" and "scan_8", where
    what is shared holds no number, are different patients.
    """
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for case in dataset.cases:
        match = LAST_NUMBER.fullmatch(case.name)
        if case.patient == case.name and match and re.search(r"\d", match["shared"]):
            alike[match["shared"]].append(case.name)
    groups = {shared: names for shared, names in alike.items() if len(names) > 1}
    grouped = [name for names in groups.values() for name in names]
    if len(groups) < FEWEST_GROUPS or len(grouped) < len(dataset.cases) / 2:
        return []
    example = next(iter(groups))
    return [
        Finding(
            "patients not said",
            "warning",
            f"the names of {len(grouped)} cases are of {len(groups)} kinds that differ "
            f"by their last number only, {len(groups[example])} of them begin with "
            f'"{example}"; each counts as a patient of its own',
            "if they are slices or visits of one patient, that patient is trained on "
            "and validated at once, and the scores flatter",
            'say who the patient is: a column "patient" in a table, or a regular '
            'expression patient = "…" for a folder (docs/datasets.md)',
        )
    ]


def _fold_findings(dataset: Dataset) -> list[Finding]:
    """What is wrong or odd about the folds that a data set brings."""
    if dataset.folds is None:
        return []
    try:
        splits = make_splits(dataset.cases, None, 0, given=dataset.folds)
    except DatasetError as error:
        what, _, remedy = str(error).partition("; ")
        why = "training would stop at it"
        return [Finding("folds", "error", what, why, remedy or "mend the folds")]
    findings = [
        Finding(
            "fold without validation",
            "warning",
            f"fold {number} of the data set validates nobody",
            "its last weights are kept, good or not, and nothing is measured",
            "name patients to validate in it, or leave the fold out",
        )
        for number, fold in enumerate(splits.folds)
        if not fold.validation
    ]
    validated = {name for fold in splits.folds for name in fold.validation}
    never = [
        case.name
        for case in dataset.labelled
        if case.split != "test" and case.patient not in validated
    ]
    if never:
        findings.append(
            Finding(
                "never validated",
                "warning",
                f"{len(never)} labelled case(s) are in no fold's validation",
                "a cross-validation does not measure them",
                "add them to a fold, unless they are kept out on purpose",
                tuple(never),
            )
        )
    return findings


def _unlabelled_findings(dataset: Dataset) -> list[Finding]:
    """Cases without a label map, which may have been forgotten."""
    without = tuple(
        case.name
        for case in dataset.cases
        if not case.is_labelled and case.split != "test"
    )
    if not without or not dataset.labelled:
        return []
    return [
        Finding(
            "no label map",
            "note",
            f"{len(without)} of {len(dataset.cases)} cases have no label map",
            "supervised training leaves them out; other methods learn from those that "
            "are not for validation (docs/unlabelled.md)",
            "nothing, if it is meant; else add the label maps or correct their names",
            without,
        )
    ]


def _label_findings(
    dataset: Dataset, summaries: Mapping[str, CaseSummary]
) -> list[Finding]:
    """What is wrong or odd about the label maps for training as a whole."""
    for_training = [case for case in dataset.labelled if case.split != "test"]
    if not for_training:
        return [
            Finding(
                "nothing to learn from",
                "error",
                "no case for training has a label map",
                "there is nothing to learn from",
                "add label maps, or correct their names or paths",
            )
        ]
    if not dataset.structures:
        return [
            Finding(
                "nothing to segment",
                "error",
                "no label map holds anything but background",
                "there is nothing to segment",
                "add label maps with structures",
            )
        ]
    return [
        Finding(
            "structure in no case",
            "warning",
            f"{name} is in none of the {len(for_training)} label maps for training",
            "it cannot be learned",
            "correct its value, or take it out of the labels",
        )
        for name in dataset.structures
        if not any(name in summaries[case.name].present for case in for_training)
    ]


def _splits_by_patient(dataset: Dataset) -> dict[str, set[str]]:
    """Patient to the splits of its cases; a case without one is for training."""
    splits = defaultdict(set)
    for case in dataset.cases:
        splits[case.patient].add(case.split or "train")
    return splits
