"""Boxes around what is worth looking at."""

import numpy as np
from numpy.typing import NDArray

from foveal.errors import CaseError

Window = tuple[slice, slice, slice]


def nonzero_voxels(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels ``(i, j, k)`` that are not zero in at least one channel."""
    inside = np.zeros(image.shape[1:], np.bool_)
    for channel in image:
        inside |= channel != 0
    return inside


def whole_window(shape: tuple[int, ...]) -> Window:
    """The window that keeps everything."""
    i, j, k = (slice(0, length) for length in shape)
    return i, j, k


def bounding_box(inside: NDArray[np.bool_]) -> Window:
    """Smallest window that holds every true voxel.

    Raises:
        CaseError: No voxel is true.
    """
    slices = []
    for axis in range(3):
        across = tuple(other for other in range(3) if other != axis)
        indices = np.flatnonzero(inside.any(axis=across))
        if len(indices) == 0:
            raise CaseError(
                "there is nothing to crop to: the mask is empty or the image is zero "
                "everywhere; correct the file or take the case out of the data set"
            )
        slices.append(slice(int(indices[0]), int(indices[-1]) + 1))
    i, j, k = slices
    return i, j, k
