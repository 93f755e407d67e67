"""VGG16 as several segmentation networks begin with it, and the way back by unpooling.

Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556, configuration D. Differs:
the fully connected layers become convolutions in the networks that use them, pooling
covers a last odd row or column (as Caffe's does), and widths can be chosen.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.networks.geometry import Layer, Repeat, Window

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Per stage, the finest first; every stage ends with pooling by 2."""

FULLY_CONNECTED_KERNEL = 7
"""Of the first fully connected layer: the whole last pooling of a 224 x 224 image."""

NORM_SHIFT = 0.001
"""Of batch norm at the start, in the model files of SegNet, DeconvNet and DecoupledNet:
no unit begins at the kink of its ReLU."""


class Pooled(NamedTuple):
    """What one stage hands on."""

    maps: Float[Tensor, "patch channel i j"]
    indices: Int[Tensor, "patch channel i j"]
    """Of every maximum, counted through the plane that was pooled."""

    shape: tuple[int, int]
    """Of the plane that was pooled."""


class VggEncoder(nn.Module):
    """The thirteen 3 x 3 convolutions, with ReLU, and the five poolings.

    Three channels and the published features (64, 128, 256, 512, 512) have 14,714,688
    weights and biases.

    Args:
        in_channels: Of the image.
        features: Per stage, finest first.
        norm: Batch norm after every convolution.
        input_padding: Zeros around the image, at the first convolution; at 1 the
            resolution halves with every stage and nothing else changes the size.
    """

    def __init__(
        self,
        in_channels: int,
        features: Sequence[int],
        *,
        norm: bool,
        input_padding: int = 1,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for number, convolutions in enumerate(CONVOLUTIONS):
            self.stages.append(
                convolution_stage(
                    in_channels,
                    [features[number]] * convolutions,
                    norm=norm,
                    padding=input_padding if number == 0 else 1,
                )
            )
            in_channels = features[number]

    def forward(self, image: Float[Tensor, "patch channel i j"]) -> list[Pooled]:
        """What every stage pools, finest first."""
        pooled: list[Pooled] = []
        maps = image
        for stage in self.stages:
            features = stage(maps)
            maps, indices = F.max_pool2d(
                features, 2, ceil_mode=True, return_indices=True
            )
            pooled.append(Pooled(maps, indices, tuple(features.shape[2:])))
        return pooled


class UnpoolingDecoder(nn.Module):
    """The encoder in reverse: maxima return to where they were found, then convolve.

    Args:
        features: Of the encoder, finest first.
        transposed: Convolve as the transpose of the encoder's; the same functions.
        finest_convolutions: In the last stage.
    """

    def __init__(
        self, features: Sequence[int], *, transposed: bool, finest_convolutions: int
    ) -> None:
        super().__init__()
        convolutions = (finest_convolutions, *CONVOLUTIONS[1:])
        # The last convolution of a stage has the width of the next, finer one.
        last = (features[0], *features[:-1])
        self.stages = nn.ModuleList(
            convolution_stage(
                features[number],
                [features[number]] * (convolutions[number] - 1) + [last[number]],
                norm=True,
                transposed=transposed,
            )
            for number in reversed(range(len(CONVOLUTIONS)))
        )

    def forward(
        self, maps: Float[Tensor, "patch channel i j"], pooled: Sequence[Pooled]
    ) -> list[Tensor]:
        """Outputs of the stages, coarsest first.

        Args:
            maps: On the grid of the encoder's last pooling.
            pooled: By the encoder, finest first.
        """
        outputs = []
        for stage, where in zip(self.stages, reversed(pooled), strict=True):
            maps = stage(unpooled(maps, where.indices, where.shape))
            outputs.append(maps)
        return outputs


def convolution_stage(
    in_channels: int,
    features: Sequence[int],
    *,
    norm: bool,
    padding: int = 1,
    dilation: int = 1,
    transposed: bool = False,
) -> nn.Sequential:
    """Convolutions 3 x 3, each with batch norm if asked, and ReLU.

    Args:
        in_channels: Of the first.
        features: Of each.
        norm: Batch norm after every convolution.
        padding: Of the first; the others keep the size.
        dilation: Of all; padding is in its units.
        transposed: Transposed convolutions.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    for number, channels in enumerate(features, start=1):
        layers[f"conv{number}"] = kind(
            in_channels,
            channels,
            3,
            padding=(padding if number == 1 else 1) * dilation,
            dilation=dilation,
        )
        if norm:
            layers[f"norm{number}"] = batch_norm(channels)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        in_channels = channels
    return nn.Sequential(layers)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm that starts with a small shift."""
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.bias, NORM_SHIFT)
    return norm


