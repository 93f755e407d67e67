"""How far the surfaces of two masks lie from each other, in millimetres.

The surface of a mask is its border voxels: those with one of the six neighbours outside
the mask or outside the image. The distance of a border voxel is that between its centre
and the centre of the nearest border voxel of the other mask. Distances of both
directions are pooled, as in the program of the CHAOS challenge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import edt
import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from foveal.metrics.masks import require_same_shape

_EMPTY = "Both masks empty: NaN, not averaged; one empty: diagonal of the image."

DEFINITIONS = {
    "hd_mm": (
        "Hausdorff distance: largest distance from a border voxel of either mask to "
        f"the other's border. {_EMPTY}"
    ),
    "hd95_mm": (
        "95th percentile of the distances from the border voxels of both masks, "
        f"pooled, to the other's border. {_EMPTY}"
    ),
    "assd_mm": (
        "Average symmetric surface distance: mean of the distances from the border "
        f"voxels of both masks, pooled, to the other's border. {_EMPTY}"
    ),
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
        included, if one is: a structure that was missed counts as far off.

    Raises:
        GeometryError: The masks differ in shape.
    """
    require_same_shape(prediction, reference)
    is_empty = not prediction.any(), not reference.any()
    if all(is_empty):
        return SurfaceDistances(float("nan"), float("nan"), float("nan"))
    if any(is_empty):
        diagonal_mm = float(np.linalg.norm(np.multiply(prediction.shape, spacing_mm)))
        return SurfaceDistances(diagonal_mm, diagonal_mm, diagonal_mm)
    distances_mm = pooled_distances_mm(prediction, reference, spacing_mm)
    return SurfaceDistances(
        hd_mm=float(distances_mm.max()),
        hd95_mm=float(np.percentile(distances_mm, 95)),
        assd_mm=float(distances_mm.mean(dtype=np.float64)),
    )


def pooled_distances_mm(
    prediction: Bool[NDArray[Any], "_ _ _"],
    reference: Bool[NDArray[Any], "_ _ _"],
    spacing_mm: Sequence[float],
) -> Float32[NDArray[Any], " border_voxel"]:
    """Distance of each border voxel to the other mask's border.

    Args:
        prediction: Mask ``(i, j, k)``, not empty.
        reference: Mask on the same grid, not empty.
        spacing_mm: Voxel edge lengths, in axis order.

    Returns:
        Those of the prediction, then those of the reference.
    """
    window = _window_around(prediction, reference)
    # One voxel of background around the crop stands for what was cut off. An axis of
    # one voxel (a 2D image) stays: nothing lies beyond its slice.
    margins = [(0, 0) if length == 1 else (1, 1) for length in prediction.shape]
    prediction_border = border_voxels(np.pad(prediction[window], margins))
    reference_border = border_voxels(np.pad(reference[window], margins))
    to_reference = _distance_to_mm(reference_border, spacing_mm)[prediction_border]
    to_prediction = _distance_to_mm(prediction_border, spacing_mm)[reference_border]
    return np.concatenate([to_reference, to_prediction])


def border_voxels(mask: Bool[NDArray[Any], "i j k"]) -> Bool[NDArray[Any], "i j k"]:
    """Voxels of a mask that an erosion by the six face neighbours takes away.

    A voxel at the edge of the array is a border voxel. An axis of one voxel does not
    count, so that in a 2D image the border is the outline; the only voxel of an image
    is its own border.
    """
    if mask.size == 1:
        return mask.copy()
    inner = mask.copy()
    for axis, length in enumerate(mask.shape):
        if length == 1:
            continue
        # Views with this axis first: what is written to one lands in ``inner``.
        along, original = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        along[1:] &= original[:-1]
        along[:-1] &= original[1:]
        along[[0, -1]] = False
    return mask & ~inner


def _distance_to_mm(
    border: Bool[NDArray[Any], "i j k"], spacing_mm: Sequence[float]
) -> Float32[NDArray[Any], "i j k"]:
    """Distance of each voxel to the nearest border voxel."""
    # black_border would take the edge of the array for a border.
    return edt.edt(~border, anisotropy=tuple(spacing_mm), black_border=False)


def _window_around(
    first: Bool[NDArray[Any], "i j k"], second: Bool[NDArray[Any], "i j k"]
) -> tuple[slice, ...]:
    """Smallest box that holds both masks; at least one is not empty."""
    union = first | second
    window = []
    for axis in range(union.ndim):
        others = tuple(other for other in range(union.ndim) if other != axis)
        occupied = np.flatnonzero(union.any(axis=others))
        window.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(window)
