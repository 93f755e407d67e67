"""What is wrong or odd about one case, and what remains of it to compare with others.

A case is an error exactly where `foveal.io.cases.read_case` or planning refuses it: the
same functions check, but here every problem is listed instead of the first. Of the
voxels nothing is kept but a few numbers, so memory does not grow with the data set.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.case import CaseFiles, Dataset, Volume
from foveal.errors import CaseError
from foveal.geometry import Grid, reorientation
from foveal.io.cases import (
    integer_label_map,
    present_labels,
    require_finite,
    require_same_grid,
)
from foveal.io.volumes import read_channels, read_volume
from foveal.planning.findings import Finding, Severity, listed
from foveal.planning.fingerprint import AIR_HU, ORIENTATION, SAGITTAL_AXIS, body_extent

LARGEST_OUTSIDE_FRACTION = 0.01
"""Of the voxels of structures; a mask that was fitted well may miss a few."""

VOXELS_LOOKED_AT = 20_000
"""Drawn from a channel to learn its intensities."""

USUAL_PERCENTILES = (5, 50, 95)

DIGEST_BYTES = 16


@dataclass(frozen=True)
class ChannelSummary:
    """One channel of a case in numbers."""

    digest: bytes
    """Of shape and voxels; the same however they were stored."""

    percentiles: tuple[float, float, float]
    """`USUAL_PERCENTILES` of the voxels that do not have the commonest value, so that
    much or little air around the body does not matter."""

    lowest: float

    is_hu_like: bool
    """Whole numbers that reach below `AIR_HU`."""

    varied_share: float
    """Of the voxels, those that do not have the commonest value (air, mostly)."""

    nonzero_box: tuple[slice, slice, slice]
    """Around the voxels that are not 0."""


@dataclass(frozen=True)
class LabelSummary:
    """One value of a case's label map in numbers."""

    voxels: int

    offset: float
    """Signed distance of the centroid from the body's midplane in body widths; negative
    to the patient's left."""

    right_mm: float
    """Place of the centroid from left to right, in mm from the first sagittal slice."""


@dataclass
class CaseSummary:
    """What the checks of one case find and keep, in the order in which they run."""

    case: CaseFiles

    grid: Grid | None = None
    """Of the first channel that can be read."""

    channels: dict[int, ChannelSummary] = field(default_factory=dict)
    """By number; one that is damaged, constant or not finite is left out."""

    present_values: tuple[int, ...] = ()
    """In the label map, background and the ignore value left out."""

    labels: dict[int, LabelSummary] = field(default_factory=dict)
    """By value; nothing if the label map is on another grid than the image."""

    body: tuple[int, int] | None = None
    """First and last index of the body from left to right, see `body_extent`."""

    mask_shape: tuple[int, int, int] | None = None
    """Of the box around the mask, in stored order."""

    findings: list[Finding] = field(default_factory=list)

    def error(self, kind: str, what: str, why: str, remedy: str) -> None:
        """Note what makes training fail, unless the case is only for testing."""
        severity: Severity = "warning" if self.case.split == "test" else "error"
        self._add(kind, severity, what, why, remedy)

    def refused(self, kind: str, error: CaseError) -> None:
        """Note that the case cannot be read; the message is "what; remedy"."""
        what, _, remedy = str(error).partition("; ")
        self.error(kind, what, "the case cannot be used", remedy)

    def warning(
        self,
        kind: str,
        what: str,
        why: str,
        remedy: str,
        *,
        structure: str | None = None,
    ) -> None:
        """Note what is odd."""
        self._add(kind, "warning", what, why, remedy, structure)

    def note(self, kind: str, what: str, why: str, remedy: str) -> None:
        """Note what is good to know."""
        self._add(kind, "note", what, why, remedy)

    def has(self, kind: str) -> bool:
        """Whether something of a kind was found."""
        return any(finding.kind == kind for finding in self.findings)

    @property
    def kept_shape(self) -> tuple[int, int, int] | None:
        """Of the box around the mask, else around what is not 0; in stored order."""
        if self.grid is None or self.mask_shape is not None:
            return self.mask_shape
        boxes = [channel.nonzero_box for channel in self.channels.values()]
        if not boxes:
            return self.grid.shape
        i, j, k = (
            max(axis.stop for axis in axes) - min(axis.start for axis in axes)
            for axes in zip(*boxes, strict=True)
        )
        return i, j, k

    def _add(
        self,
        kind: str,
        severity: Severity,
        what: str,
        why: str,
        remedy: str,
        structure: str | None = None,
    ) -> None:
        self.findings.append(
            Finding(kind, severity, what, why, remedy, (self.case.name,), structure)
        )


