"""3D fully convolutional networks of EMMA.

Kamnitsas et al. 2018, https://arxiv.org/abs/1711.01468, and Kamnitsas's thesis,
sections 2.3.3.4 (decoders) and 4.3.2 (the three variants); Long et al. 2015,
https://arxiv.org/abs/1411.4038.

The thesis gives batch norm, ReLU, zero padding, residual blocks of two convolutions and
"one less down-sampling". Numbers of features, convolutions per stage and
down-samplings are only in its figures, so those here are ours, as are max pooling, the
1x1x1 shortcut where a residual block changes the number of features, and He
initialisation.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.blocks import linear_profile
from foveal.networks.geometry import Layer, TransposedWindow, Window, field
from foveal.networks.interface import Network, Output, asked


class FCN3d(Network):
    """Scores of the classes at every scale, upsampled and combined linearly.

    With one channel and three classes ``fcn3d`` has 881,667 trainable parameters,
    ``fcn3d-residual`` 2,068,915 and ``fcn3d-shallow`` 510,195.

    From the coarsest scale to the finest, the scores so far are upsampled by a
    deconvolution and meet the features of that scale, in one of two arrangements:

    - ``"sum"`` (Long et al.; Fig. 2.24a): the features are convolved to scores, and the
      two are added.
    - ``"concatenate"`` (Fig. 2.24b): the two are concatenated and convolved to scores.

    Nothing in it is non-linear, so weights of ``"concatenate"`` can be rewritten as
    weights of ``"sum"`` whose deconvolution is the first one followed by the part of
    the convolution that reads it (eq. 2.89 to 2.92); its kernel is ``score_kernel - 1``
    longer, which is what the second arrangement saves (the thesis gives the sum of both
    kernels as its length, but its example, 3 and 3 make 5, is right). With a
    ``score_kernel`` of 1 they agree at every voxel; else they differ near the image's
    border, where the convolution reads zeros in place of upsampled scores.

    Only the finest scores have a bias: coarser ones would add to it, except at borders.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        features: Channels per stage, finest first.
        strides: Max pooling into each stage after the first.
        convolutions: Per stage; of residual blocks if ``residual``.
        residual: Each convolution is a residual block of two.
        decoder: How scores of several scales are combined.
        score_kernel: Odd; of the convolution that makes scores, on every axis. The
            coarsest scores are always of kernel 1.
    """

    padding: Literal["same", "valid"] = "same"
    classifier_names = ("scores", "upsampling")

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        convolutions: int,
        residual: bool,
        decoder: Literal["sum", "concatenate"],
        score_kernel: int,
    ) -> None:
        super().__init__()
        self.strides = tuple(tuple(stride) for stride in strides)
        self.convolutions_per_stage = convolutions * (2 if residual else 1)
        self.decoder = decoder
        self.score_kernel = score_kernel
        self.alignment = tuple(
            math.prod(stride[axis] for stride in self.strides) for axis in range(3)
        )

        self.encoder = nn.ModuleList()
        channels = in_channels
        for level, wanted in enumerate(features):
            stage = nn.Sequential()
            if level > 0:
                stage.append(nn.MaxPool3d(self.strides[level - 1]))
            for _ in range(convolutions):
                if residual:
                    stage.append(_ResidualBlock(channels, wanted))
                else:
                    stage.extend([_normed_convolution(channels, wanted, 3), nn.ReLU()])
                channels = wanted
            self.encoder.append(stage)

        added = num_classes if decoder == "concatenate" else 0
        # Finer scores only add to those of the deepest features.
        self.embedding_layer = f"encoder.{len(features) - 1}"
        self.scores = nn.ModuleList()
        self.upsampling = nn.ModuleList()
        deepest = len(features) - 1
        for level in range(deepest, -1, -1):
            kernel = 1 if level == deepest else score_kernel
            into = features[level] + (0 if level == deepest else added)
            score = nn.Conv3d(
                into, num_classes, kernel, padding=kernel // 2, bias=level == 0
            )
            nn.init.kaiming_normal_(score.weight, nonlinearity="linear")
            if level < deepest:
                self.upsampling.append(
                    _deconvolution(
                        num_classes, self.strides[level], self._widening_of_upsampling
                    )
                )
                # Both arrangements begin as a plain sum.
                nn.init.dirac_(score.weight.data[:, :added])
            if score.bias is not None:
                nn.init.zeros_(score.bias)
            self.scores.append(score)

    def forward(
        self, image: Float[Tensor, "patch channel i j k"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits on the image's grid.

        Args:
            image: Preprocessed; axes divisible by ``alignment``.
            taps: Any of ``encoder.N``, finest first, and ``scores.N``, coarsest first.
        """
        activations: dict[str, Tensor] = {}
        features = image
        for n, stage in enumerate(self.encoder):
            features = stage(features)
            activations[f"encoder.{n}"] = features
        scores = self.scores[0](features)
        activations["scores.0"] = scores
        for n, (upsample, score) in enumerate(
            zip(self.upsampling, self.scores[1:], strict=True), start=1
        ):
            features = activations[f"encoder.{len(self.encoder) - 1 - n}"]
            if self.decoder == "sum":
                scores = upsample(scores) + score(features)
            else:
                scores = score(torch.cat([upsample(scores), features], dim=1))
            activations[f"scores.{n}"] = scores
        return Output(scores, (), asked(activations, taps))

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """All stages but the first; what follows them is scores."""
        deepest = len(self.encoder) - 1
        return tuple(f"encoder.{n}" for n in range(min(1, deepest), deepest + 1))

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """Input voxels behind one output voxel."""
        return tuple(
            field(
                [self._pathway(axis, level) for level in range(len(self.encoder))],
                self.alignment[axis],
            )
            for axis in range(3)
        )

    def _pathway(self, axis: int, deepest: int) -> list[Layer]:
        """From the image to the finest scores by way of one stage's scores."""
        layers: list[Layer] = []
        for level in range(deepest + 1):
            if level > 0:
                stride = self.strides[level - 1][axis]
                layers.append(Window(stride, stride))
            layers += [Window(3, padding=1)] * self.convolutions_per_stage
        score = Window(self.score_kernel, padding=self.score_kernel // 2)
        if deepest < len(self.encoder) - 1:
            layers.append(score)
        for level in range(deepest - 1, -1, -1):
            stride = self.strides[level][axis]
            kernel, padding = _upsampling_window(stride, self._widening_of_upsampling)
            layers.append(TransposedWindow(kernel, stride, padding))
            if self.decoder == "concatenate":
                layers.append(score)
        return layers

    @property
    def _widening_of_upsampling(self) -> int:
        """What ``"sum"`` must add to its deconvolutions to see as far."""
        return self.score_kernel - 1 if self.decoder == "sum" else 0


class _ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, He et al. 2016."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _normed_convolution(in_channels, out_channels, 3),
            nn.ReLU(),
            _normed_convolution(out_channels, out_channels, 3),
        )
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else _normed_convolution(in_channels, out_channels, 1)
        )

    def forward(
        self, features: Float[Tensor, "patch channel i j k"]
    ) -> Float[Tensor, "patch features i j k"]:
        return torch.relu(self.convolutions(features) + self.shortcut(features))

    @property
    def last_norm(self) -> nn.Module:
        """See `foveal.networks.blocks.ResidualBlock`."""
        _, norm = self.convolutions[-1].children()
        return norm


