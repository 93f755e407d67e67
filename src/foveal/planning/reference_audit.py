"""What is wrong or odd about the reference of one case: a label map, or masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.case import Dataset, meaning_of_values
from foveal.errors import CaseError
from foveal.geometry import Grid, reorientation
from foveal.io.label_maps import (
    integer_label_map,
    present_labels,
    read_reference,
    require_same_grid,
    with_background_zero,
)
from foveal.io.volumes import is_slicer_segmentation, read_volume
from foveal.planning.case_summary import CaseSummary, StructureSummary
from foveal.planning.findings import listed
from foveal.planning.fingerprint import ORIENTATION, SAGITTAL_AXIS

Meaning = Mapping[int, frozenset[str]]
"""Number in a label map to the structures that it stands for."""


def check_reference(summary: CaseSummary, dataset: Dataset) -> NDArray[np.int32] | None:
    """Check the reference of a labelled case, and keep its structures in numbers.

    Returns:
        Label map ``(i, j, k)`` on the grid of the image; ``None`` if it cannot be used.
    """
    path = summary.case.label_map
    if path is not None and not is_slicer_segmentation(path):
        return _check_label_map(summary, path, dataset)
    if summary.grid is None:
        return None  # A mask is placed in the image, and that cannot be read.
    try:
        label_map, combinations = read_reference(summary.case, summary.grid)
    except CaseError as error:
        summary.refused("unusable reference", error)
        return None
    if combinations is None:
        meaning: Meaning = meaning_of_values(dataset.structures)
    else:
        meaning = dict(enumerate(combinations))
    numbers = _foreground(label_map, None if combinations else dataset.ignore_value)
    _check_numbers(summary, numbers, meaning)
    _keep_structures(summary, label_map, numbers, meaning, summary.grid)
    return label_map


def _check_label_map(
    summary: CaseSummary, path: Path, dataset: Dataset
) -> NDArray[np.int32] | None:
    try:
        stored = read_volume(path)
    except CaseError as error:
        summary.refused("unreadable label map", error)
        return None
    try:
        label_map = integer_label_map(stored.array)
    except CaseError as error:
        summary.refused("labels that are not integers", error)
        return None
    _note_nearly_integers(summary, stored.array, label_map)
    try:
        label_map = with_background_zero(label_map, dataset.background_value)
    except CaseError as error:
        summary.refused("two values of background", error)
        return None
    meaning = meaning_of_values(dataset.structures)
    values = _foreground(label_map, dataset.ignore_value)
    _check_numbers(summary, values, meaning)
    try:
        if summary.grid is not None:
            require_same_grid("image", summary.grid, "label map", stored.grid)
    except CaseError as error:
        summary.refused("label map on another grid", error)
        return None
    _keep_structures(summary, label_map, values, meaning, stored.grid)
    return label_map


def _foreground(
    label_map: NDArray[np.int32], ignore_value: int | None
) -> tuple[int, ...]:
    """Numbers in a label map but background and ignored."""
    return tuple(
        number
        for number in present_labels(label_map)
        if number not in (0, ignore_value)
    )


def _note_nearly_integers(
    summary: CaseSummary, stored: NDArray[Any], label_map: NDArray[np.int32]
) -> None:
    if stored.dtype.kind != "f":
        return
    is_off = stored != label_map
    if is_off.any():
        summary.note(
            "nearly integers",
            f"label values such as {stored[is_off][0]:.9g} are integers only when "
            "rounded",
            "they are rounded here; other programs cut them down, 0.9999999 to 0",
            "nothing for Foveal; store integers to be safe elsewhere",
        )


def _check_numbers(
    summary: CaseSummary, numbers: Sequence[int], meaning: Meaning
) -> None:
    """Compare what a reference holds with what the data set lists."""
    unknown = [number for number in numbers if number not in meaning]
    if unknown:
        known = [number for number in meaning if number != 0]
        summary.error(
            "unknown labels",
            f"the label map holds {listed(unknown)}, which the data set does not list",
            "its voxels would have to be guessed",
            f"correct the label map, or list the value; known are {listed(known)}",
        )
    present = [meaning[number] for number in numbers if number in meaning]
    summary.present = frozenset[str]().union(*present)
    annotated = summary.case.annotated
    contradicting = {
        name
        for names in present
        if annotated is not None and not names & set(annotated)
        for name in names
    }
    if contradicting:
        summary.warning(
            "structures said not to be annotated",
            f"the reference holds {listed(sorted(contradicting))}, not among the "
            "annotated_labels of the case",
            "either the list or the reference is wrong",
            "add the structure to annotated_labels or erase its voxels",
        )
    if not numbers:
        summary.warning(
            "empty label map",
            "the label map is empty"
            if summary.case.label_map is not None
            else "the masks of all structures are empty",
            "a structure that was forgotten would be learned as background",
            "make sure that nothing is there, or take the reference out",
        )


def _keep_structures(
    summary: CaseSummary,
    label_map: NDArray[np.int32],
    numbers: Sequence[int],
    meaning: Meaning,
    grid: Grid,
) -> None:
    """Keep size and place of every structure."""
    if not numbers:
        return
    change = reorientation(grid, ORIENTATION)
    axis = change.permutation[SAGITTAL_AXIS]
    length = grid.shape[axis]
    left, right = summary.body or (0, length - 1)
    # Stored arrays run fastest along i.
    flat = label_map.reshape(-1, order="F")
    voxels = np.flatnonzero(flat)
    places = voxels // int(np.prod(grid.shape[:axis], dtype=np.int64)) % length
    if SAGITTAL_AXIS in change.reversed_axes:
        places = length - 1 - places
    foreground = flat[voxels]
    every = np.array(present_labels(foreground))
    entries = np.searchsorted(every, foreground)
    counts = np.bincount(entries, minlength=len(every))
    sums = np.bincount(entries, places, minlength=len(every))
    of_number = {
        int(number): (int(count), float(total))
        for number, count, total in zip(every, counts, sums, strict=True)
    }
    for name in sorted(summary.present):
        parts = [
            of_number[number]
            for number in numbers
            if name in meaning.get(number, frozenset())
        ]
        count = sum(part[0] for part in parts)
        place = sum(part[1] for part in parts) / count
        summary.structures[name] = StructureSummary(
            voxels=count,
            offset=(place - (left + right) / 2) / (right - left + 1),
            right_mm=place * grid.spacing_mm[axis],
        )
    if summary.case.structure_files:
        summary.overlaps = {
            meaning[number]: of_number[number][0]
            for number in numbers
            if len(meaning[number]) > 1
        }
