"""Where voxels lie: grids, spacing, orientation, and when two grids are the same.

World axes are x y z in millimetres, RAS+ (x to the right, y to the front, z up), as in
NIfTI; files of other conventions are converted when read. Array axes are i j k in the
stored order of the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from foveal.errors import GeometryError

SAME_GRID_TOLERANCE_VOXELS = 0.01
"""Two grids are the same if no corner differs by more than this."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape of a volume and the place of its voxels in the world."""

    shape: tuple[int, int, int]
    """Voxels along i, j, k."""

    affine: NDArray[np.float64]
    """4 x 4, voxel index to millimetres, RAS+."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths along i, j, k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def orientation(self) -> str:
        """World direction in which each array axis runs, for example ``"RAS"``."""
        return "".join(str(code) for code in nib.aff2axcodes(self.affine))

    @property
    def diagonal_mm(self) -> float:
        """Length of the volume's diagonal, voxel edges included."""
        return float(np.linalg.norm(np.multiply(self.shape, self.spacing_mm)))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def corners_mm(self) -> NDArray[np.float64]:
        """Centres of the eight corner voxels in the world, ``(8, 3)``."""
        ends = [(0, length - 1) for length in self.shape]
        indices = np.array(list(product(*ends)), dtype=np.float64)
        return indices @ self.affine[:3, :3].T + self.affine[:3, 3]


def corner_distance_voxels(first: Grid, second: Grid) -> float:
    """Largest distance between corresponding corners, in voxels of the finer grid.

    Infinite if the shapes differ.
    """
    if first.shape != second.shape:
        return float("inf")
    distances = np.linalg.norm(first.corners_mm() - second.corners_mm(), axis=1)
    return float(distances.max()) / min(first.spacing_mm + second.spacing_mm)


def same_grid(first: Grid, second: Grid) -> bool:
    """Whether two volumes have the same shape and place in the world."""
    return corner_distance_voxels(first, second) <= SAME_GRID_TOLERANCE_VOXELS


@dataclass(frozen=True)
class Reorientation:
    """Permutation and reversal of axes that brings a volume to another orientation.

    Array axes are the last three; leading axes (channels, classes) stay.
    """

    permutation: tuple[int, int, int]
    """Axis ``n`` of the result is axis ``permutation[n]`` of the original."""

    reversed_axes: tuple[int, ...]
    """Axes of the result that run against the original."""

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """View of ``array`` in the new orientation."""
        leading = array.ndim - 3
        axes = [*range(leading), *(leading + axis for axis in self.permutation)]
        return np.flip(
            array.transpose(axes),
            tuple(leading + axis for axis in self.reversed_axes),
        )

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """View of ``array`` back in the original orientation."""
        leading = array.ndim - 3
        inverse = np.argsort(self.permutation)
        axes = [*range(leading), *(leading + int(axis) for axis in inverse)]
        return np.flip(
            array, tuple(leading + axis for axis in self.reversed_axes)
        ).transpose(axes)

    def apply_to_grid(self, grid: Grid) -> Grid:
        """Grid of the reoriented volume; every voxel keeps its place in the world."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1.0
        for axis, original_axis in enumerate(self.permutation):
            length = grid.shape[original_axis]
            is_reversed = axis in self.reversed_axes
            matrix[original_axis, axis] = -1.0 if is_reversed else 1.0
            matrix[original_axis, 3] = length - 1.0 if is_reversed else 0.0
        i, j, k = (grid.shape[axis] for axis in self.permutation)
        return Grid((i, j, k), grid.affine @ matrix)


def reorientation(grid: Grid, orientation: str) -> Reorientation:
    """Find how to bring a volume to ``orientation``, the nearest axes for oblique ones.

    Args:
        grid: Of the volume as stored.
        orientation: Three letters, one of each pair R/L, A/P, S/I.

    Raises:
        GeometryError: ``orientation`` does not name three different world axes.
    """
    try:
        target = orientations.axcodes2ornt(tuple(orientation))
    except (ValueError, KeyError) as error:
        raise GeometryError(
            f'orientation "{orientation}" must name three world axes, e.g. "RAS"'
        ) from error
    if len(orientation) != 3 or len(set(target[:, 0])) != 3:
        raise GeometryError(
            f'orientation "{orientation}" must name three world axes, e.g. "RAS"'
        )
    current = orientations.io_orientation(grid.affine)
    change = orientations.ornt_transform(current, target)
    # nibabel lists, per original axis, where it goes; we list where each comes from.
    permutation = [0, 0, 0]
    reversed_axes = []
    for original_axis, (axis, direction) in enumerate(change):
        permutation[int(axis)] = original_axis
        if direction < 0:
            reversed_axes.append(int(axis))
    i, j, k = permutation
    return Reorientation((i, j, k), tuple(sorted(reversed_axes)))


def cropped_grid(grid: Grid, window: Sequence[slice]) -> Grid:
    """Grid of ``volume[window]``; ``window`` has three slices with start and stop."""
    starts = np.array([axis.start for axis in window], dtype=np.float64)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ starts
    i, j, k = (axis.stop - axis.start for axis in window)
    return Grid((i, j, k), affine)


def resampled_grid(grid: Grid, shape: Sequence[int]) -> Grid:
    """Grid with another number of voxels over the same extent, edges kept in place."""
    factors = np.divide(grid.shape, shape)
    affine = grid.affine.copy()
    affine[:3, :3] = affine[:3, :3] * factors
    # The first voxel's centre moves by half the change of the voxel's size.
    affine[:3, 3] += grid.affine[:3, :3] @ ((factors - 1) / 2)
    i, j, k = shape
    return Grid((i, j, k), affine)