def _normed_convolution(
    in_channels: int, out_channels: int, kernel: int
) -> nn.Sequential:
    """Zero-padded convolution, whose bias batch norm makes redundant."""
    convolution = nn.Conv3d(
        in_channels, out_channels, kernel, padding=kernel // 2, bias=False
    )
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm3d(out_channels))


def _deconvolution(
    channels: int, stride: Sequence[int], widening: int
) -> nn.ConvTranspose3d:
    """Learned upsampling that begins as linear interpolation, channel by channel."""
    windows = [_upsampling_window(step, widening) for step in stride]
    deconvolution = nn.ConvTranspose3d(
        channels,
        channels,
        tuple(kernel for kernel, _ in windows),  # type: ignore[arg-type]
        stride=tuple(stride),  # type: ignore[arg-type]
        padding=tuple(padding for _, padding in windows),  # type: ignore[arg-type]
        bias=False,
    )
    profiles = [
        linear_profile(kernel, step)
        for (kernel, _), step in zip(windows, stride, strict=True)
    ]
    nn.init.zeros_(deconvolution.weight)
    for channel in range(channels):
        deconvolution.weight.data[channel, channel] = torch.einsum(
            "i,j,k->ijk", *profiles
        )
    return deconvolution


def _upsampling_window(stride: int, widening: int) -> tuple[int, int]:
    """Kernel and padding of a deconvolution that multiplies lengths by its stride."""
    kernel = 2 * stride - stride % 2 + widening
    return kernel, (kernel - stride) // 2
