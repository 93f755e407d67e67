"""A residual network with a sharp and a quarter-resolution pathway.

Berger et al. 2018, An Adaptive Sampling Scheme to Efficiently Train Fully Convolutional
Networks for Semantic Segmentation, https://arxiv.org/abs/1709.02764. **A
reconstruction.** The paper's text gives 19 layers, a receptive field of 124^3, a
pathway at a quarter of the resolution, residual and bottleneck blocks, 649,251
parameters and dropout before each fully connected layer; the feature maps are in a
figure only. The default here has all of those numbers, but so do other layouts.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.geometry import Layer, Repeat, Shift, Window, behind, field
from foveal.networks.interface import Network, Output, asked, late_layers, whole
from foveal.networks.places import spread

CONV_KERNEL = 3

Downsampling = Literal["probing", "averaging"]


class DualPath(Network):
    """Two pathways of the same layers, one of them on the downsampled image.

    The default has 649,251 trainable parameters for one channel and two classes. Each
    pathway: two convolutions of 20; residual blocks of 20, 24, 24, 24, 24 and 64; a
    bottleneck of 16, 16 and 64. Then layers of 85 and of the classes: 2 + 12 + 3 + 2 =
    19 layers. Every convolution is valid, so shortcuts are cropped.

    The wide pathway sees 4 * 31 = 124 voxels, in one of two ways:

    - ``probing``, as DeepMedic does: every fourth voxel, the first of each block of
      four. A voxel's logits depend on 121 voxels, the four of a block on 124 of them.
    - ``averaging`` of each block. A voxel's logits depend on 124 voxels, the union over
      the phases, relative to the voxel, is 127.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        factor: Downsampling of the wide pathway.
        downsampling: See above.
        convolution_features: Channels of the plain convolutions at the start.
        block_features: Channels of the residual blocks, of two convolutions each.
        bottleneck_features: Inner and outer channels of the bottleneck blocks, at the
            end: 1^3, 3^3, 1^3.
        hidden_features: Channels of the fully connected layers, convolutions of 1^3.
        dropout_fraction: Before each fully connected layer, the classifier too; in
            training.

    References:
        He et al. 2016, https://arxiv.org/abs/1512.03385: the blocks. Goyal et al. 2017,
        https://arxiv.org/abs/1706.02677: the initial scales. Glorot and Bengio 2010:
        the initial weights.
    """

    padding: Literal["same", "valid"] = "valid"
    classifier_names = ("classifier",)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        factor: int,
        downsampling: Downsampling,
        convolution_features: Sequence[int],
        block_features: Sequence[int],
        bottleneck_features: Sequence[tuple[int, int]],
        hidden_features: Sequence[int],
        dropout_fraction: float,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.downsampling = downsampling

        def pathway() -> nn.Sequential:
            blocks = nn.Sequential()
            channels = in_channels
            for features in convolution_features:
                blocks.append(convolution(channels, features))
                blocks.append(nn.ReLU(inplace=True))
                channels = features
            for features in block_features:
                blocks.append(BasicBlock(channels, features))
                channels = features
            for inner, features in bottleneck_features:
                blocks.append(BottleneckBlock(channels, inner, features))
                channels = features
            return blocks

        self.sharp, self.wide = pathway(), pathway()
        self.convolutions = (
            len(convolution_features)
            + 2 * len(block_features)
            + len(bottleneck_features)
        )
        channels = (
            2
            * [
                *convolution_features,
                *block_features,
                *(outer for _, outer in bottleneck_features),
            ][-1]
        )
        self.hidden = nn.Sequential()
        for features in hidden_features:
            self.hidden += nn.Sequential(
                nn.Dropout(dropout_fraction),
                nn.Conv3d(channels, features, 1),
                nn.BatchNorm3d(features),
                nn.ReLU(inplace=True),
            )
            channels = features
        if hidden_features:
            # Before the dropout that follows it.
            self.embedding_layer = f"hidden.{len(self.hidden) - 1}"
        self.hidden.append(nn.Dropout(dropout_fraction))
        self.classifier = nn.Conv3d(channels, num_classes, 1)
        self._initialise()
        self.alignment = (factor,) * 3
        ends = [
            behind(layers, 0, factor - 1)
            for layers in (self._sharp_layers, self._wide_layers)
        ]
        before = -min(first for first, _ in ends)
        after = max(last for _, last in ends) - (factor - 1)
        self.margins = ((before, after),) * 3

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            # Every block starts as its shortcut.
            if isinstance(module, BasicBlock | BottleneckBlock):
                nn.init.zeros_(module.last_norm.weight)

    def forward(
        self, image: Float[Tensor, "patch channel i j k"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits of the voxels in `output_window`.

        Args:
            image: Preprocessed.
            taps: Any of ``sharp.N``, ``wide.N`` and ``hidden.N``, N as in the modules
                of that name.
        """
        output_shape = self.output_shape(image.shape[2:])
        activations: dict[str, Tensor] = {}

        def through(name: str, modules: nn.Sequential, features: Tensor) -> Tensor:
            for number, module in enumerate(modules):
                features = module(features)
                if f"{name}.{number}" in taps:
                    activations[f"{name}.{number}"] = features
            return features

        sharp = through("sharp", self.sharp, self._sharp_input(image, output_shape))
        wide = through("wide", self.wide, self._wide_input(image, output_shape))
        # "nearest" multiplies rounded numbers, and misses by one where they fall short.
        upsampled = F.interpolate(
            wide, scale_factor=float(self.factor), mode="nearest-exact"
        )
        features = torch.cat([sharp, upsampled], dim=1)
        logits = self.classifier(through("hidden", self.hidden, features))
        names = [
            f"{name}.{number}"
            for name, modules in [
                ("sharp", self.sharp),
                ("wide", self.wide),
                ("hidden", self.hidden),
            ]
            for number in range(len(modules))
        ]
        return Output(logits, (), asked(activations, taps, names))

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """Late modules of both pathways, and the last hidden layer."""
        of_pathways = [
            f"{name}.{number - 1}"
            for name in ("sharp", "wide")
            for number in late_layers(len(self.sharp))
        ]
        hidden = [self.embedding_layer] if self.embedding_layer else []
        return (*of_pathways, *hidden)

    def at_output(
        self,
        tap: str,
        activation: Float[Tensor, "patch feature i j k"],
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Float[Tensor, "patch feature part_i part_j part_k"]:
        """See `Network`; every voxel stands where its context is centred."""
        part = whole(output_shape) if window is None else window
        name, number = tap.split(".")
        if name == "hidden":
            return activation[:, :, *part]
        # As much is left at the borders as the convolutions still to come take away.
        passed = sum(
            convolutions_in(each) for each in list(self.sharp)[: int(number) + 1]
        )
        factors = [self.factor if name == "wide" else 1] * len(part)
        border = self.convolutions - passed
        inside = [
            slice(border, border + length // factor)
            for length, factor in zip(output_shape, factors, strict=True)
        ]
        return spread(activation[:, :, *inside], part, factors, [0] * len(part))

    def _sharp_input(self, image: Tensor, output_shape: Sequence[int]) -> Tensor:
        return image[:, :, *self._windows(self._sharp_layers, output_shape)]

    def _wide_input(self, image: Tensor, output_shape: Sequence[int]) -> Tensor:
        context = image[:, :, *self._windows(self._wide_layers, output_shape)]
        if self.downsampling == "averaging":
            return F.avg_pool3d(context, self.factor)
        return context[:, :, :: self.factor, :: self.factor, :: self.factor]

    def _windows(
        self, layers: Sequence[Layer], output_shape: Sequence[int]
    ) -> tuple[slice, ...]:
        """Part of the patch that a pathway sees."""
        windows = []
        for length, (before, _) in zip(output_shape, self.margins, strict=True):
            first, last = behind(layers, 0, length - 1)
            windows.append(slice(before + first, before + last + 1))
        return tuple(windows)

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Union over both pathways and the phases of the factor."""
        along_axis = field([self._sharp_layers, self._wide_layers], self.factor)
        return (along_axis,) * 3

    @property
    def pathway_fields(self) -> tuple[tuple[int, ...], ...]:
        """Of the sharp and the wide pathway, the latter over the phases."""
        return (
            (field([self._sharp_layers], 1),) * 3,
            (field([self._wide_layers], self.factor),) * 3,
        )

    @property
    def _own_layers(self) -> list[Layer]:
        return [Shift(-self.convolutions), *[Window(CONV_KERNEL)] * self.convolutions]

    @property
    def _sharp_layers(self) -> list[Layer]:
        return self._own_layers

    @property
    def _wide_layers(self) -> list[Layer]:
        kernel = self.factor if self.downsampling == "averaging" else 1
        return [Window(kernel, self.factor), *self._own_layers, Repeat(self.factor)]


class BasicBlock(nn.Module):
    """Two convolutions of 3^3 and a shortcut around them, its border cropped."""

    def __init__(self, in_channels: int, features: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            convolution(in_channels, features),
            nn.ReLU(inplace=True),
            convolution(features, features),
        )
        self.shortcut = projection(in_channels, features)

    @property
    def last_norm(self) -> nn.BatchNorm3d:
        """Of the branch."""
        return last_norm(self.branch)

    def forward(
        self, features: Float[Tensor, "patch in_channel *space"]
    ) -> Float[Tensor, "patch out_channel *smaller"]:
        """Features, two voxels smaller at every border."""
        return F.relu(self.branch(features) + self.shortcut(cropped(features, 2)))


class BottleneckBlock(nn.Module):
    """Convolutions of 1^3, 3^3 and 1^3, the first two narrow, and a shortcut."""

    def __init__(self, in_channels: int, inner: int, features: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            convolution(in_channels, inner, kernel=1),
            nn.ReLU(inplace=True),
            convolution(inner, inner),
            nn.ReLU(inplace=True),
            convolution(inner, features, kernel=1),
        )
        self.shortcut = projection(in_channels, features)

    @property
    def last_norm(self) -> nn.BatchNorm3d:
        """Of the branch."""
        return last_norm(self.branch)

    def forward(
        self, features: Float[Tensor, "patch in_channel *space"]
    ) -> Float[Tensor, "patch out_channel *smaller"]:
        """Features, one voxel smaller at every border."""
        return F.relu(self.branch(features) + self.shortcut(cropped(features, 1)))


def convolutions_in(module: nn.Module) -> int:
    """Convolutions of 3^3 that a module of a pathway passes its input through."""
    if isinstance(module, nn.ReLU):
        return 0
    return 2 if isinstance(module, BasicBlock) else 1


def convolution(
    in_channels: int, features: int, *, kernel: int = CONV_KERNEL
) -> nn.Sequential:
    """Valid convolution without bias, batch norm."""
    return nn.Sequential(
        nn.Conv3d(in_channels, features, kernel, bias=False), nn.BatchNorm3d(features)
    )


def projection(in_channels: int, features: int) -> nn.Module:
    """Shortcut: nothing where the channels stay, else a convolution of 1^3."""
    if in_channels == features:
        return nn.Identity()
    return convolution(in_channels, features, kernel=1)


def last_norm(branch: nn.Sequential) -> nn.BatchNorm3d:
    """Batch norm at the end of a block's branch."""
    norm = branch[-1][-1]  # type: ignore[index]
    return norm


def cropped(features: Tensor, border: int) -> Tensor:
    """Without ``border`` voxels at every end of every axis."""
    inside = slice(border, -border)
    return features[:, :, inside, inside, inside]
