"""Which input voxels an output voxel depends on, followed back layer by layer.

All of it is along one axis; networks do it once per axis. A layer maps an interval of
its output to the interval of its input that this output was made of.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable  # the run-time shape checks look at signatures with it
class Layer(Protocol):
    """One layer along one axis."""

    def behind(self, low: int, high: int) -> tuple[int, int]:
        """First and last input voxel behind output voxels ``low`` to ``high``."""
        ...


@dataclass(frozen=True)
class Window:
    """Convolution or pooling.

    Output ``o`` reads ``kernel`` voxels, ``dilation`` apart, from
    ``o * stride - padding`` on.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def behind(self, low: int, high: int) -> tuple[int, int]:
        """See `Layer`."""
        return (
            low * self.stride - self.padding,
            high * self.stride - self.padding + (self.kernel - 1) * self.dilation,
        )


@dataclass(frozen=True)
class TransposedWindow:
    """Transposed convolution.

    Input ``i`` writes ``kernel`` voxels from ``i * stride - padding`` on.
    """

    kernel: int
    stride: int
    padding: int = 0

    def behind(self, low: int, high: int) -> tuple[int, int]:
        """See `Layer`."""
        return (
            -((self.kernel - 1 - low - self.padding) // self.stride),
            (high + self.padding) // self.stride,
        )


@dataclass(frozen=True)
class Repeat:
    """Upsampling by repetition."""

    factor: int

    def behind(self, low: int, high: int) -> tuple[int, int]:
        """See `Layer`."""
        return low // self.factor, high // self.factor


@dataclass(frozen=True)
class Interpolate:
    """Linear upsampling whose voxel centres span the same extent."""

    factor: int

    def behind(self, low: int, high: int) -> tuple[int, int]:
        """See `Layer`."""

        def place(voxel: int) -> float:
            return (voxel + 0.5) / self.factor - 0.5

        return math.floor(place(low)), math.ceil(place(high))


@dataclass(frozen=True)
class InterpolateBetween:
    """Linear upsampling of which every ``factor``-th output voxel is an input voxel."""

    factor: int

    def behind(self, low: int, high: int) -> tuple[int, int]:
        """See `Layer`."""
        return low // self.factor, -(-high // self.factor)


@dataclass(frozen=True)
class Shift:
    """The input lies ``offset`` voxels further than the output: a crop of its start."""

    offset: int

    def behind(self, low: int, high: int) -> tuple[int, int]:
        """See `Layer`."""
        return low + self.offset, high + self.offset


def behind(layers: Sequence[Layer], low: int, high: int) -> tuple[int, int]:
    """First and last voxel of the input of ``layers`` behind those of their output."""
    for layer in reversed(layers):
        low, high = layer.behind(low, high)
    return low, high


def reach(pathways: Sequence[Sequence[Layer]], alignment: int) -> tuple[int, int]:
    """Farthest input voxels behind an output voxel, relative to that voxel.

    Args:
        pathways: From input to output, layers in order of computation; the output
            depends on all of them.
        alignment: After as many voxels the geometry repeats.

    Returns:
        First and last, over all pathways and phases; the field is
        ``last - first + 1``.
    """
    first, last = [], []
    for phase in range(alignment):
        for layers in pathways:
            low, high = behind(layers, phase, phase)
            first.append(low - phase)
            last.append(high - phase)
    return min(first), max(last)


def field(pathways: Sequence[Sequence[Layer]], alignment: int) -> int:
    """Receptive field along the axis: the union over pathways and phases."""
    first, last = reach(pathways, alignment)
    return last - first + 1
