"""Check a data set: what would make training fail or go wrong, and what to do."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.case import IGNORED, Case, CaseFiles, Dataset
from foveal.errors import CaseError
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_bytes, require_ending
from foveal.planning.audit import Audit, audit
from foveal.planning.findings import MANY_CASES, SEVERITIES, Finding
from foveal.planning.fingerprint import AIR_HU

MOST_PANELS = 12
"""Cases on a picture."""

SHOWN_OF_MANY = 2
"""Cases shown of what more than `MANY_CASES` share."""

SOFT_TISSUE_HU = (-160.0, 240.0)
"""Window in which a CT is shown."""


def check(
    dataset: Dataset | Path | str,
    on_progress: Callable[[int, int, str], None] | None = None,
    *,
    store: Path | None = None,
    picture: Path | None = None,
    resample_channels: bool = False,
) -> Audit:
    """Read every file of a data set and list what is wrong or odd.

    Args:
        dataset: Folder or table, or what `foveal.read_dataset` returned.
        on_progress: Told cases done, cases in all and the name of the last.
        store: Folder where preprocessed cases would be kept, to compare its free space
            with what they need; unset: one of the user's cache.
        picture: PNG for the `MOST_PANELS` oddest cases; not written if none is odd.
        resample_channels: Channels on other grids than the first are no error, as
            training is going to bring them there.

    Raises:
        DatasetError: The layout is not known or contradicts itself.
        SettingsError: ``picture`` does not end in ``.png``.
    """
    if picture is not None:
        require_ending(picture, ".png")
    if not isinstance(dataset, Dataset):
        dataset = read_dataset(dataset)
    found = audit(
        dataset, on_progress, store=store, resample_channels=resample_channels
    )
    if picture is not None and found.case_findings:
        content = _picture(found, resample_channels=resample_channels)
        atomic_write_bytes(picture, content)
    return found


def _picture(found: Audit, *, resample_channels: bool) -> bytes:
    # Drawing is not loaded by those who only want to read.
    from foveal.reports.odd_cases import Panel, odd_cases_picture
    from foveal.reports.slices import fullest_slice

    dataset = found.dataset
    numbers = {name: n for n, name in enumerate(dataset.structures, start=1)}
    files = {case.name: case for case in dataset.cases}
    panels = []
    for name in _oddest(found.case_findings):
        findings = found.case_findings[name]
        case = _readable(files[name], resample_channels=resample_channels)
        shown, display_range = None, (0.0, 1.0)
        if case is not None:
            structure = next((one.structure for one in findings if one.structure), None)
            shown = fullest_slice(
                case.first_channel,
                _structure_numbers(case, dataset, numbers),
                case.grid,
                label=None if structure is None else numbers[structure],
            )
            display_range = _display_range(case.first_channel)
        words = [finding.what for finding in findings]
        panels.append(Panel(name, findings[0].severity, words, shown, display_range))
    return odd_cases_picture(panels, {n: name for name, n in numbers.items()})


def _oddest(case_findings: Mapping[str, tuple[Finding, ...]]) -> list[str]:
    """Cases to show: the worst severity first, and of every kind some."""
    by_kind: dict[tuple[int, str], list[str]] = {}
    for name, findings in case_findings.items():
        kind = SEVERITIES.index(findings[0].severity), findings[0].kind
        by_kind.setdefault(kind, []).append(name)
    shown = [
        names[: SHOWN_OF_MANY if len(names) > MANY_CASES else None]
        for _, names in sorted(by_kind.items())
    ]
    turns = zip_longest(*shown)
    in_turn = [name for turn in turns for name in turn if name is not None]
    return in_turn[:MOST_PANELS]


def _readable(files: CaseFiles, *, resample_channels: bool) -> Case | None:
    """The case, without its label map if that is at fault; ``None`` if all is."""
    for attempt in (
        files,
        replace(files, label_map=None, structure_files=(), mask=None, weight_map=None),
    ):
        try:
            return read_case(attempt, resample_channels=resample_channels)
        except CaseError:
            continue
    return None


def _structure_numbers(
    case: Case, dataset: Dataset, numbers: Mapping[str, int]
) -> NDArray[np.uint8] | None:
    """Label map that shows structures by number; unknown values are left out.

    Where structures lie over one another, the smallest is seen.
    """
    if case.label_map is None:
        return None
    shown = np.zeros(case.label_map.shape, np.uint8)
    masks = {
        name: np.isin(
            case.label_map,
            [
                value
                for value, names in case.meaning(dataset.structures).items()
                if name in names
            ],
        )
        for name in numbers
    }
    for name in sorted(masks, key=lambda name: -np.count_nonzero(masks[name])):
        shown[masks[name]] = numbers[name]
    if dataset.ignore_value is not None and case.combinations is None:
        shown[case.label_map == dataset.ignore_value] = IGNORED
    return shown


def _display_range(channel: NDArray[Any]) -> tuple[float, float]:
    """Intensities shown black and white."""
    from foveal.reports.slices import percentile_range

    if channel.min() < AIR_HU:
        return SOFT_TISSUE_HU
    return percentile_range(channel)
