"""U-Net in 2D and 3D, with kernels and strides per axis.

Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597; in 3D Çiçek et al. 2016,
https://arxiv.org/abs/1606.06650. As in nnU-Net (Isensee et al. 2021) the defaults
differ from the papers: strided convolutions instead of max pooling, padded
convolutions, instance norm and leaky ReLU, optional deep supervision.

Options make the two U-Nets of EMMA (Kamnitsas 2019, thesis, section 4.3.3): skips by
summation (after Guerrero et al. 2018) with max pooling, and skips by concatenation with
strided convolutions, both with batch norm and ReLU. Their channels are only in a figure
that the text does not repeat; those of the defaults are a choice. The residual encoder
is He et al.'s (2016, https://arxiv.org/abs/1512.03385) with one block per stage.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.blocks import (
    Activation,
    Norm,
    activation_layer,
    convolution_block,
    convolution_class,
    norm_layer,
)
from foveal.networks.geometry import Layer, TransposedWindow, Window, field
from foveal.networks.interface import Network, Output, asked


class UNet(Network):
    """Encoder and decoder with skips between stages of the same resolution.

    Trainable parameters with the default options, one channel and three classes:
    ``unet3d`` 1,401,299 (features 16, 32, 64, 128; kernels 3; strides 2), ``unet2d``
    7,762,531 (features 32 to 512 by doubling), ``unet3d-residual`` 1,412,547; with
    four channels and five classes ``unet3d-sum`` 5,023,237 and ``unet3d-concatenated``
    5,603,845 (features 32, 64, 128, 256).

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        features: Channels per stage, finest first.
        kernels: Per stage, odd; two numbers each make a 2D network, three a 3D one.
        strides: Into each stage after the first.
        convolutions: Per stage and direction.
        norm: Of every convolution block.
        activation: Of every convolution block.
        downsampling: By the first convolution of a stage, or by max pooling before it.
        skips: What the encoder gives is put beside the upsampled channels or added.
        residual: The encoder's stages add what they take in, by a convolution of one
            voxel, to what they make of it.
        dropout_fraction: Channels dropped after each stage, in training.
        deep_supervision: Also give logits of the coarser decoder stages in training;
            the coarsest stage, the bottom, gives none.
    """

    padding: Literal["same", "valid"] = "same"
    classifier_names = ("classifiers",)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        features: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        convolutions: int,
        norm: Norm,
        activation: Activation,
        downsampling: Literal["strided", "max_pool"],
        skips: Literal["concatenated", "summed"],
        residual: bool,
        dropout_fraction: float,
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.kernels = tuple(tuple(kernel) for kernel in kernels)
        self.strides = tuple(tuple(stride) for stride in strides)
        self.convolutions = convolutions
        self.norm = norm
        self.downsampling = downsampling
        self.skips = skips
        self.deep_supervision = deep_supervision
        dimensions = len(self.kernels[0])
        no_stride = (1,) * dimensions
        self.alignment = tuple(
            math.prod(stride[axis] for stride in self.strides)
            for axis in range(dimensions)
        )
        dropout, transposed, pointwise, pool = (
            (nn.Dropout2d, nn.ConvTranspose2d, nn.Conv2d, nn.MaxPool2d)
            if dimensions == 2
            else (nn.Dropout3d, nn.ConvTranspose3d, nn.Conv3d, nn.MaxPool3d)
        )

        def stage(
            channels: int, level: int, stride: Sequence[int], *, residual: bool = False
        ) -> nn.Sequential:
            blocks = nn.Sequential()
            if downsampling == "max_pool" and tuple(stride) != no_stride:
                blocks.append(pool(tuple(stride)))
                stride = no_stride
            convolved = [
                convolution_block(
                    channels if n == 0 else features[level],
                    features[level],
                    kernel=self.kernels[level],
                    stride=stride if n == 0 else no_stride,
                    norm=norm,
                    activation=activation,
                )
                for n in range(convolutions)
            ]
            if residual:
                blocks.append(
                    ResidualConvolutions(
                        convolved, channels, features[level], stride, norm, activation
                    )
                )
            else:
                blocks.extend(convolved)
            if dropout_fraction > 0:
                blocks.append(dropout(dropout_fraction))
            return blocks

        into_stage = [no_stride, *self.strides]
        channels_into = [in_channels, *features[:-1]]
        self.encoder = nn.ModuleList(
            stage(channels, level, stride, residual=residual)
            for level, (channels, stride) in enumerate(
                zip(channels_into, into_stage, strict=True)
            )
        )
        levels = range(len(features) - 2, -1, -1)
        self.upsampling = nn.ModuleList(
            transposed(
                features[level + 1],
                features[level],
                self.strides[level],  # type: ignore[arg-type]
                stride=self.strides[level],  # type: ignore[arg-type]
            )
            for level in levels
        )
        copies = 2 if skips == "concatenated" else 1
        self.decoder = nn.ModuleList(
            stage(copies * features[level], level, no_stride) for level in levels
        )
        self.embedding_layer = f"decoder.{len(levels) - 1}" if levels else "encoder.0"
        self.classifiers = nn.ModuleList(
            pointwise(features[level], num_classes, 1)
            for level in levels
            if level == 0 or deep_supervision
        )
        if not levels:
            self.classifiers.append(pointwise(features[0], num_classes, 1))

    def forward(
        self, image: Float[Tensor, "patch channel *space"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits on the image's grid.

        Args:
            image: Preprocessed; axes divisible by ``alignment``.
            taps: Any of ``encoder.N`` and ``decoder.N``; N counts from the first
                computed.
        """
        activations: dict[str, Tensor] = {}
        features = image
        for n, stage in enumerate(self.encoder):
            features = stage(features)
            activations[f"encoder.{n}"] = features
        decoded = []
        for n, (upsample, stage) in enumerate(
            zip(self.upsampling, self.decoder, strict=True)
        ):
            skip = activations[f"encoder.{len(self.encoder) - 2 - n}"]
            features = stage(self._with_skip(upsample(features), skip))
            activations[f"decoder.{n}"] = features
            decoded.append(features)
        tapped = asked(activations, taps)
        if self.deep_supervision and self.training and decoded:
            coarse_to_fine = [
                classify(features)
                for classify, features in zip(self.classifiers, decoded, strict=True)
            ]
            return Output(coarse_to_fine[-1], tuple(coarse_to_fine[-2::-1]), tapped)
        return Output(self.classifiers[-1](features), (), tapped)

    def _with_skip(self, upsampled: Tensor, skip: Tensor) -> Tensor:
        if self.skips == "summed":
            return upsampled + skip
        return torch.cat([upsampled, skip], dim=1)

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """The deepest stage and all of the decoder."""
        decoder = [f"decoder.{n}" for n in range(len(self.decoder))]
        return (f"encoder.{len(self.encoder) - 1}", *decoder)

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """Input voxels behind one output voxel; ``None`` with instance norm."""
        if self.norm == "instance":
            return None
        return tuple(self._field_along(axis) for axis in range(len(self.alignment)))

    def _field_along(self, axis: int) -> int:
        """All that an output voxel depends on goes through the deepest stage."""
        kernels = [kernel[axis] for kernel in self.kernels]
        strides = [stride[axis] for stride in self.strides]
        stages = [
            [Window(kernel, padding=kernel // 2)] * self.convolutions
            for kernel in kernels
        ]
        layers: list[Layer] = [*stages[0]]
        for kernel, stride, stage in zip(kernels[1:], strides, stages[1:], strict=True):
            if self.downsampling == "max_pool":
                layers += [Window(stride, stride), *stage]
            else:
                layers += [Window(kernel, stride, padding=kernel // 2), *stage[1:]]
        for stride, stage in reversed(list(zip(strides, stages[:-1], strict=True))):
            layers += [TransposedWindow(stride, stride), *stage]
        return field([layers], self.alignment[axis])


class ResidualConvolutions(nn.Module):
    """Convolution blocks whose input is added before their last activation.

    Where channels or resolution change, the input goes through a convolution of one
    voxel and a norm (option B of He et al. 2016).
    """

    def __init__(
        self,
        blocks: Sequence[nn.Sequential],
        in_channels: int,
        out_channels: int,
        stride: Sequence[int],
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.first = nn.Sequential(*blocks[:-1])
        convolution, branch_norm, _ = blocks[-1]
        self.last = nn.Sequential(convolution, branch_norm)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or any(step > 1 for step in stride):
            projection = convolution_class(len(stride))(
                in_channels,
                out_channels,
                1,
                stride=tuple(stride),  # type: ignore[arg-type]
                bias=norm == "none",
            )
            self.shortcut = nn.Sequential(projection, norm_layer(norm, projection))
        self.activation = activation_layer(activation)

    @property
    def last_norm(self) -> nn.Module:
        """What the branch ends with; zero scales make the block pass its input on."""
        norm: nn.Module = self.last[1]
        return norm

    def forward(
        self, image: Float[Tensor, "patch channel *space"]
    ) -> Float[Tensor, "patch feature *out"]:
        """Activation of the sum."""
        residual: Tensor = self.last(self.first(image)) + self.shortcut(image)
        activated: Tensor = self.activation(residual)
        return activated