def audit_case(case: CaseFiles, dataset: Dataset) -> CaseSummary:
    """Read every file of a case and check it by itself."""
    summary = CaseSummary(case)
    _check_channels(summary, dataset.channel_names)
    label_map = None
    if case.label_map is not None:
        label_map = _check_label_map(summary, case.label_map, dataset)
    if case.mask is not None:
        _check_mask(summary, case.mask, label_map, dataset.ignore_value)
    return summary


# ------------------------------------------------------------------------- the image


def _check_channels(summary: CaseSummary, channel_names: Sequence[str]) -> None:
    channels = summary.case.channels
    if len(channels) != len(channel_names):
        summary.error(
            "number of channels",
            f"the case has {len(channels)} channel(s), the data set "
            f"{len(channel_names)}: {', '.join(channel_names)}",
            "a network needs every channel of every case",
            "add the missing channel files or take the case out of the data set",
        )
    numbers = itertools.count()
    constants: dict[int, float | None] = {}
    for _, group in itertools.groupby(channels, key=lambda channel: channel.path):
        in_one_file = list(group)
        in_this_file = list(itertools.islice(numbers, len(in_one_file)))
        try:
            volumes = list(read_channels(in_one_file))
        except CaseError as error:
            summary.refused("unreadable image", error)
            continue
        for number, volume in zip(in_this_file, volumes, strict=True):
            is_sound = _check_channel(summary, f"channel {number}", volume)
            constants[number] = _constant(volume.array)
            if is_sound and constants[number] is None:
                summary.channels[number] = _channel_summary(volume.array)
            if is_sound and summary.body is None:
                summary.body = _body(summary, number, volume)
    _check_constants(summary, constants)


def _check_channel(summary: CaseSummary, name: str, volume: Volume) -> bool:
    """Whether the intensities can be looked at further."""
    summary.grid = summary.grid or volume.grid
    try:
        require_same_grid("the first channel", summary.grid, name, volume.grid)
    except CaseError as error:
        summary.refused("channels on different grids", error)
        return False
    try:
        require_finite(name, volume.array)
    except CaseError as error:
        summary.refused("voxels that are no numbers", error)
        return False
    return True


def _check_constants(
    summary: CaseSummary, constants: Mapping[int, float | None]
) -> None:
    """Note channels of one value; ``None`` stands for a channel of several."""
    remedy = "export the image again or take the case out of the data set"
    if constants and all(value == 0 for value in constants.values()):
        summary.error(
            "blank image",
            "the image is 0 everywhere",
            "a plan that crops to what is not 0 would stop at it",
            remedy,
        )
        return
    for number, value in constants.items():
        if value is not None:
            summary.warning(
                "constant channel",
                f"channel {number} is {value:g} everywhere",
                "nothing can be learned from it",
                remedy,
            )


def _constant(array: NDArray[Any]) -> float | None:
    """The value that every voxel has; ``None`` if they differ."""
    first = array.flat[0]
    return float(first) if (array == first).all() else None


def _channel_summary(array: NDArray[Any]) -> ChannelSummary:
    """Look at a channel that is finite and not constant."""
    # The transpose of a stored array is contiguous, so that nothing is copied.
    voxels = np.ascontiguousarray(array.T, np.float32)
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=DIGEST_BYTES)
    digest.update(voxels.data)
    generator = np.random.default_rng(0)
    drawn = voxels.reshape(-1)[generator.integers(voxels.size, size=VOXELS_LOOKED_AT)]
    values, counts = np.unique(drawn, return_counts=True)
    varied = drawn[drawn != values[counts.argmax()]]
    low, middle, high = np.percentile(
        varied if varied.size else drawn, USUAL_PERCENTILES
    ).tolist()
    lowest = float(voxels.min())
    is_hu_like = lowest < AIR_HU and bool((drawn == np.rint(drawn)).all())
    return ChannelSummary(
        digest=digest.digest(),
        percentiles=(low, middle, high),
        lowest=lowest,
        is_hu_like=is_hu_like,
        varied_share=varied.size / VOXELS_LOOKED_AT,
        nonzero_box=_box(array != 0),
    )


def _body(summary: CaseSummary, number: int, volume: Volume) -> tuple[int, int]:
    channel = summary.channels.get(number)
    ras = reorientation(volume.grid, ORIENTATION).apply(volume.array)
    return body_extent(ras, None, is_hu_like=channel is not None and channel.is_hu_like)


