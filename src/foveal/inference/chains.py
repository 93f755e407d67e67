"""Classifiers of patches, layer after layer, and what their strides do to an image.

A chain without padding makes one prediction of a patch as large as its receptive field.
Given a whole image it makes one every ``stride`` voxels. The files `patch_by_patch`,
`shift_and_stitch`, `fast_scanning` and `atrous` make one for every voxel.
"""

import itertools
import math
from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.errors import GeometryError
from foveal.networks.geometry import Window, behind

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)

POOLINGS = (nn.MaxPool2d, nn.MaxPool3d)

VOXEL_BY_VOXEL = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Identity,
)

VOXEL_BY_VOXEL_IN_EVALUATION = (
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Dropout3d,
)


class Chain:
    """Layers one after another, none of which pads.

    Args:
        layers: `nn.Sequential`s are opened. Convolutions and max pooling without
            padding, activations, and batch norm and dropout in evaluation mode.

    Raises:
        TypeError: It holds something else.
        ValueError: A layer pads, rounds up, or is in training mode.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.layers = tuple(_checked(layer) for layer in _opened(layers))
        self.windows = tuple(_windows(layer) for layer in self.layers)
        axes = {len(windows) for windows in self.windows if windows}
        if len(axes) != 1:
            raise ValueError(
                "a chain needs convolutions or poolings, all 2D or all 3D; these are "
                f"{[type(layer).__name__ for layer in self.layers]}"
            )
        self.axes = axes.pop()

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Voxels of the patch that one prediction is made of."""
        return tuple(
            1 + behind([window[axis] for window in self.windows if window], 0, 0)[1]
            for axis in range(self.axes)
        )

    @property
    def stride(self) -> tuple[int, ...]:
        """Voxels of the image between two predictions."""
        return tuple(
            math.prod(window[axis].stride for window in self.windows if window)
            for axis in range(self.axes)
        )

    def dense_shape(self, spatial_shape: Sequence[int]) -> tuple[int, ...]:
        """Predictions along each axis if there is one for every voxel.

        Raises:
            GeometryError: The image is smaller than the receptive field.
        """
        field = self.receptive_field
        if len(spatial_shape) != self.axes or any(
            length < seen for length, seen in zip(spatial_shape, field, strict=True)
        ):
            raise GeometryError(
                f"image {tuple(spatial_shape)} must be at least {field}, the receptive "
                "field of the chain"
            )
        return tuple(
            length - seen + 1 for length, seen in zip(spatial_shape, field, strict=True)
        )

    def __call__(
        self, image: Float[Tensor, "patch channel ..."]
    ) -> Float[Tensor, "patch class ..."]:
        """A prediction every ``stride`` voxels."""
        for layer in self.layers:
            image = layer(image)
        return image


def extended(
    image: Float[Tensor, "patch channel ..."], chain: Chain
) -> Float[Tensor, "patch channel ..."]:
    """Image with zeros at its ends, so that all shifted copies give equally many."""
    dense = chain.dense_shape(image.shape[2:])
    missing = [-length % step for length, step in zip(dense, chain.stride, strict=True)]
    # F.pad counts from the last axis.
    return F.pad(image, [n for after in reversed(missing) for n in (0, after)])


def shifted_copies(
    maps: Float[Tensor, "patch channel ..."], stride: Sequence[int]
) -> list[Float[Tensor, "patch channel ..."]]:
    """Crops that begin 0 to ``stride - 1`` voxels further along each axis."""
    lengths = [
        length - step + 1 for length, step in zip(maps.shape[2:], stride, strict=True)
    ]
    return [
        crop(maps, offset, lengths) for offset in itertools.product(*map(range, stride))
    ]


def interleaved(
    copies: Float[Tensor, "copies_and_patches class ..."], stride: Sequence[int]
) -> Float[Tensor, "patch class ..."]:
    """What was made of `shifted_copies`, in one batch, each voxel in its place."""
    axes = len(stride)
    apart = copies.unflatten(0, (*stride, -1))
    order = [axes, axes + 1]
    for axis in range(axes):
        order += [axes + 2 + axis, axis]
    lengths = [
        length * step for length, step in zip(copies.shape[2:], stride, strict=True)
    ]
    together = apart.permute(order)
    return together.reshape(*together.shape[:2], *lengths)


def crop(
    maps: Float[Tensor, "patch class ..."],
    corner: Sequence[int],
    spatial_shape: Sequence[int],
) -> Float[Tensor, "patch class ..."]:
    """Part of this shape whose first voxel is ``corner``."""
    window = tuple(
        slice(first, first + length)
        for first, length in zip(corner, spatial_shape, strict=True)
    )
    return maps[:, :, *window]


def _opened(layers: Iterable[nn.Module]) -> Iterable[nn.Module]:
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from _opened(layer)
        else:
            yield layer


def _checked(layer: nn.Module) -> nn.Module:
    name = type(layer).__name__
    if isinstance(layer, VOXEL_BY_VOXEL_IN_EVALUATION):
        if layer.training:
            raise ValueError(f"{name} is in training mode; call eval() first")
    elif isinstance(layer, (*CONVOLUTIONS, *POOLINGS)):
        padding = layer.padding
        if isinstance(padding, str) or any(_per_axis(padding, layer)):
            raise ValueError(
                f"{name} pads by {padding}; a copy that begins at another voxel would "
                "be padded elsewhere, so nothing may pad"
            )
        if isinstance(layer, POOLINGS) and (layer.ceil_mode or layer.return_indices):
            raise ValueError(
                f"{name} rounds up or returns indices; set ceil_mode and "
                "return_indices to False"
            )
    elif not isinstance(layer, VOXEL_BY_VOXEL):
        raise TypeError(
            f"{name} is no layer of a chain; there are convolutions, max pooling, "
            "activations, batch norm and dropout"
        )
    return layer


def _windows(layer: nn.Module) -> tuple[Window, ...]:
    """What a layer sees along each axis; empty for one that works voxel by voxel."""
    if not isinstance(layer, (*CONVOLUTIONS, *POOLINGS)):
        return ()
    kernel, stride, dilation = (
        _per_axis(value, layer)
        for value in (layer.kernel_size, layer.stride, layer.dilation)
    )
    return tuple(
        Window(size, step, dilation=apart)
        for size, step, apart in zip(kernel, stride, dilation, strict=True)
    )


def _per_axis(value: int | tuple[int, ...], layer: nn.Module) -> tuple[int, ...]:
    """Poolings keep a number for all axes as one number."""
    if not isinstance(value, int):
        return tuple(value)
    axes = 2 if isinstance(layer, nn.Conv2d | nn.MaxPool2d) else 3
    return (value,) * axes
