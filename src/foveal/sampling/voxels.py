"""Sets of voxels that a patch may be drawn around, and draws from them.

A set gives every voxel of a case a weight. To draw one in a time that does not grow
with the volume, the weights are summed once per block; a draw finds its block among
these sums and reads that one block only.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from foveal.sampling.cases import SampledCase

BLOCK_LENGTH = 32
"""Voxels per axis of a block: that of the store's tiles, so that a draw opens one."""

Window = tuple[slice, slice, slice]

Weights = Callable[[Window], NDArray[np.float64]]
"""Weights of the voxels of a window, not negative."""


@runtime_checkable  # the run-time shape checks look at signatures with it
class Voxels(Protocol):
    """A set of voxels with weights; equal sets are equal and have the same hash."""

    def total(self, case: SampledCase) -> float | None:
        """Sum of the weights; ``None`` if only `weights` tell."""
        ...

    def drawn(
        self, case: SampledCase, generator: torch.Generator
    ) -> tuple[int, int, int] | None:
        """Draw by weight; ``None`` if there is no faster way than a `VoxelTable`."""
        ...

    def weights(self, case: SampledCase, window: Window) -> NDArray[np.float64]:
        """Weights in a window."""
        ...


@dataclass(frozen=True)
class Centres:
    """Voxels around which a patch lies inside the volume, each of weight 1.

    Along an axis shorter than the patch all voxels are in it: the patch is the same
    whichever is meant.
    """

    patch_size: tuple[int, int, int]

    def total(self, case: SampledCase) -> float | None:
        """Number of the voxels."""
        return float(math.prod(len(axis) for axis in self._ranges(case.shape)))

    def drawn(
        self, case: SampledCase, generator: torch.Generator
    ) -> tuple[int, int, int] | None:
        """Each equally likely."""
        i, j, k = (
            axis[int(torch.randint(len(axis), (), generator=generator))]
            for axis in self._ranges(case.shape)
        )
        return i, j, k

    def weights(self, case: SampledCase, window: Window) -> NDArray[np.float64]:
        """1 in the box of centres, 0 outside."""
        along_i, along_j, along_k = (
            np.array([n in axis for n in range(part.start, part.stop)], np.float64)
            for part, axis in zip(window, self._ranges(case.shape), strict=True)
        )
        return along_i[:, None, None] * along_j[:, None] * along_k

    def _ranges(self, shape: Sequence[int]) -> list[range]:
        return [
            range(size // 2, length - size + size // 2 + 1)
            if size <= length
            else range(length)
            for size, length in zip(self.patch_size, shape, strict=True)
        ]


@dataclass(frozen=True)
class OfClasses:
    """Voxels of some inside classes, each of weight 1."""

    classes: tuple[int, ...]

    def total(self, case: SampledCase) -> float | None:
        """Number of the voxels; 0 in an unlabelled case."""
        if not case.class_counts:
            return 0.0
        return float(sum(case.class_counts[number] for number in self.classes))

    def drawn(
        self, case: SampledCase, generator: torch.Generator
    ) -> tuple[int, int, int] | None:
        """Each equally likely, found in the case's lists; background has none."""
        if 0 in self.classes:
            return None
        counts = [case.class_counts[number] for number in self.classes]
        n = int(torch.randint(sum(counts), (), generator=generator))
        for number, count in zip(self.classes, counts, strict=True):
            if n < count:
                return case.class_voxel(number, n)
            n -= count
        raise AssertionError("n is below the sum of the counts")

    def weights(self, case: SampledCase, window: Window) -> NDArray[np.float64]:
        """1 where a class is one of these."""
        is_member = np.zeros(256, np.float64)
        is_member[list(self.classes)] = 1.0
        return is_member[case.read_label_map(window)]


@dataclass(frozen=True)
class InMask:
    """Voxels of the case's mask, each of weight 1; without a mask all voxels."""

    def total(self, case: SampledCase) -> float | None:
        """Known without reading if there is no mask."""
        return float(math.prod(case.shape)) if case.mask is None else None

    def drawn(
        self, case: SampledCase, generator: torch.Generator
    ) -> tuple[int, int, int] | None:
        """Directly if there is no mask."""
        if case.mask is not None:
            return None
        i, j, k = (
            int(torch.randint(length, (), generator=generator)) for length in case.shape
        )
        return i, j, k

    def weights(self, case: SampledCase, window: Window) -> NDArray[np.float64]:
        """1 in the mask."""
        if case.mask is None:
            return np.ones([part.stop - part.start for part in window], np.float64)
        return (case.read_mask(window) > 0).astype(np.float64)


@dataclass(frozen=True)
class ByWeightMap:
    """All voxels, by the case's weight map; it must have one."""

    def total(self, case: SampledCase) -> float | None:
        """Only the map tells."""
        return None

    def drawn(
        self, case: SampledCase, generator: torch.Generator
    ) -> tuple[int, int, int] | None:
        """Only the map tells."""
        return None

    def weights(self, case: SampledCase, window: Window) -> NDArray[np.float64]:
        """The user's weights."""
        return case.read_weight_map(window).astype(np.float64)


@dataclass(frozen=True, eq=False)
class VoxelTable:
    """Cumulative sums of weights, to draw one voxel without reading the others."""

    corners: NDArray[np.int64]
    """First voxel of each block that has a weight, ``(block, axis)``."""

    ends: NDArray[np.float64]
    """Sum of the weights up to and with each of these blocks."""

    shape: tuple[int, int, int]

    @property
    def total(self) -> float:
        """Sum of all weights; 0 if no voxel has any."""
        return float(self.ends[-1]) if len(self.ends) else 0.0

    def voxel(self, share: float, weights: Weights) -> tuple[int, int, int]:
        """The voxel at which the cumulative weight exceeds a share of the total.

        Args:
            share: In [0, 1), uniform for a draw.
            weights: Those that the table was made of.
        """
        wanted = share * self.total
        block = min(
            int(np.searchsorted(self.ends, wanted, side="right")), len(self.ends) - 1
        )
        before = self.ends[block - 1] if block else 0.0
        corner = self.corners[block].tolist()
        inside = weights(_block(corner, self.shape))
        sums = inside.ravel().cumsum()
        place = int(np.searchsorted(sums, wanted - before, side="right"))
        # Rounding may lead beyond the last voxel that has a weight.
        last = int(np.searchsorted(sums, sums[-1], side="left"))
        i, j, k = np.unravel_index(min(place, last), inside.shape)
        return corner[0] + int(i), corner[1] + int(j), corner[2] + int(k)


def voxel_tables(
    shape: tuple[int, int, int], weights: Sequence[Weights]
) -> list[VoxelTable]:
    """Sum several weights of a volume block by block, all of them on the way through.

    Args:
        shape: Of the volume.
        weights: Each gets one table.
    """
    corners = list(itertools.product(*(range(0, n, BLOCK_LENGTH) for n in shape)))
    sums = np.zeros((len(weights), len(corners)))
    for place, corner in enumerate(corners):
        window = _block(corner, shape)
        for number, of_window in enumerate(weights):
            sums[number, place] = of_window(window).sum()
    return [
        VoxelTable(np.array(corners)[found > 0], np.cumsum(found[found > 0]), shape)
        for found in sums
    ]


def _block(corner: Sequence[int], shape: Sequence[int]) -> Window:
    i, j, k = (
        slice(start, min(start + BLOCK_LENGTH, length))
        for start, length in zip(corner, shape, strict=True)
    )
    return i, j, k
