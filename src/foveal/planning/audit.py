"""What is wrong or odd about a data set, case by case, and what to do about it.

A case is an error exactly where `foveal.io.cases.read_case` or planning refuses it: the
same functions check, but here every problem is listed instead of the first.
"""

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foveal.case import CaseFiles, Dataset, Volume
from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.io.cases import (
    integer_label_map,
    present_labels,
    require_finite,
    require_same_grid,
)
from foveal.io.volumes import read_channels, read_volume
from foveal.planning.splits import USUAL_FOLDS

LARGEST_THREADS = 4
"""Cases read at once; each holds whole volumes in memory."""

LARGEST_SPACING_FACTOR = 5.0
"""A case whose voxels are this much larger or smaller than usual has its spacing in
another unit, or belongs elsewhere."""

LARGEST_OUTSIDE_FRACTION = 0.01
"""Of the voxels of structures; a mask that was fitted well may miss a few."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd."""

    case: str | None
    """``None``: the data set as a whole."""

    severity: Severity
    """``"error"``: training would fail."""

    what: str
    why: str
    """What would come of it."""

    remedy: str


@dataclass(frozen=True)
class Audit:
    """What was found in a data set."""

    dataset: Dataset

    annotated_cases: dict[str, int]
    """Structure to the number of labelled cases in which it was contoured."""

    present_cases: dict[str, int]
    """Structure to the number of labelled cases that have a voxel of it."""

    findings: tuple[Finding, ...]
    """Of the data set first, then in order of case; errors first in each."""

    @property
    def num_errors(self) -> int:
        """Findings for which training would fail."""
        return sum(finding.severity == "error" for finding in self.findings)

    def as_table(self) -> dict[str, Any]:
        """Everything found, as plain values for JSON; no file paths of their own."""
        return {
            "format_version": 1,
            "dataset": self.dataset.name,
            "cases": len(self.dataset.cases),
            "labelled_cases": len(self.dataset.labelled),
            "channels": list(self.dataset.channel_names),
            "structures": [
                {
                    "name": name,
                    "value": value,
                    "annotated_cases": self.annotated_cases[name],
                    "present_cases": self.present_cases[name],
                }
                for name, value in self.dataset.label_values.items()
            ],
            "ignore_value": self.dataset.ignore_value,
            "errors": self.num_errors,
            "warnings": len(self.findings) - self.num_errors,
            "findings": [asdict(finding) for finding in self.findings],
        }


def audit(
    dataset: Dataset, on_progress: Callable[[int, int, str], None] | None = None
) -> Audit:
    """Read every file of a data set and list what is wrong or odd.

    Cases for testing are never trained on, so whatever is wrong with them is a warning.

    Args:
        dataset: As read from its layout.
        on_progress: Told cases done, cases in all and the name of the last.
    """
    threads = min(LARGEST_THREADS, os.cpu_count() or 1)
    reports: dict[str, _CaseReport] = {}
    with ThreadPoolExecutor(max_workers=threads) as pool:
        futures = [pool.submit(_audit_case, case, dataset) for case in dataset.cases]
        for done, future in enumerate(as_completed(futures), start=1):
            report = future.result()
            reports[report.case.name] = report
            if on_progress is not None:
                on_progress(done, len(futures), report.case.name)
    _check_spacings(list(reports.values()))
    annotated, present = _structure_counts(dataset, reports)
    by_case = [
        finding
        for case in dataset.cases
        for finding in sorted(reports[case.name].findings, key=_severity)
    ]
    findings = [*_dataset_findings(dataset, present), *by_case]
    return Audit(dataset, annotated, present, tuple(findings))


@dataclass
class _CaseReport:
    """What the checks of one case find, in the order in which they run."""

    case: CaseFiles
    grid: Grid | None = None
    """Of the first channel that can be read."""

    present_values: tuple[int, ...] = ()
    """Values in the label map."""

    findings: list[Finding] = field(default_factory=list)

    def error(self, what: str, why: str, remedy: str) -> None:
        """Note what makes training fail, unless the case is only for testing."""
        severity: Severity = "warning" if self.case.split == "test" else "error"
        self.findings.append(Finding(self.case.name, severity, what, why, remedy))

    def refused(self, error: CaseError) -> None:
        """Note that the case cannot be read; the message is "what; remedy"."""
        what, _, remedy = str(error).partition("; ")
        self.error(what, "the case cannot be used", remedy)

    def warning(self, what: str, why: str, remedy: str) -> None:
        """Note what is odd."""
        self.findings.append(Finding(self.case.name, "warning", what, why, remedy))


