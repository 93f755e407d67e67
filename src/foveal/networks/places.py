"""Where the voxels of a layer lie on the grid of the logits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def spread(
    activation: Float[Tensor, "patch feature *space"],
    window: Sequence[slice],
    strides: Sequence[int],
    offsets: Sequence[int],
) -> Float[Tensor, "patch feature *part"]:
    """A part of the grid of the logits, with the layer's voxel that covers each.

    Made of slices, copies and blocks, whose gradients are sums in a fixed order.

    Args:
        activation: Of the layer.
        window: First voxel and end of the part along every axis.
        strides: Voxels of the logits that one of the layer covers.
        offsets: The first voxel of the logits that the layer's first one covers; may be
            negative, where the layer begins before the logits. Beyond the layer's
            ends its outermost voxels are repeated.
    """
    inside = []
    for axis, (part, stride, offset) in enumerate(
        zip(window, strides, offsets, strict=True), start=2
    ):
        first = (part.start - offset) // stride
        last = (part.stop - 1 - offset) // stride
        activation = _from_to(activation, axis, first, last)
        start = part.start - offset - first * stride
        inside.append(slice(start, start + part.stop - part.start))
    return repeated(activation, strides)[:, :, *inside]


def repeated(
    features: Float[Tensor, "patch feature *space"], factors: Sequence[int]
) -> Float[Tensor, "patch feature *larger"]:
    """Every voxel as a block."""
    if max(factors) == 1:
        return features
    # "nearest" multiplies rounded numbers, and misses by one where they fall short.
    return F.interpolate(
        features, scale_factor=[float(f) for f in factors], mode="nearest-exact"
    )


def _from_to(activation: Tensor, axis: int, first: int, last: int) -> Tensor:
    """Voxels ``first`` to ``last`` along an axis; the outermost beyond the ends."""
    length = activation.shape[axis]
    low, high = max(first, 0), min(last, length - 1)
    before = min(-first, last - first + 1)
    after = min(last - length + 1, last - first + 1)
    return torch.cat(
        [
            *[activation.narrow(axis, 0, 1)] * before,
            *([activation.narrow(axis, low, high - low + 1)] if low <= high else []),
            *[activation.narrow(axis, length - 1, 1)] * after,
        ],
        dim=axis,
    )
