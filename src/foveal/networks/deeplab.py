"""DeepLabv2 and DeepLabv3: classification networks that see densely and far.

v2: Chen et al. 2018, https://arxiv.org/abs/1606.00915. v3: Chen et al. 2017,
https://arxiv.org/abs/1706.05587. Both are 2D. They differ from the papers: residual
networks are torchvision's (see `foveal.networks.resnet`); there is no conditional
random field and no second input scale; batch norm's statistics fade as PyTorch's do
(0.9 per step, 0.9997 in v3's paper), and they are trained.

Features lie at every 8th or 16th voxel, the first of all included, so an image of any
size comes out in its size, and the odd lengths of the papers, 321 and 513, end at a
feature. Between features logits are interpolated; beyond the last they are repeated.
"""

import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.geometry import InterpolateBetween, Layer, Window, field
from foveal.networks.initialisation import initialise
from foveal.networks.interface import Network, Output, asked, whole
from foveal.networks.places import spread
from foveal.networks.resnet import ResNet
from foveal.networks.vgg import (
    CONVOLUTIONS,
    convolution_names,
    convolution_stage,
)

CLASSIFIER_DEVIATION = 0.01
"""Of the normal distribution that classifiers are drawn from."""

V2_STRIDE = 8
"""Voxels between features of DeepLabv2."""


