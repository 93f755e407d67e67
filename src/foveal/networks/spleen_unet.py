"""The 3D U-Net of a student's report on spleen segmentation.

Fernandes Bolaños 2023, "Spleen Segmentations with a 3D U-net" (King's College London):
double convolutions, max pooling, upsampling by repetition and a convolution. Where the
report is silent or ambiguous: the convolution after the upsampling is of 1 or of 3
voxels; dropout is per number, as PyTorch's plainest layer does it, and at the end of
every stage but the first. It differs: weights are He et al.'s normal draws (2015,
https://arxiv.org/abs/1502.01852), as with PyTorch's own, and without batch norm,
training at times never began; the author blames them too.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.geometry import Layer, Repeat, Window, field
from foveal.networks.interface import Network, Output, asked

HALVINGS = 4


class SpleenUNet(Network):
    """Five resolutions; channels double where the resolution halves.

    Trainable parameters for one channel and two classes, with an upsampling kernel of
    1 or of 3: 1,337,090 or 1,619,970 (width 8), 2,088,402 or 2,530,402 (width 10),
    1,335,618 or 1,618,498 (width 8 without batch norm).

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        width: Channels at full resolution.
        upsampling_kernel: Of the convolution after each upsampling, odd.
        norm: After every convolution of the double ones.
        dropout_fraction: Numbers dropped after every stage but the first, in training.
    """

    padding: Literal["same", "valid"] = "same"
    classifier_names = ("classifier",)
    embedding_layer = f"decoder.{HALVINGS - 1}"

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int,
        upsampling_kernel: int,
        norm: Literal["batch", "none"],
        dropout_fraction: float,
    ) -> None:
        super().__init__()
        self.upsampling_kernel = upsampling_kernel
        self.alignment = (2**HALVINGS,) * 3
        widths = [width * 2**n for n in range(HALVINGS + 1)]
        self.encoder = nn.ModuleList([double_convolution(in_channels, width, norm)])
        for finer, coarser in itertools.pairwise(widths):
            self.encoder.append(
                nn.Sequential(
                    nn.MaxPool3d(2),
                    double_convolution(finer, coarser, norm),
                    nn.Dropout(dropout_fraction),
                )
            )
        self.upsampling = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for coarser, finer in itertools.pairwise(reversed(widths)):
            self.upsampling.append(
                nn.Sequential(
                    nn.Upsample(scale_factor=2),
                    nn.Conv3d(
                        coarser,
                        finer,
                        upsampling_kernel,
                        padding=upsampling_kernel // 2,
                    ),
                )
            )
            self.decoder.append(
                nn.Sequential(
                    double_convolution(2 * finer, finer, norm),
                    nn.Dropout(dropout_fraction),
                )
            )
        self.classifier = nn.Conv3d(width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

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
        for n, (upsample, stage) in enumerate(
            zip(self.upsampling, self.decoder, strict=True)
        ):
            skip = activations[f"encoder.{HALVINGS - 1 - n}"]
            features = stage(torch.cat([upsample(features), skip], dim=1))
            activations[f"decoder.{n}"] = features
        tapped = asked(activations, taps)
        return Output(self.classifier(features), (), tapped)

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """The deepest stage and all of the decoder."""
        decoder = [f"decoder.{n}" for n in range(len(self.decoder))]
        return (f"encoder.{len(self.encoder) - 1}", *decoder)

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Input voxels behind one output voxel, through the deepest stage."""
        double: list[Layer] = [Window(3, padding=1)] * 2
        kernel = self.upsampling_kernel
        up: list[Layer] = [Repeat(2), Window(kernel, padding=kernel // 2)]
        layers = double + [Window(2, 2), *double] * HALVINGS + (up + double) * HALVINGS
        return (field([layers], self.alignment[0]),) * 3


def double_convolution(
    in_channels: int, out_channels: int, norm: Literal["batch", "none"]
) -> nn.Sequential:
    """Twice a padded convolution of 3 voxels, with bias, norm and ReLU."""
    layers = nn.Sequential()
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv3d(channels, out_channels, 3, padding=1))
        if norm == "batch":
            layers.append(nn.BatchNorm3d(out_channels))
        layers.append(nn.ReLU(inplace=True))
    return layers
