"""The smoothness kernel: a Gaussian of the distance, as separable convolutions."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

DEVIATIONS_KEPT = 5.0
"""The kernel is cut off where it has fallen to 4e-6."""

LEAST_BLOCK = 64
"""Voxels of an axis convolved together, as one product of matrices."""


class MaskedSmoothness:
    """Weights `exp(-|x_a - x_b|^2 / 2)` between all pairs of voxels of a mask.

    Args:
        mask: Boolean `(i, j, k)`, the bounding box of the voxels.
        deviations: Standard deviation along each axis, in voxels; positive.
    """

    def __init__(self, mask: Tensor, deviations: Sequence[float]) -> None:
        self.shape = tuple(mask.shape)
        self.places = torch.nonzero(mask.flatten()).squeeze(1)
        self.deviations = tuple(deviations)

    def filter(
        self, values: Float[Tensor, "voxel channel"]
    ) -> Float[Tensor, "voxel channel"]:
        """Sum of all voxels' values, weighted by nearness; outside counts nothing.

        The voxel itself is included. Gradients reach the values.
        """
        num_channels = values.shape[1]
        box = values.new_zeros(num_channels, math.prod(self.shape))
        box = box.index_copy(1, self.places, values.T)
        box = box.reshape(num_channels, *self.shape)
        smoothed = gaussian_convolution(box, self.deviations).flatten(1)
        return smoothed[:, self.places].T


def gaussian_convolution(
    values: Float[Tensor, "channel i j k"], deviations: Sequence[float]
) -> Float[Tensor, "channel i j k"]:
    """Convolve with `exp(-|x|^2 / 2)`, 1 at its centre; outside the grid is zero."""
    for axis, deviation in enumerate(deviations, start=1):
        if values.shape[axis] > 1:
            values = AxisConvolution.apply(  # type: ignore[no-untyped-call]
                values, axis, deviation
            )
    return values


class AxisConvolution(torch.autograd.Function):
    """Convolution along one axis; its own adjoint, as the kernel is symmetric."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, axis: int, deviation: float) -> Tensor:  # noqa: ANN401 - PyTorch's context
        """Convolve."""
        ctx.axis, ctx.deviation = axis, deviation
        return convolved_along(values, axis, deviation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 - PyTorch's context
        """Convolve the gradient."""
        convolved = AxisConvolution.apply(  # type: ignore[no-untyped-call]
            gradient, ctx.axis, ctx.deviation
        )
        return convolved, None, None


def convolved_along(values: Tensor, axis: int, deviation: float) -> Tensor:
    """Convolve one axis, block by block as products with a banded matrix.

    A block reads its own voxels and a margin on both sides, so the cost is linear in
    the length of the axis; matrix products are what every machine does fastest.
    """
    length = values.shape[axis]
    radius = min(math.ceil(DEVIATIONS_KEPT * deviation), length - 1)
    block = max(LEAST_BLOCK, 2 * radius)
    lines = values.reshape(math.prod(values.shape[:axis]), length, -1)
    convolved = torch.empty_like(lines)
    positions = torch.arange(length, dtype=values.dtype, device=values.device)
    for start in range(0, length, block):
        stop = min(start + block, length)
        window = slice(max(0, start - radius), min(length, stop + radius))
        offsets = positions[start:stop, None] - positions[None, window]
        weights = torch.exp(-0.5 * (offsets / deviation).square())
        weights = weights * (offsets.abs() <= radius)
        if lines.shape[2] == 1:
            convolved[:, start:stop, 0] = lines[:, window, 0] @ weights.T
        else:
            convolved[:, start:stop] = weights @ lines[:, window]
    return convolved.reshape(values.shape)
