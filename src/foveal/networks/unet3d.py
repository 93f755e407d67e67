"""3D U-Net with kernels and strides per axis.

Çiçek et al. 2016, https://arxiv.org/abs/1606.06650. As in nnU-Net (Isensee et al. 2021)
it differs from the paper: strided convolutions instead of max pooling, padded
convolutions, instance norm and leaky ReLU, optional deep supervision.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.blocks import convolution_block
from foveal.networks.geometry import Layer, TransposedWindow, Window, field
from foveal.networks.interface import Network, Output


class UNet3d(Network):
    """Encoder and decoder with concatenated skips.

    The default (features 16, 32, 64, 128; kernels 3; strides 2; one channel, three
    classes) has 1,401,299 trainable parameters.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        features: Channels per stage, finest first.
        kernels: Per stage, odd.
        strides: Into each stage after the first.
        convolutions: Per stage and direction.
        norm: Of every convolution block.
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
        features: Sequence[int] = (16, 32, 64, 128),
        kernels: Sequence[Sequence[int]] = ((3, 3, 3),) * 4,
        strides: Sequence[Sequence[int]] = ((2, 2, 2),) * 3,
        convolutions: int = 2,
        norm: Literal["instance", "batch", "none"] = "instance",
        dropout_fraction: float = 0.0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.kernels = tuple(tuple(kernel) for kernel in kernels)
        self.strides = tuple(tuple(stride) for stride in strides)
        self.convolutions = convolutions
        self.norm = norm
        self.deep_supervision = deep_supervision
        self.alignment = tuple(
            math.prod(stride[axis] for stride in self.strides) for axis in range(3)
        )

        def stage(channels: int, level: int, stride: Sequence[int]) -> nn.Sequential:
            blocks = nn.Sequential()
            for n in range(convolutions):
                blocks.append(
                    convolution_block(
                        channels if n == 0 else features[level],
                        features[level],
                        kernel=self.kernels[level],
                        stride=stride if n == 0 else (1, 1, 1),
                        norm=norm,
                    )
                )
            if dropout_fraction > 0:
                blocks.append(nn.Dropout3d(dropout_fraction))
            return blocks

        into_stage = [(1, 1, 1), *self.strides]
        channels_into = [in_channels, *features[:-1]]
        self.encoder = nn.ModuleList(
            stage(channels, level, stride)
            for level, (channels, stride) in enumerate(
                zip(channels_into, into_stage, strict=True)
            )
        )
        levels = range(len(features) - 2, -1, -1)
        self.upsampling = nn.ModuleList(
            nn.ConvTranspose3d(
                features[level + 1],
                features[level],
                self.strides[level],  # type: ignore[arg-type]
                stride=self.strides[level],  # type: ignore[arg-type]
            )
            for level in levels
        )
        self.decoder = nn.ModuleList(
            stage(2 * features[level], level, (1, 1, 1)) for level in levels
        )
        self.classifiers = nn.ModuleList(
            nn.Conv3d(features[level], num_classes, 1)
            for level in levels
            if level == 0 or deep_supervision
        )
        if not levels:
            self.classifiers.append(nn.Conv3d(features[0], num_classes, 1))

    def forward(
        self, image: Float[Tensor, "patch channel i j k"], taps: Sequence[str] = ()
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
            features = stage(torch.cat([upsample(features), skip], dim=1))
            activations[f"decoder.{n}"] = features
            decoded.append(features)
        asked = tuple(activations[name] for name in taps)
        if self.deep_supervision and self.training and decoded:
            coarse_to_fine = [
                classify(features)
                for classify, features in zip(self.classifiers, decoded, strict=True)
            ]
            return Output(coarse_to_fine[-1], tuple(coarse_to_fine[-2::-1]), asked)
        return Output(self.classifiers[-1](features), (), asked)

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """Input voxels behind one output voxel; ``None`` with instance norm."""
        if self.norm == "instance":
            return None
        return tuple(self._field_along(axis) for axis in range(3))

    def _field_along(self, axis: int) -> int:
        """All that an output voxel depends on goes through the deepest stage."""
        kernels = [kernel[axis] for kernel in self.kernels]
        strides = [1, *(stride[axis] for stride in self.strides)]
        convolutions = [
            [Window(kernel, padding=kernel // 2)] * self.convolutions
            for kernel in kernels
        ]
        layers: list[Layer] = []
        for kernel, stride, stage in zip(kernels, strides, convolutions, strict=True):
            layers += [Window(kernel, stride, padding=kernel // 2), *stage[1:]]
        for stride, stage in reversed(
            list(zip(strides[1:], convolutions[:-1], strict=True))
        ):
            layers += [TransposedWindow(stride, stride), *stage]
        return field([layers], self.alignment[axis])