class DeepLabV2(Network):
    """The sum of four atrous classifiers on features 8 voxels apart.

    Parameters for RGB images: 44,048,532 with ``resnet101`` and 21 classes, 42,647,624
    with 2 classes; 37,877,652 with ``vgg16`` and 21 classes.

    With ``vgg16`` every classifier is three layers, fc6 to fc8, fc6 being an atrous 3x3
    convolution with 1024 features.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        backbone: Network that the features come from.
        first_features: After its first convolution; 64 in the paper.
        rates: Dilation of each classifier.
        dropout_fraction: Values dropped after fc6 and fc7, in training.
    """

    alignment = (1, 1)
    padding: Literal["same", "valid"] = "same"
    classifier_names = ("classifiers",)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        backbone: Literal["resnet101", "resnet50", "resnet34", "resnet18", "vgg16"],
        first_features: int,
        rates: Sequence[int],
        dropout_fraction: float,
    ) -> None:
        super().__init__()
        self.rates = tuple(rates)
        self.backbone: AtrousVgg16 | ResNet
        if backbone == "vgg16":
            # The branches' own layers differ, and are not among those with names.
            self.embedding_layer = f"stages.{len(CONVOLUTIONS) - 1}"
            self.backbone = AtrousVgg16(in_channels, first_features)
            hidden = 2 * self.backbone.out_channels
            self.branches = nn.ModuleList(
                _fully_connected(
                    self.backbone.out_channels, hidden, rate, dropout_fraction
                )
                for rate in rates
            )
            self.classifiers = nn.ModuleList(
                nn.Conv2d(hidden, num_classes, 1) for _ in rates
            )
        else:
            self.embedding_layer = "layer4"
            self.backbone = ResNet(
                in_channels,
                depth=int(backbone.removeprefix("resnet")),
                first_features=first_features,
                output_stride=V2_STRIDE,
            )
            self.branches = nn.ModuleList(nn.Identity() for _ in rates)
            self.classifiers = nn.ModuleList(
                nn.Conv2d(
                    self.backbone.out_channels,
                    num_classes,
                    3,
                    padding=rate,
                    dilation=rate,
                )
                for rate in rates
            )
        for classifier in self.classifiers:
            _draw_classifier(classifier)

    def forward(
        self, image: Float[Tensor, "patch channel i j"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits on the image's grid.

        Args:
            image: Of any size.
            taps: Any of the backbone's: ``layer1`` to ``layer4``, or ``stages.0`` to
                ``stages.4`` with ``vgg16``.
        """
        activations = self.backbone(image)
        features = activations[list(activations)[-1]]
        logits = torch.stack(
            [
                classify(branch(features))
                for branch, classify in zip(
                    self.branches, self.classifiers, strict=True
                )
            ]
        ).sum(dim=0)
        return Output(
            upsampled(logits, V2_STRIDE, image.shape[2:]),
            (),
            asked(activations, taps),
        )

    def pretrained_names(self) -> Mapping[str, str]:
        """The backbone, as torchvision names it."""
        if isinstance(self.backbone, AtrousVgg16):
            return convolution_names("backbone")
        return {f"backbone.{name}": name for name in self.backbone.state_dict()}

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """The last three of the backbone."""
        return tuple(self.backbone.strides)[-3:]

    def at_output(
        self,
        tap: str,
        activation: Float[Tensor, "patch feature m n"],
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Float[Tensor, "patch feature i j"]:
        """See `Network`; every feature stands for the voxels that are nearest to it."""
        part = whole(output_shape) if window is None else window
        stride = self.backbone.strides[tap]
        offset = -(stride // 2)
        return spread(activation, part, (stride, stride), (offset, offset))

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """Through every convolution and the most dilated classifier."""
        rate = max(self.rates)
        layers = [
            *self.backbone.pathway,
            Window(3, 1, rate, rate),
            InterpolateBetween(V2_STRIDE),
        ]
        return (field([layers], V2_STRIDE),) * 2


class DeepLabV3(Network):
    """Atrous convolutions of several rates and the image's mean, put together.

    Parameters for RGB images and 21 classes: 58,040,661 with ``resnet101``, 39,048,533
    with ``resnet50``, whatever the output stride.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        backbone: Network that the features come from.
        first_features: After its first convolution; 64 in the paper.
        output_stride: 8 or 16; the weights fit both.
        multi_grid: Dilation of the last three blocks, in units of their layer's.
        rates: Dilation of the parallel convolutions at output stride 16; doubled at 8.
        head_features: Of every parallel way, and of what they are brought to.
    """

    alignment = (1, 1)
    padding: Literal["same", "valid"] = "same"
    classifier_names = ("classifier",)
    embedding_layer = "project"

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        backbone: Literal["resnet101", "resnet50", "resnet34", "resnet18"],
        first_features: int,
        output_stride: Literal[8, 16],
        multi_grid: Sequence[int],
        rates: Sequence[int],
        head_features: int,
    ) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.backbone = ResNet(
            in_channels,
            depth=int(backbone.removeprefix("resnet")),
            first_features=first_features,
            output_stride=output_stride,
            multi_grid=multi_grid,
        )
        channels = self.backbone.out_channels
        self.parallel = nn.ModuleList([_with_norm(channels, head_features, 1, 1)])
        for rate in rates:
            self.parallel.append(
                _with_norm(channels, head_features, 3, rate * 16 // output_stride)
            )
        self.image_mean = ImageMean(channels, head_features)
        self.project = _with_norm(
            (len(self.parallel) + 1) * head_features, head_features, 1, 1
        )
        self.classifier = nn.Conv2d(head_features, num_classes, 1)
        _draw_classifier(self.classifier)

    def forward(
        self, image: Float[Tensor, "patch channel i j"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits on the image's grid.

        Args:
            image: Of any size.
            taps: Any of ``layer1`` to ``layer4``, and ``project``, the last features.
        """
        activations = self.backbone(image)
        features = activations["layer4"]
        seen = [way(features) for way in self.parallel]
        features = self.project(torch.cat([*seen, self.image_mean(features)], dim=1))
        activations["project"] = features
        return Output(
            upsampled(self.classifier(features), self.output_stride, image.shape[2:]),
            (),
            asked(activations, taps),
        )

    def pretrained_names(self) -> Mapping[str, str]:
        """The backbone, as torchvision names it."""
        return {f"backbone.{name}": name for name in self.backbone.state_dict()}

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """The last three of the backbone, and what the classifier reads."""
        return *tuple(self.backbone.strides)[-3:], "project"

    def at_output(
        self,
        tap: str,
        activation: Float[Tensor, "patch feature m n"],
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Float[Tensor, "patch feature i j"]:
        """See `Network`; every feature stands for the voxels that are nearest to it."""
        part = whole(output_shape) if window is None else window
        stride = self.output_stride if tap == "project" else self.backbone.strides[tap]
        offset = -(stride // 2)
        return spread(activation, part, (stride, stride), (offset, offset))

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """``None``: the image's mean is seen."""
        return None


class ImageMean(nn.Module):
    """Mean over the image, a convolution, batch norm and ReLU, at every voxel.

    The mean is one number per patch and channel, so that batch norm has nothing to
    normalise a single patch by. Such a batch is normalised by the running statistics,
    in training too, and leaves them as they are; trained with single patches only, the
    layer is a learned scale and shift.
    """

    def __init__(self, in_channels: int, features: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, features, 1, bias=False)
        nn.init.kaiming_normal_(self.convolution.weight, nonlinearity="relu")
        self.norm = nn.BatchNorm2d(features)

    def forward(
        self, features: Float[Tensor, "patch channel i j"]
    ) -> Float[Tensor, "patch _ i j"]:
        """The same at every voxel of a patch."""
        mean = self.convolution(features.mean(dim=(2, 3), keepdim=True))
        if len(mean) == 1:
            norm = self.norm
            normalised = F.batch_norm(
                mean,
                norm.running_mean,
                norm.running_var,
                norm.weight,
                norm.bias,
                eps=norm.eps,
            )
        else:
            normalised = self.norm(mean)
        return F.relu(normalised).expand(-1, -1, *features.shape[2:])


class AtrousVgg16(nn.Module):
    """Convolutions of VGG-16, their output 8 voxels apart.

    Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556. As in DeepLab, pooling
    is over 3x3 voxels, that after stages 4 and 5 has no stride, and stage 5 has
    dilation 2.

    Args:
        in_channels: Of the image.
        first_features: Of stage 1; 64 in the paper.
    """

    def __init__(self, in_channels: int, first_features: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.pooling_strides = []
        self.pathway: list[Layer] = []
        channels = in_channels
        for n, convolutions in enumerate(CONVOLUTIONS):
            features = first_features * min(2**n, 8)
            dilation = 2 if n == len(CONVOLUTIONS) - 1 else 1
            stage = convolution_stage(
                channels, [features] * convolutions, norm=False, dilation=dilation
            )
            initialise(stage, "he")
            self.stages.append(stage)
            self.pooling_strides.append(2 if 2 ** (n + 1) <= V2_STRIDE else 1)
            self.pathway += [Window(3, 1, dilation, dilation)] * convolutions
            self.pathway.append(Window(3, self.pooling_strides[n], 1))
            channels = features
        self.out_channels = channels

    @property
    def strides(self) -> dict[str, int]:
        """Voxels between the features of each stage."""
        so_far = itertools.accumulate(self.pooling_strides, operator.mul)
        return {f"stages.{n}": stride for n, stride in enumerate(so_far)}

    def forward(
        self, image: Float[Tensor, "patch channel i j"]
    ) -> dict[str, Float[Tensor, "patch _ _ _"]]:
        """Features after the pooling of each stage; ``stages.4`` is the last."""
        features = image
        activations: dict[str, Tensor] = {}
        for n, stage in enumerate(self.stages):
            features = F.max_pool2d(
                stage(features), 3, stride=self.pooling_strides[n], padding=1
            )
            activations[f"stages.{n}"] = features
        return activations


def upsampled(
    coarse: Float[Tensor, "patch class _ _"], stride: int, shape: Sequence[int]
) -> Float[Tensor, "patch class i j"]:
    """Logits at every voxel from those at every ``stride``-th, the first included."""
    spans = [(length - 1) * stride + 1 for length in coarse.shape[2:]]
    between = F.interpolate(coarse, size=spans, mode="bilinear", align_corners=True)
    missing_i, missing_j = (
        length - span for length, span in zip(shape, spans, strict=True)
    )
    return F.pad(between, (0, missing_j, 0, missing_i), mode="replicate")


def _fully_connected(
    in_channels: int, features: int, rate: int, dropout_fraction: float
) -> nn.Sequential:
    """fc6 and fc7."""
    layers = nn.Sequential(
        nn.Conv2d(in_channels, features, 3, padding=rate, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout_fraction),
        nn.Conv2d(features, features, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout_fraction),
    )
    initialise(layers, "he")
    return layers


def _with_norm(
    in_channels: int, features: int, kernel: int, dilation: int
) -> nn.Sequential:
    convolution = nn.Conv2d(
        in_channels,
        features,
        kernel,
        padding=kernel // 2 * dilation,
        dilation=dilation,
        bias=False,
    )
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(features), nn.ReLU(inplace=True))


def _draw_classifier(convolution: nn.Module) -> None:
    if isinstance(convolution, nn.Conv2d):
        nn.init.normal_(convolution.weight, std=CLASSIFIER_DEVIATION)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
