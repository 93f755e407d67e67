"""How far the surfaces of two masks lie from each other, in millimetres.

The surface of a mask is its border voxels: those with one of their six neighbours
outside the mask. At the edge of the image a neighbour is missing, which makes no
border: there the scan ends, not the organ. The distance of a border voxel is that from
its centre to the centre of the nearest border voxel of the other mask. Distances of
both directions are pooled. With these rules the CHAOS challenge's example gives the
numbers of the challenge's own program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import edt
import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from foveal.metrics.masks import require_same_shape

_EMPTY = "both empty: NaN, one empty: diagonal of the image"

DEFINITIONS = {
    "hd_mm": f"largest distance between the borders, either way; {_EMPTY}",
    "hd95_mm": f"95th percentile of the border distances, both ways pooled; {_EMPTY}",
    "assd_mm": f"mean of the border distances, both ways pooled; {_EMPTY}",
}
"""Metric to what it means, in a line."""


@dataclass(frozen=True)
class SurfaceDistances:
    """What the distances between two surfaces come down to; NaN if both are empty."""

    hd_mm: float
    """Largest distance (Hausdorff)."""

    hd95_mm: float
    """95th percentile, both directions pooled, linear between neighbouring ranks."""

    assd_mm: float
    """Mean, both directions pooled: the larger surface has the larger say."""


def surface_distances(
    prediction: Bool[NDArray[Any], "_ _ _"],
    reference: Bool[NDArray[Any], "_ _ _"],
    spacing_mm: Sequence[float],
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    Args:
        prediction: Mask ``(i, j, k)``, of the whole image.
        reference: Mask on the same grid.
        spacing_mm: Voxel edge lengths, in axis order.

    Returns:
        All NaN if both masks are empty; all the diagonal of the image, voxel edges
        included, if one is: a structure that was missed counts as far off. A mask that
        fills the image has no border: the diagonal too, and 0 if both fill it.

    Raises:
        GeometryError: The masks differ in shape.
    """
    require_same_shape(prediction, reference)
    is_empty = not prediction.any(), not reference.any()
    if all(is_empty):
        return _all_equal(float("nan"))
    diagonal_mm = float(np.linalg.norm(np.multiply(prediction.shape, spacing_mm)))
    if any(is_empty):
        return _all_equal(diagonal_mm)
    window = _window_around(prediction | reference)
    borders = border_voxels(prediction[window]), border_voxels(reference[window])
    has_border = borders[0].any(), borders[1].any()
    if not all(has_border):
        return _all_equal(diagonal_mm if any(has_border) else 0.0)
    distances_mm = _pooled_distances_mm(*borders, spacing_mm)
    return SurfaceDistances(
        hd_mm=float(distances_mm.max()),
        hd95_mm=float(np.percentile(distances_mm, 95)),
        assd_mm=float(distances_mm.mean(dtype=np.float64)),
    )


def border_voxels(mask: Bool[NDArray[Any], "i j k"]) -> Bool[NDArray[Any], "i j k"]:
    """Voxels of a mask with a face neighbour in the array that is not in the mask.

    In a 2D image (an axis of one voxel) that is the outline. Empty if the mask is empty
    or fills the array.
    """
    inner = mask.copy()
    for axis in range(mask.ndim):
        # Views with this axis first: what is written to one lands in ``inner``.
        along, original = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        along[1:] &= original[:-1]
        along[:-1] &= original[1:]
    return mask & ~inner


def _pooled_distances_mm(
    first_border: Bool[NDArray[Any], "i j k"],
    second_border: Bool[NDArray[Any], "i j k"],
    spacing_mm: Sequence[float],
) -> Float32[NDArray[Any], " border_voxel"]:
    """Distance of each border voxel to the other border; neither may be empty."""
    to_second = _distance_to_mm(second_border, spacing_mm)[first_border]
    to_first = _distance_to_mm(first_border, spacing_mm)[second_border]
    return np.concatenate([to_second, to_first])


def _distance_to_mm(
    border: Bool[NDArray[Any], "i j k"], spacing_mm: Sequence[float]
) -> Float32[NDArray[Any], "i j k"]:
    """Distance of each voxel to the nearest border voxel."""
    # black_border would take the edge of the array for a border.
    return edt.edt(~border, anisotropy=tuple(spacing_mm), black_border=False)


def _window_around(mask: Bool[NDArray[Any], "i j k"]) -> tuple[slice, ...]:
    """Smallest box that holds a mask, which is not empty, and its neighbours."""
    window = []
    for axis, length in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        start, stop = int(occupied[0]) - 1, int(occupied[-1]) + 2
        window.append(slice(max(start, 0), min(stop, length)))
    return tuple(window)


def _all_equal(distance_mm: float) -> SurfaceDistances:
    return SurfaceDistances(distance_mm, distance_mm, distance_mm)