def _box(inside: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Smallest box that holds every true voxel, of which there is at least one."""
    axes = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(inside.any(axis=others))
        axes.append(slice(int(places[0]), int(places[-1]) + 1))
    i, j, k = axes
    return i, j, k


# ------------------------------------------------------------- label map and mask


def _check_label_map(
    summary: CaseSummary, path: Path, dataset: Dataset
) -> NDArray[np.int32] | None:
    """Check a label map and return it if it can be used."""
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
    present = present_labels(label_map)
    unlisted = (0, dataset.ignore_value)
    found = tuple(value for value in present if value not in unlisted)
    summary.present_values = found
    _check_values(summary, found, dataset)
    try:
        if summary.grid is not None:
            require_same_grid("image", summary.grid, "label map", stored.grid)
    except CaseError as error:
        summary.refused("label map on another grid", error)
        return None
    summary.labels = _label_summaries(label_map, found, stored.grid, summary.body)
    return label_map


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


def _check_values(summary: CaseSummary, found: Sequence[int], dataset: Dataset) -> None:
    """Compare the values of structures with those that the data set lists."""
    names = {value: name for name, value in dataset.label_values.items()}
    unknown = [value for value in found if value not in names]
    if unknown:
        summary.error(
            "unknown labels",
            f"the label map holds {listed(unknown)}, which the data set does not list",
            "its voxels would have to be guessed",
            f"correct the label map, or list the value; known are {listed(names)}",
        )
    annotated = summary.case.annotated_labels
    contradicting = [
        names[value]
        for value in found
        if value in names and annotated is not None and value not in annotated
    ]
    if contradicting:
        summary.warning(
            "labels said not to be annotated",
            f"the label map holds {listed(contradicting)}, not among the "
            "annotated_labels of the case",
            "either the list or the label map is wrong",
            "add the structure to annotated_labels or erase its voxels",
        )
    if not found:
        summary.warning(
            "empty label map",
            "the label map is empty",
            "a structure that was forgotten would be learned as background",
            "make sure that nothing is there, or take the label map out",
        )


def _label_summaries(
    label_map: NDArray[np.int32],
    found: Sequence[int],
    grid: Grid,
    body: tuple[int, int] | None,
) -> dict[int, LabelSummary]:
    """Size and place of every value found."""
    if not found:
        return {}
    change = reorientation(grid, ORIENTATION)
    axis = change.permutation[SAGITTAL_AXIS]
    length, spacing_mm = grid.shape[axis], grid.spacing_mm[axis]
    left, right = body or (0, length - 1)
    # Stored arrays run fastest along i.
    flat = label_map.reshape(-1, order="F")
    voxels = np.flatnonzero(flat)
    values = flat[voxels]
    places = voxels // int(np.prod(grid.shape[:axis], dtype=np.int64)) % length
    if SAGITTAL_AXIS in change.reversed_axes:
        places = length - 1 - places
    every = np.union1d(found, values)
    numbers = np.searchsorted(every, values)
    counts = np.bincount(numbers, minlength=len(every))
    sums = np.bincount(numbers, places, minlength=len(every))
    summaries = {}
    for value in found:
        number = int(np.searchsorted(every, value))
        place = float(sums[number] / counts[number])
        summaries[value] = LabelSummary(
            voxels=int(counts[number]),
            offset=(place - (left + right) / 2) / (right - left + 1),
            right_mm=place * spacing_mm,
        )
    return summaries


def _check_mask(
    summary: CaseSummary,
    path: Path,
    label_map: NDArray[np.int32] | None,
    ignore_value: int | None,
) -> None:
    try:
        stored = read_volume(path)
    except CaseError as error:
        summary.refused("unreadable mask", error)
        return
    try:
        if summary.grid is not None:
            require_same_grid("image", summary.grid, "mask", stored.grid)
    except CaseError as error:
        summary.refused("mask on another grid", error)
        return
    inside = stored.array > 0.5
    if not inside.any():
        summary.error(
            "empty mask",
            "the mask is empty: no voxel is above 0.5",
            "nothing of the image would be left",
            "make the mask again or leave it out",
        )
        return
    i, j, k = (axis.stop - axis.start for axis in _box(inside))
    summary.mask_shape = i, j, k
    if label_map is None or label_map.shape != inside.shape:
        return
    structures = label_map != 0
    if ignore_value is not None:
        structures &= label_map != ignore_value
    num_voxels = np.count_nonzero(structures)
    num_outside = np.count_nonzero(structures & ~inside)
    if num_outside > LARGEST_OUTSIDE_FRACTION * num_voxels:
        summary.warning(
            "structures outside the mask",
            f"{num_outside} of {num_voxels} voxels of structures are outside the mask",
            "what the mask cuts off is neither learned nor found",
            "look at the mask: it may be too small, inverted or of another case",
        )
