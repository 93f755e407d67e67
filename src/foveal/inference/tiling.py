"""Where windows lie and how much each of their voxels counts.

Weights along one axis are divided by their sum over all windows, so that overlapping
windows add up to exactly one and no division is left for later. The product over the
axes keeps this property, as the windows form a regular product of their starts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SIGMA_FRACTION = 1 / 8
"""Of the patch; nnU-Net's choice."""


@dataclass(frozen=True, eq=False)
class AxisTiling:
    """Windows along one axis of a volume."""

    starts: tuple[int, ...]

    weights: Float[Tensor, "window size"]
    """Positive; over all windows they sum to 1 at every voxel."""


def tile_axis(length: int, size: int, overlap_fraction: float) -> AxisTiling:
    """Cover an axis with the fewest windows of ``size``, evenly spread.

    Args:
        length: Of the volume, in voxels, at least ``size``.
        size: Of a window, in voxels.
        overlap_fraction: Least part of a window shared with the next, in [0, 1).
    """
    starts = window_starts(length, size, overlap_fraction)
    profile = gaussian_profile(size)
    total = torch.zeros(length)
    for start in starts:
        total[start : start + size] += profile
    weights = torch.stack([profile / total[start : start + size] for start in starts])
    return AxisTiling(starts, weights)


def window_starts(length: int, size: int, overlap_fraction: float) -> tuple[int, ...]:
    """First voxels of the windows; the outermost are flush with both ends."""
    steps = math.ceil((length - size) / max(size * (1 - overlap_fraction), 1.0))
    return tuple(
        round(step * (length - size) / max(steps, 1)) for step in range(steps + 1)
    )


def gaussian_profile(size: int) -> Float[Tensor, " size"]:
    """Positive weights along a window, 1 at its centre."""
    offset = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    return torch.exp(-0.5 * (offset / (SIGMA_FRACTION * size)) ** 2)


def padding_to(
    spatial_shape: Sequence[int], patch_size: Sequence[int]
) -> list[tuple[int, int]]:
    """Voxels to add before and after each axis so that it holds one patch."""
    missing = [
        max(size - length, 0)
        for length, size in zip(spatial_shape, patch_size, strict=True)
    ]
    return [(count // 2, count - count // 2) for count in missing]
