"""Where the tiles of a volume lie and how much each of their voxels counts.

A padded network knows less at the borders of what it sees, so its tiles overlap and
their centres count most. A valid one puts out only what it fully sees, so its tiles
adjoin, and how a volume is cut never changes the answer.

Weights along one axis are divided by their sum over all tiles, so that overlapping
tiles add up to exactly one and no division is left for later. The product over the
axes keeps this property, as the tiles form a regular product of their starts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

SIGMA_FRACTION = 1 / 8
"""Of the patch; nnU-Net's choice."""

MOST_VOXELS = 2**19
"""Put out at once by a valid network whose tile nobody chose, about 80 along each axis.

Larger tiles share more of the margins' work, but with a hundred and more features per
voxel they soon fill a gigabyte. The same on every machine, so that it decides nothing.
"""


@dataclass(frozen=True, eq=False)
class AxisTiling:
    """Tiles along one axis of a volume."""

    padding: tuple[int, int]
    """Voxels of value 0 that the volume needs before its first and after its last."""

    size: int
    """Of what the network takes in, in voxels."""

    starts: tuple[int, ...]
    """First voxels, in the padded volume, of what the network takes in; and of what it
    puts out, counted from the first voxel that any tile puts out."""

    weights: Float[Tensor, "tile output"]
    """Positive; over all tiles they sum to 1 at every voxel that is put out."""

    skipped: int
    """Voxels that are put out before the first of the volume."""

    @property
    def output_size(self) -> int:
        """Of what the network puts out, in voxels."""
        return self.weights.shape[1]

    @property
    def output_length(self) -> int:
        """Voxels that all tiles together put out."""
        return self.starts[-1] + self.output_size


@runtime_checkable  # the run-time shape checks look at signatures with it
class Tiles(Protocol):
    """How volumes of any shape are cut for a network."""

    @property
    def batch_size(self) -> int:
        """Tiles given to the network at once."""
        ...

    def along_axes(self, shape: Sequence[int]) -> tuple[AxisTiling, ...]:
        """Tiles of a volume of this shape, per axis."""
        ...


@dataclass(frozen=True)
class OverlappingTiles:
    """For padded networks: tiles inside the volume, trusted most at their centres.

    An axis shorter than the patch is padded on both sides.
    """

    patch_size: tuple[int, ...]
    """In voxels."""

    overlap_fraction: float
    """Least part of a tile shared with the next, in [0, 1)."""

    batch_size: int
    """Tiles given to the network at once."""

    def along_axes(self, shape: Sequence[int]) -> tuple[AxisTiling, ...]:
        """The fewest tiles that overlap enough, evenly spread, per axis."""
        return tuple(
            overlapping_tiles(length, size, self.overlap_fraction)
            for length, size in zip(shape, self.patch_size, strict=True)
        )


@dataclass(frozen=True)
class AdjoiningTiles:
    """For valid networks: tiles whose outputs adjoin, from the first voxel on.

    The volume is padded by the margins, and the last tile reaches beyond its end; it is
    not shifted, as upsampling by repetition depends on where a tile begins.
    """

    margins: tuple[tuple[int, int], ...]
    """Per axis, input voxels before the first and after the last output voxel."""

    alignment: tuple[int, ...]
    """Per axis, starts and lengths of outputs are multiples of this."""

    batch_size: int
    """Tiles given to the network at once."""

    patch_size: tuple[int, ...] | None = None
    """Taken in, in voxels; must fit the network. ``None``: chosen for every volume, so
    that a batch puts out no more than `MOST_VOXELS`."""

    def along_axes(self, shape: Sequence[int]) -> tuple[AxisTiling, ...]:
        """As many tiles as cover the volume, per axis."""
        if self.patch_size is None:
            output_shape = large_output_shape(
                shape, self.margins, self.alignment, MOST_VOXELS // self.batch_size
            )
        else:
            output_shape = tuple(
                size - before - after
                for size, (before, after) in zip(
                    self.patch_size, self.margins, strict=True
                )
            )
        return tuple(
            adjoining_tiles(length, size, margin)
            for length, size, margin in zip(
                shape, output_shape, self.margins, strict=True
            )
        )


def overlapping_tiles(length: int, size: int, overlap_fraction: float) -> AxisTiling:
    """Cover an axis with the fewest tiles of ``size``, evenly spread.

    Args:
        length: Of the volume, in voxels.
        size: Of a tile, in voxels.
        overlap_fraction: Least part of a tile shared with the next, in [0, 1).
    """
    missing = max(size - length, 0)
    padding = missing // 2, missing - missing // 2
    length += missing
    starts = tile_starts(length, size, overlap_fraction)
    profile = gaussian_profile(size)
    total = torch.zeros(length)
    for start in starts:
        total[start : start + size] += profile
    weights = torch.stack([profile / total[start : start + size] for start in starts])
    return AxisTiling(padding, size, starts, weights, skipped=padding[0])


def tile_starts(length: int, size: int, overlap_fraction: float) -> tuple[int, ...]:
    """First voxels of the tiles; the outermost are flush with both ends."""
    steps = math.ceil((length - size) / max(size * (1 - overlap_fraction), 1.0))
    return tuple(
        round(step * (length - size) / max(steps, 1)) for step in range(steps + 1)
    )


def gaussian_profile(size: int) -> Float[Tensor, " size"]:
    """Positive weights along a tile, 1 at its centre."""
    offset = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    return torch.exp(-0.5 * (offset / (SIGMA_FRACTION * size)) ** 2)


def adjoining_tiles(
    length: int, output_size: int, margin: tuple[int, int]
) -> AxisTiling:
    """Cover an axis from its first voxel on with tiles that put out ``output_size``.

    Args:
        length: Of the volume, in voxels.
        output_size: In voxels.
        margin: Input voxels before the first and after the last output voxel.
    """
    before, after = margin
    count = math.ceil(length / output_size)
    return AxisTiling(
        padding=(before, after + count * output_size - length),
        size=before + output_size + after,
        starts=tuple(tile * output_size for tile in range(count)),
        weights=torch.ones(count, output_size),
        skipped=0,
    )


def large_output_shape(
    shape: Sequence[int],
    margins: Sequence[tuple[int, int]],
    alignment: Sequence[int],
    most_voxels: int,
) -> tuple[int, ...]:
    """Output of one tile of a valid network: large, and no larger than needed.

    The volume is cut in equal parts, again and again along the axis where the margins
    are the smallest share of a part, until it is small enough. So parts become cubes,
    but slices of a 2D network are parted first.

    Args:
        shape: Of the volume, in voxels.
        margins: Per axis, input voxels before and after the output.
        alignment: Per axis, what output lengths are multiples of.
        most_voxels: Of the output; passed only if the smallest output is larger.
    """

    def part(axis: int, count: int) -> int:
        """Length of one of ``count`` parts of an axis."""
        return alignment[axis] * math.ceil(shape[axis] / count / alignment[axis])

    parts = [part(axis, 1) for axis in range(len(shape))]
    while math.prod(parts) > most_voxels:
        divisible = [
            axis for axis, length in enumerate(parts) if length > alignment[axis]
        ]
        if not divisible:
            break
        axis = min(divisible, key=lambda axis: sum(margins[axis]) / parts[axis])
        # The next smaller part needs as many.
        count = math.ceil(shape[axis] / (parts[axis] - alignment[axis]))
        parts[axis] = part(axis, count)
    return tuple(parts)