def _audit_case(case: CaseFiles, dataset: Dataset) -> _CaseReport:
    report = _CaseReport(case)
    _check_channels(report, dataset.channel_names)
    label_map = None
    if case.label_map is not None:
        label_map = _check_label_map(report, case.label_map, dataset)
    if case.mask is not None:
        _check_mask(report, case.mask, label_map, dataset.ignore_value)
    return report


def _check_channels(report: _CaseReport, channel_names: Sequence[str]) -> None:
    channels = report.case.channels
    if len(channels) != len(channel_names):
        report.error(
            f"the case has {len(channels)} channel(s), the data set "
            f"{len(channel_names)}: {', '.join(channel_names)}",
            "a network needs every channel of every case",
            "add the missing channel files or take the case out of the data set",
        )
    names = itertools.count()
    constants: dict[int, float | None] = {}
    for _, group in itertools.groupby(channels, key=lambda channel: channel.path):
        in_one_file = list(group)
        numbers = list(itertools.islice(names, len(in_one_file)))
        try:
            volumes = list(read_channels(in_one_file))
        except CaseError as error:
            report.refused(error)
            continue
        for number, volume in zip(numbers, volumes, strict=True):
            _check_channel(report, f"channel {number}", volume)
            constants[number] = _constant(volume.array)
    _check_constants(report, constants)


def _check_channel(report: _CaseReport, name: str, volume: Volume) -> None:
    report.grid = report.grid or volume.grid
    try:
        require_same_grid("the first channel", report.grid, name, volume.grid)
    except CaseError as error:
        report.refused(error)
    try:
        require_finite(name, volume.array)
    except CaseError as error:
        report.refused(error)


def _check_constants(
    report: _CaseReport, constants: Mapping[int, float | None]
) -> None:
    """Note channels of one value; ``None`` stands for a channel of several."""
    remedy = "export the image again or take the case out of the data set"
    if constants and all(value == 0 for value in constants.values()):
        report.error(
            "the image is 0 everywhere",
            "a plan that crops to what is not 0 would stop at it",
            remedy,
        )
        return
    for number, value in constants.items():
        if value is not None:
            report.warning(
                f"channel {number} is {value:g} everywhere",
                "nothing can be learned from it",
                remedy,
            )


def _constant(array: NDArray[Any]) -> float | None:
    """The value that every voxel has; ``None`` if they differ."""
    first = array.flat[0]
    return float(first) if (array == first).all() else None


def _check_label_map(
    report: _CaseReport, path: Path, dataset: Dataset
) -> NDArray[np.int32] | None:
    """Check a label map and return it if it can be used."""
    try:
        stored = read_volume(path)
        label_map = integer_label_map(stored.array)
        report.present_values = present_labels(label_map)
        if report.grid is not None:
            require_same_grid("image", report.grid, "label map", stored.grid)
    except CaseError as error:
        report.refused(error)
        return None
    unlisted = {0, dataset.ignore_value}
    found = [value for value in report.present_values if value not in unlisted]
    names = {value: name for name, value in dataset.label_values.items()}
    unknown = [value for value in found if value not in names]
    if unknown:
        report.error(
            f"the label map holds {_listed(unknown)}, which the data set does not list",
            "its voxels would have to be guessed",
            f"correct the label map, or list the value; known are {_listed(names)}",
        )
    annotated = report.case.annotated
    contradicting = [
        names[value]
        for value in found
        if value in names and annotated is not None and names[value] not in annotated
    ]
    if contradicting:
        report.warning(
            f"the label map holds {_listed(contradicting)}, not among the "
            "annotated_labels of the case",
            "either the list or the label map is wrong",
            "add the structure to annotated_labels or erase its voxels",
        )
    if not found:
        report.warning(
            "the label map is empty",
            "a structure that was forgotten would be learned as background",
            "make sure that nothing is there, or take the label map out",
        )
    return label_map


