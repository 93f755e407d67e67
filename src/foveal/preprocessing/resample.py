"""Volumes on grids of other spacing over the same extent, edges kept in place.

The convention is that of `geometry.resampled_grid`: voxel ``o`` of the result has its
centre at ``(o + 0.5) * in_length / out_length - 0.5`` of the original. Beyond the outer
voxel centres the outer voxels count.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from foveal.case import IGNORED


class LinearTaps(NamedTuple):
    """Between which two voxels of an axis each voxel of the result lies."""

    lower: Tensor
    """Index before, int64."""

    upper: Tensor
    """Index after, int64; the same as ``lower`` at the ends."""

    weight: Tensor
    """Of ``upper``, in [0, 1), float32; that of ``lower`` is the rest."""


def linear_taps(in_length: int, out_length: int) -> LinearTaps:
    """Linear interpolation of one axis, row by row.

    Any rows of the result can be had from the original rows that their taps name, so a
    volume resampled slab by slab is the same as one resampled whole.
    """
    centres = torch.from_numpy(_centres(in_length, out_length)).clamp(0, in_length - 1)
    lower = centres.floor().long()
    upper = (lower + 1).clamp(max=in_length - 1)
    return LinearTaps(lower, upper, (centres - lower).float())


def resampled_shape(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    target_spacing_mm: Sequence[float],
) -> tuple[int, int, int]:
    """Voxels that cover the same extent at another spacing, at least one per axis."""
    i, j, k = (
        max(1, round(length * own / target))
        for length, own, target in zip(
            shape, spacing_mm, target_spacing_mm, strict=True
        )
    )
    return i, j, k


def resample_channel(
    channel: NDArray[np.float32], shape: Sequence[int]
) -> NDArray[np.float32]:
    """Resample linearly; to coarser voxels averaging over the new voxel's reach.

    One row of the result is made at a time, so little is held beside it.

    Args:
        channel: ``(i, j, k)``, contiguous.
        shape: Voxels wanted along i, j, k.
    """
    if channel.shape == tuple(shape):
        return channel
    along_i, along_j, along_k = (
        _weights(before, after, reach=max(before / after, 1.0))
        for before, after in zip(channel.shape, shape, strict=True)
    )
    result = np.empty(tuple(shape), np.float32)
    flat = channel.reshape(len(channel), -1)
    for row in range(shape[0]):
        plane = (along_i[[row]] @ flat).reshape(channel.shape[1:])
        result[row] = _resampled_plane(plane, along_j, along_k)
    return result


def resample_label_map(
    label_map: NDArray[np.uint8], shape: Sequence[int]
) -> NDArray[np.uint8]:
    """Give each voxel the label with the largest linearly interpolated share.

    Where shares are equal, structures win over `IGNORED` and that over background, so
    that thin structures survive; of two structures the lower number wins.

    Args:
        label_map: ``(i, j, k)`` inside labels.
        shape: Voxels wanted along i, j, k.
    """
    if label_map.shape == tuple(shape):
        return label_map
    along_i, along_j, along_k = (
        _weights(before, after, reach=1.0)
        for before, after in zip(label_map.shape, shape, strict=True)
    )
    result = np.zeros(tuple(shape), np.uint8)
    for row in range(shape[0]):
        taps = slice(along_i.indptr[row], along_i.indptr[row + 1])
        planes = label_map[along_i.indices[taps]]
        labelled = (planes != 0).any(axis=0)
        reached_j = along_j @ labelled.any(axis=1).astype(np.float32)
        reached_k = along_k @ labelled.any(axis=0).astype(np.float32)
        if reached_j.any() and reached_k.any():
            # Elsewhere there is only background, so the rest of the plane is skipped.
            to_j, from_j, part_j = _part_for(along_j, np.flatnonzero(reached_j))
            to_k, from_k, part_k = _part_for(along_k, np.flatnonzero(reached_k))
            result[row, to_j, to_k] = _largest_share(
                planes[:, from_j, from_k], along_i.data[taps], part_j, part_k
            )
    return result


def resample_mask(mask: NDArray[np.bool_], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Take the voxel nearest to the centre of each new one; of two, the later one.

    Args:
        mask: ``(i, j, k)``.
        shape: Voxels wanted along i, j, k.
    """
    if mask.shape == tuple(shape):
        return mask
    nearest = [
        (2 * np.arange(after) + 1) * before // (2 * after)
        for before, after in zip(mask.shape, shape, strict=True)
    ]
    return mask[np.ix_(*nearest)]


def _largest_share(
    planes: NDArray[np.uint8],
    row_weights: NDArray[np.float32],
    along_j: sparse.csr_array,
    along_k: sparse.csr_array,
) -> NDArray[np.uint8]:
    """Label of one row of the result from the planes ``(tap, j, k)`` around it."""
    is_present = np.zeros(256, np.bool_)
    is_present[planes] = True
    structures = np.flatnonzero(is_present[1:IGNORED]) + 1
    label = np.zeros((along_j.shape[0], along_k.shape[0]), np.uint8)
    largest = np.zeros(label.shape, np.float32)
    for value in (*structures, IGNORED, 0):
        if not is_present[value]:
            continue
        indicator = np.tensordot(row_weights, planes == value, axes=1)
        share = _resampled_plane(indicator, along_j, along_k)
        is_larger = share > largest
        label[is_larger] = value
        largest[is_larger] = share[is_larger]
    return label


def _part_for(
    weights: sparse.csr_array, reached: NDArray[np.intp]
) -> tuple[slice, slice, sparse.csr_array]:
    """Voxels of the result along an axis, from the first to the last of ``reached``.

    Returns:
        Slice of the result, slice of the original, and the weights between the two.
    """
    rows = slice(int(reached[0]), int(reached[-1]) + 1)
    needed = weights[rows].indices
    columns = slice(int(needed.min()), int(needed.max()) + 1)
    return rows, columns, weights[rows, columns]


def _resampled_plane(
    plane: NDArray[np.float32], along_j: sparse.csr_array, along_k: sparse.csr_array
) -> NDArray[np.float32]:
    return (along_k @ (along_j @ plane).T).T


def _weights(in_length: int, out_length: int, *, reach: float) -> sparse.csr_array:
    """Weights ``(out, in)`` that fall linearly to zero at ``reach`` original voxels.

    A reach of 1 is linear interpolation. Rows sum to 1.
    """
    centres = _centres(in_length, out_length)[:, np.newaxis]
    weights = np.maximum(0, 1 - np.abs(centres - np.arange(in_length)) / reach)
    weights /= weights.sum(axis=1, keepdims=True)
    return sparse.csr_array(weights.astype(np.float32))


def _centres(in_length: int, out_length: int) -> NDArray[np.float64]:
    """Centres of the result's voxels in voxels of the original."""
    return (np.arange(out_length, dtype=np.float64) + 0.5) * (
        in_length / out_length
    ) - 0.5