def unpooled(
    maps: Float[Tensor, "patch channel i j"],
    indices: Int[Tensor, "patch channel i j"],
    shape: tuple[int, int],
) -> Float[Tensor, "patch channel fine_i fine_j"]:
    """Every value at the place that its index names, zeros elsewhere.

    PyTorch's own unpooling knows neither bfloat16 on the CPU nor a repeatable order on
    the GPU; places are all different, so writing them is both.
    """
    plane = maps.new_zeros(*maps.shape[:2], math.prod(shape))
    return plane.scatter(2, indices.flatten(2), maps.flatten(2)).unflatten(2, shape)


def at_least(
    maps: Float[Tensor, "patch channel i j"], length: int
) -> tuple[Tensor, tuple[slice, slice]]:
    """Zeros around maps that are smaller than a kernel, and where the maps then lie."""
    missing = [max(0, length - size) for size in maps.shape[2:]]
    before = [number // 2 for number in missing]
    (top, left), (rows, columns) = before, missing
    padded = F.pad(maps, (left, columns - left, top, rows - top))
    height, width = maps.shape[2:]
    return padded, (slice(top, top + height), slice(left, left + width))


def strides_of_taps() -> dict[str, int]:
    """Voxels of the image under one of a layer, by the layers' names.

    Of ``pool1`` to ``pool5`` and, coarsest first, of the decoder's stages.
    """
    deepest = len(CONVOLUTIONS)
    strides = {f"pool{n}": 2**n for n in range(1, deepest + 1)}
    return strides | {f"decoder.{n}": 2 ** (deepest - 1 - n) for n in range(deepest)}


def encoder_layers(stages: int, input_padding: int = 1) -> list[Layer]:
    """Geometry along one axis, through the pooling of the last of so many stages."""
    layers: list[Layer] = []
    for number, convolutions in enumerate(CONVOLUTIONS[:stages]):
        layers += [Window(3, padding=1)] * convolutions
        if number == 0:
            layers[0] = Window(3, padding=input_padding)
        layers.append(Window(2, stride=2))
    return layers


def decoder_layers() -> list[Layer]:
    """Geometry of unpooling and convolutions along one axis.

    The index of a maximum is of the window that its unpooled values fill, so a value
    depends on what repetition would give.
    """
    layers: list[Layer] = []
    for convolutions in reversed(CONVOLUTIONS):
        layers += [Repeat(2), *[Window(3, padding=1)] * convolutions]
    return layers


def convolution_names(encoder: str) -> dict[str, str]:
    """Parameters of a `VggEncoder` to their names in torchvision's ``vgg16``.

    Args:
        encoder: Its name in the network.
    """
    names = {}
    place = 0
    for stage, convolutions in enumerate(CONVOLUTIONS):
        for number in range(1, convolutions + 1):
            for kind in ("weight", "bias"):
                ours = f"{encoder}.stages.{stage}.conv{number}.{kind}"
                names[ours] = f"features.{place}.{kind}"
            place += 2  # a ReLU after each
        place += 1  # pooling
    return names


def fully_connected_names(prefix: str = "") -> dict[str, str]:
    """Parameters of ``fc6`` and ``fc7`` to their names in torchvision's ``vgg16``.

    The numbers are the same in the same order; the shape is a kernel's.
    """
    return {
        f"{prefix}{ours}.{kind}": f"classifier.{place}.{kind}"
        for ours, place in (("fc6", 0), ("fc7", 3))
        for kind in ("weight", "bias")
    }
