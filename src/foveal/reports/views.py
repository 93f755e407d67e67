"""The slice of a volume that shows an error best, laid out as radiologists expect."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.geometry import Grid, reorientation

CLOSE_UP_MARGIN_MM = 15.0
"""Kept around the structure on each side."""

SMALLEST_CLOSE_UP_MM = 60.0

ANISOTROPIC = 1.5
"""From this ratio of spacings on, slices across the coarse axis are shown."""

PLANES = ("sagittal", "coronal", "axial")
"""Plane whose normal is the first, second and third axis of an LPS volume."""


@dataclass(frozen=True, eq=False)
class View:
    """One slice, its rows downwards and its columns to the right on the screen.

    Axial: front up and the patient's left on the right; coronal: head up and the left
    on the right; sagittal: head up and the front on the left.
    """

    image: NDArray[np.float32]
    reference: NDArray[Any]
    """Label values on the pixels of ``image``, as is ``prediction``."""

    prediction: NDArray[Any]

    pixel_mm: tuple[float, float]
    """Height and width of a pixel."""

    close_up: tuple[slice, slice]
    """Part of the slice around the structure, rows and columns."""

    plane: str
    """One of `PLANES`."""

    axis: str
    """``"i"``, ``"j"`` or ``"k"``: axis of the file that the slice is across."""

    index: int
    """Place of the slice along ``axis``, from 0."""


def worst_view(
    image: NDArray[np.float32],
    reference: NDArray[Any],
    prediction: NDArray[Any],
    grid: Grid,
    values: Sequence[int],
) -> View:
    """Slice in which most voxels of a structure are wrong.

    Where none is wrong, the slice with most of the structure. Slices are axial, or
    across the coarsest axis of an anisotropic grid, which is how it was scanned.

    Args:
        image: One channel, ``(i, j, k)`` in stored order.
        reference: Label values on the same grid.
        prediction: Likewise.
        grid: Of all three.
        values: Labels of the structure.
    """
    change = reorientation(grid, "LPS")
    lps = change.apply_to_grid(grid)
    image, reference, prediction = (
        change.apply(volume) for volume in (image, reference, prediction)
    )
    axis = slice_axis(lps)
    expected, found = np.isin(reference, values), np.isin(prediction, values)
    others = tuple(other for other in range(3) if other != axis)
    counts = np.count_nonzero(expected != found, axis=others)
    if not counts.any():
        counts = np.count_nonzero(expected, axis=others)
    place = int(counts.argmax())
    rows_mm, columns_mm = pixel_mm_of(lps.spacing_mm, axis)
    either = laid_out(expected | found, axis, place)
    length = lps.shape[axis]
    return View(
        image=laid_out(image, axis, place),
        reference=laid_out(reference, axis, place),
        prediction=laid_out(prediction, axis, place),
        pixel_mm=(rows_mm, columns_mm),
        close_up=close_up(either, (rows_mm, columns_mm)),
        plane=PLANES[axis],
        axis="ijk"[change.permutation[axis]],
        index=length - 1 - place if axis in change.reversed_axes else place,
    )


def slice_axis(lps: Grid) -> int:
    """Axis of an LPS volume to cut across: that of a single slice, if it is one."""
    flat = _flat_axes(lps.shape)
    if flat:
        return max(flat)
    spacing_mm = lps.spacing_mm
    coarsest = int(np.argmax(spacing_mm))
    is_anisotropic = spacing_mm[coarsest] > ANISOTROPIC * float(np.median(spacing_mm))
    return coarsest if is_anisotropic else 2


def stored_slice_axis(grid: Grid) -> int:
    """Axis of a volume as it is stored to cut across, see `slice_axis`."""
    change = reorientation(grid, "LPS")
    return change.permutation[slice_axis(change.apply_to_grid(grid))]


def planes_of(grid: Grid) -> tuple[str, ...]:
    """Planes in which a volume shows something: a single slice has one."""
    lps = reorientation(grid, "LPS").apply_to_grid(grid)
    return (PLANES[slice_axis(lps)],) if _flat_axes(lps.shape) else PLANES


def _flat_axes(shape: Sequence[int]) -> list[int]:
    return [axis for axis, length in enumerate(shape) if length == 1]


def pixel_mm_of(
    spacing_mm: tuple[float, float, float], axis: int
) -> tuple[float, float]:
    """Height and width of a pixel in slices across an axis of an LPS volume."""
    left, back, up = spacing_mm
    return {0: (up, back), 1: (up, left), 2: (back, left)}[axis]


def laid_out(volume: NDArray[Any], axis: int, place: int) -> NDArray[Any]:
    """Slice of an LPS volume, rows towards the back if axial, else towards the feet."""
    flat = np.take(volume, place, axis=axis).T
    return flat if axis == 2 else flat[::-1]


def close_up(
    mask: NDArray[np.bool_], pixel_mm: tuple[float, float]
) -> tuple[slice, slice]:
    """Square around a mask, with a margin and not too small, where the slice allows.

    The whole slice if the mask is empty.
    """
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    places = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    extents_mm = [
        (found[-1] + 1 - found[0]) * step
        for found, step in zip(places, pixel_mm, strict=True)
    ]
    side_mm = max(max(extents_mm) + 2 * CLOSE_UP_MARGIN_MM, SMALLEST_CLOSE_UP_MM)
    rows, columns = (
        _centred((found[0] + found[-1] + 1) / 2, round(side_mm / step), length)
        for found, step, length in zip(places, pixel_mm, mask.shape, strict=True)
    )
    return rows, columns


def _centred(middle: float, size: int, length: int) -> slice:
    """Range about ``middle``, moved or cut to lie within ``length``."""
    start = min(max(round(middle - size / 2), 0), max(length - size, 0))
    return slice(start, min(start + size, length))
