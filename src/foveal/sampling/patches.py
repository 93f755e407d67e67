"""Where a patch lies: its corner, given a voxel or drawn anywhere.

A corner is the first voxel of the patch. Along an axis where the volume is shorter than
the patch it is negative, so that the volume lies in the middle of the patch.
"""

from collections.abc import Sequence

import torch


def uniform_corner(
    patch_size: Sequence[int], spatial_shape: Sequence[int], generator: torch.Generator
) -> tuple[int, int, int]:
    """Draw a patch from all that lie inside the volume, each equally likely.

    Args:
        patch_size: In voxels, three axes.
        spatial_shape: Of the volume, in voxels.
        generator: The only source of randomness; gives one number per axis.
    """
    i, j, k = (
        int(torch.randint(max(length - size, 0) + 1, (), generator=generator))
        - _overhang(size, length)
        for size, length in zip(patch_size, spatial_shape, strict=True)
    )
    return i, j, k


def corner_around(
    voxel: Sequence[int], patch_size: Sequence[int], spatial_shape: Sequence[int]
) -> tuple[int, int, int]:
    """Centre a patch on a voxel, shifted no more than needed to stay inside.

    Args:
        voxel: Inside the volume.
        patch_size: In voxels, three axes.
        spatial_shape: Of the volume, in voxels.
    """
    i, j, k = (
        min(max(index - size // 2, 0), max(length - size, 0)) - _overhang(size, length)
        for index, size, length in zip(voxel, patch_size, spatial_shape, strict=True)
    )
    return i, j, k


def _overhang(size: int, length: int) -> int:
    """Voxels by which a patch begins before a volume that is shorter than it."""
    return max(size - length, 0) // 2