def _check_mask(
    report: _CaseReport,
    path: Path,
    label_map: NDArray[np.int32] | None,
    ignore_value: int | None,
) -> None:
    try:
        stored = read_volume(path)
        if report.grid is not None:
            require_same_grid("image", report.grid, "mask", stored.grid)
    except CaseError as error:
        report.refused(error)
        return
    inside = stored.array > 0.5
    if not inside.any():
        report.error(
            "the mask is empty: no voxel is above 0.5",
            "nothing of the image would be left",
            "make the mask again or leave it out",
        )
    elif label_map is not None and label_map.shape == inside.shape:
        structures = label_map != 0
        if ignore_value is not None:
            structures &= label_map != ignore_value
        num_voxels = np.count_nonzero(structures)
        num_outside = np.count_nonzero(structures & ~inside)
        if num_outside > LARGEST_OUTSIDE_FRACTION * num_voxels:
            report.warning(
                f"{num_outside} of {num_voxels} voxels of structures are outside "
                "the mask",
                "what the mask cuts off is neither learned nor found",
                "look at the mask: it may be too small, inverted or of another case",
            )


def _check_spacings(reports: Sequence[_CaseReport]) -> None:
    """Warn of cases whose voxels are far larger or smaller than usual."""
    known = [(report, report.grid) for report in reports if report.grid is not None]
    if not known:
        return
    # Sorted, as the axes of two cases may be stored in different order.
    spacings_mm = np.sort([grid.spacing_mm for _, grid in known], axis=1)
    median_mm = np.median(spacings_mm, axis=0)
    factors = np.exp(np.abs(np.log(spacings_mm / median_mm)).max(axis=1))
    for (report, grid), factor in zip(known, factors, strict=True):
        if factor > LARGEST_SPACING_FACTOR:
            report.warning(
                f"voxels of {_millimetres(grid.spacing_mm)}, where "
                f"{_millimetres(median_mm)} are usual",
                "the spacing may be in another unit, or the case belong elsewhere",
                "compare the header with the original scan",
            )


def _structure_counts(
    dataset: Dataset, reports: Mapping[str, _CaseReport]
) -> tuple[dict[str, int], dict[str, int]]:
    """Labelled cases in which each structure is annotated, and is present."""
    annotated, present = {}, {}
    for name, value in dataset.label_values.items():
        annotated[name] = sum(
            case.annotated is None or name in case.annotated
            for case in dataset.labelled
        )
        present[name] = sum(
            value in reports[case.name].present_values for case in dataset.labelled
        )
    return annotated, present


def _dataset_findings(dataset: Dataset, present: Mapping[str, int]) -> list[Finding]:
    """What is wrong or odd about the data set as a whole."""
    findings = []

    def note(severity: Severity, what: str, why: str, remedy: str) -> None:
        findings.append(Finding(None, severity, what, why, remedy))

    for patient, splits in _splits_by_patient(dataset).items():
        if len(splits) > 1:
            note(
                "error",
                f"patient {patient} has cases in the splits {_listed(sorted(splits))}",
                "the test would be of a patient that was trained on",
                "put all cases of a patient in one split",
            )
    for_training = [case for case in dataset.labelled if case.split != "test"]
    if not for_training:
        note(
            "error",
            "no case for training has a label map",
            "there is nothing to learn from",
            "add label maps, or correct their names or paths",
        )
        return findings
    if not dataset.label_values:
        note(
            "error",
            "no label map holds anything but background",
            "there is nothing to segment",
            "add label maps with structures",
        )
    for name, count in present.items():
        if count == 0:
            note(
                "warning",
                f"{name} is in none of the label maps",
                "it cannot be learned",
                "correct its value, or take it out of the labels",
            )
    patients = {case.patient for case in for_training}
    if len(patients) < USUAL_FOLDS:
        note(
            "warning",
            f"{len(patients)} labelled patient(s), fewer than the usual {USUAL_FOLDS} "
            "folds",
            "there will be a fold per patient, and scores of so few say little",
            "label more scans, of other patients, if you can",
        )
    return findings


def _splits_by_patient(dataset: Dataset) -> dict[str, set[str]]:
    """Patient to the splits of its cases; a case without one is for training."""
    splits = defaultdict(set)
    for case in dataset.cases:
        splits[case.patient].add(case.split or "train")
    return splits


def _severity(finding: Finding) -> str:
    """Sorts errors before warnings."""
    return finding.severity


def _listed(entries: Iterable[object]) -> str:
    return ", ".join(str(entry) for entry in entries)


def _millimetres(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{length:.3g}" for length in spacing_mm) + " mm"
