"""DeepMedic: parallel pathways that see the image at several resolutions.

Kamnitsas et al. 2017, https://doi.org/10.1016/j.media.2016.10.004, and Kamnitsas'
thesis (Imperial College London 2019), chapter 3. Differs from the authors' program:

- One extended patch goes in, and the pathways take their inputs from it, so the network
  is a plain function of an image. Its output lengths are multiples of `alignment`;
  that, and nothing padded inside, makes the answer for a voxel independent of the tile
  it lies in.
- The first hidden layer's 3^3 kernel, mirror-padded there, is valid here: same weights.
- Batch norm adds 1e-6 to the variance, where the authors add the smallest float32.
  Below that, a channel that is constant over a batch (patches of background) multiplies
  gradients by more than 1000 per layer, and rounding in bfloat16 passes for signal.
- Dropout scales what it keeps while training (inverted), where the authors scale at
  inference. The expected activation is the same.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.blocks import convolution_class
from foveal.networks.geometry import (
    Layer,
    Repeat,
    Shift,
    TransposedWindow,
    Window,
    behind,
    field,
)
from foveal.networks.interface import Network, Output, asked, late_layers, whole
from foveal.networks.places import repeated, spread

INITIAL_SLOPE = 0.01
NORM_EPSILON = 1e-6

TRANSPOSED_CONVOLUTIONS = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
LINEAR_MODES = {2: "bilinear", 3: "trilinear"}

Size = int | Sequence[int]
"""Voxels along every axis, or along each."""

Upsampling = Literal["repetition", "linear", "deconvolution"]


class DeepMedic(Network):
    """A sharp pathway, wide ones on the subsampled image, hidden layers on them all.

    Trainable parameters for C channels and K classes:

    - ``deepmedic`` (the authors' program since June 2018), C = 2, K = 5: 2,008,901;
    - ``deepmedic-thesis``, C = 5, K = 2: 664,332; ``deepmedic-residual``: 390,000 more;
    - ``deepmedic-wide``, C = 2, K = 5: 5,141,051;
    - ``deepmedic2d``, C = 5, K = 2: 248,532.

    A wide pathway's input is every ``factor``-th voxel. Its outputs stand a factor
    apart; output ``b`` sees the context around voxel ``b * factor``, as in the authors'
    program. The three ways back to full resolution:

    - ``repetition``: ``b`` stands for the voxels ``b * factor`` to
      ``b * factor + factor - 1``, so the last of them see a context that is centred
      ``factor - 1`` voxels before them.
    - ``linear``: ``b`` counts fully at voxel ``b * factor``, where its context is
      centred, and less and less up to its neighbours there. One more output per axis is
      needed at the end, hence ``factor`` more voxels of margin.
    - ``deconvolution``: ``b`` writes the same voxels as in repetition, with learned
      weights between all features, and starts as repetition.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        dimensions: 2 or 3.
        factors: Downsampling of each pathway, that of the sharp one, 1, first.
        features: Channels per layer, of all pathways or a list for each of them.
        kernels: Per layer, or one for all layers.
        residual_layers: Counted from 1; the input of the layer before is added to such
            a layer's output, its centre, as far as both have channels.
        hidden_features: Channels of the layers that follow the concatenation.
        hidden_kernel: Of the first layer after the concatenation.
        hidden_residual_layers: As ``residual_layers``, among the hidden ones.
        norm: Of what goes into a layer; without it, a learned bias.
        dropout_fractions: Of what goes into each layer of a pathway, in training; or
            one for all layers.
        hidden_dropout_fractions: Of what goes into each hidden layer and the
            classifier; or one for all.
        upsampling: See above.
        initialisation: ``he``: normal, variance 2 over the inputs of an output;
            ``normal``: deviation ``initial_deviation``.
        initial_deviation: Of ``normal``.

    References:
        He et al. 2015, https://arxiv.org/abs/1502.01852: PReLU and initialisation.
    """

    padding: Literal["same", "valid"] = "valid"
    classifier_names = ("classifier.convolution",)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dimensions: Literal[2, 3],
        factors: Sequence[Size],
        features: Sequence[int | Sequence[int]],
        kernels: Sequence[Size],
        residual_layers: Sequence[int],
        hidden_features: Sequence[int],
        hidden_kernel: Size,
        hidden_residual_layers: Sequence[int],
        norm: Literal["batch", "none"],
        dropout_fractions: Sequence[float],
        hidden_dropout_fractions: Sequence[float],
        upsampling: Upsampling,
        initialisation: Literal["he", "normal"],
        initial_deviation: float,
    ) -> None:
        super().__init__()
        kernels = [per_axis(kernel, dimensions) for kernel in kernels]
        first_kernel = per_axis(hidden_kernel, dimensions)
        features_of_pathways = per_pathway(features, len(factors))
        self.pathways = nn.ModuleDict()
        for n, (factor, channels) in enumerate(
            zip(factors, features_of_pathways, strict=True)
        ):
            self.pathways[pathway_name(n)] = Pathway(
                in_channels,
                channels,
                factors=per_axis(factor, dimensions),
                kernels=for_each(kernels, len(channels)),
                residual_layers=residual_layers,
                hidden_kernel=first_kernel,
                norm=norm,
                dropout_fractions=for_each(dropout_fractions, len(channels)),
                upsampling=upsampling,
            )
        concatenated = sum(channels[-1] for channels in features_of_pathways)
        depth = len(hidden_features) + 1
        *hidden_kernels, classifier_kernel = [
            first_kernel,
            *[(1,) * dimensions] * (depth - 1),
        ]
        *hidden_fractions, classifier_fraction = for_each(
            hidden_dropout_fractions, depth
        )
        self.hidden = Chain(
            concatenated,
            hidden_features,
            kernels=hidden_kernels,
            residual_layers=hidden_residual_layers,
            norm=norm,
            dropout_fractions=hidden_fractions,
        )
        # Without hidden layers the classifier reads all pathways.
        self.embedding_layer = (
            f"hidden.{len(hidden_features)}"
            if hidden_features
            else f"{pathway_name(0)}.{len(features_of_pathways[0])}"
        )
        self.classifier = PreActivatedConvolution(
            [concatenated, *hidden_features][-1],
            num_classes,
            kernel=classifier_kernel,
            norm=norm,
            dropout_fraction=classifier_fraction,
            bias=True,
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                fan_in = module.weight[0].numel()
                deviation = {"he": (2 / fan_in) ** 0.5, "normal": initial_deviation}
                nn.init.normal_(module.weight, std=deviation[initialisation])
        self.alignment = tuple(
            math.lcm(*(one.factor for one in along_axis)) for along_axis in self._axes
        )
        self.margins = tuple(
            margins_along(along_axis, alignment)
            for along_axis, alignment in zip(self._axes, self.alignment, strict=True)
        )

    def forward(
        self, image: Float[Tensor, "patch channel *space"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits of the voxels in `output_window`.

        Args:
            image: Preprocessed.
            taps: Layers as ``PATHWAY.N`` or ``hidden.N``, N from 1, pathways
                ``sharp``, ``wide``, ``wide2``, …; what they put out, residual included,
                before the next layer's norm. See `at_output`.
        """
        output_shape = self.output_shape(image.shape[2:])
        activations: dict[str, Tensor] = {}

        def through(chain: Chain, name: str, features: Tensor) -> Tensor:
            for number, output in enumerate(chain(features), start=1):
                if f"{name}.{number}" in taps:
                    activations[f"{name}.{number}"] = output
                features = output
            return features

        def found_by(pathway: Pathway, name: str) -> Tensor:
            probes = pathway.probed(image, output_shape, self.margins)
            features = through(pathway.chain, name, probes)
            return pathway.upsampled(features, output_shape)

        pathways = self._named_pathways.items()
        features = through(
            self.hidden,
            "hidden",
            torch.cat([found_by(pathway, name) for name, pathway in pathways], dim=1),
        )
        logits = self.classifier(features)
        names = [
            f"{name}.{number}"
            for name, chain in self._named_chains.items()
            for number in range(1, len(chain.layers) + 1)
        ]
        return Output(logits, (), asked(activations, taps, names))

    def at_output(
        self,
        tap: str,
        activation: Float[Tensor, "patch feature *space"],
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Float[Tensor, "patch feature *output"]:
        """See `Network`; every voxel stands where its context is centred."""
        part = whole(output_shape) if window is None else window
        name, number = tap.split(".")
        if name == "hidden":
            return activation[:, :, *part]
        pathway = self._named_pathways[name]
        blocks = [
            along_axis.blocks_window(length, int(number))
            for along_axis, length in zip(pathway.axes, output_shape, strict=True)
        ]
        at_blocks = activation[:, :, *blocks]
        return spread(at_blocks, part, pathway.factors, [0] * len(part))

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """Of every pathway those in the middle, at three quarters and last; and hidden.

        With the thesis' eight layers and two hidden ones: 4, 6, 8 and the 10th.
        """
        of_pathways = [
            f"{name}.{number}"
            for name, pathway in self._named_pathways.items()
            for number in late_layers(len(pathway.chain.layers))
        ]
        hidden = [self.embedding_layer] if self.embedding_layer else []
        return (*of_pathways, *hidden)

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Union over the pathways and over the phases of their factors."""
        return tuple(
            field([one.layers for one in along_axis], alignment)
            for along_axis, alignment in zip(self._axes, self.alignment, strict=True)
        )

    @property
    def pathway_fields(self) -> tuple[tuple[int, ...], ...]:
        """Of each, over the phases of its factor: factor times layers' own field.

        Plus what the first hidden layer adds.
        """
        return tuple(
            tuple(field([one.layers], one.factor) for one in pathway.axes)
            for pathway in self._named_pathways.values()
        )

    @property
    def _named_pathways(self) -> dict[str, "Pathway"]:
        return dict(self.pathways.items())  # type: ignore[arg-type]

    @property
    def _named_chains(self) -> dict[str, "Chain"]:
        pathways = self._named_pathways.items()
        return {name: pathway.chain for name, pathway in pathways} | {
            "hidden": self.hidden
        }

    @property
    def _axes(self) -> list[tuple["PathwayAlongAxis", ...]]:
        """Per axis, the geometry of all pathways."""
        return list(
            zip(
                *(pathway.axes for pathway in self._named_pathways.values()),
                strict=True,
            )
        )


class Pathway(nn.Module):
    """Layers that see the image at one resolution, and the ways there and back.

    Args:
        in_channels: Of the image.
        features: Channels per layer.
        factors: Downsampling per axis.
        kernels: Per layer and axis.
        residual_layers: Counted from 1.
        hidden_kernel: Per axis, of the layer that follows the concatenation.
        norm: See `DeepMedic`.
        dropout_fractions: Per layer.
        upsampling: See `DeepMedic`.
    """

    def __init__(
        self,
        in_channels: int,
        features: Sequence[int],
        *,
        factors: Sequence[int],
        kernels: Sequence[Sequence[int]],
        residual_layers: Sequence[int],
        hidden_kernel: Sequence[int],
        norm: Literal["batch", "none"],
        dropout_fractions: Sequence[float],
        upsampling: Upsampling,
    ) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.upsampling = upsampling
        self.axes = tuple(
            PathwayAlongAxis(
                factor,
                tuple(kernel[axis] for kernel in kernels),
                hidden_kernel[axis],
                upsampling,
            )
            for axis, factor in enumerate(factors)
        )
        self.chain = Chain(
            in_channels,
            features,
            kernels=kernels,
            residual_layers=residual_layers,
            norm=norm,
            dropout_fractions=dropout_fractions,
            takes_image=True,
        )
        self.deconvolution = (
            repeating_deconvolution(features[-1], factors)
            if upsampling == "deconvolution" and max(factors) > 1
            else None
        )

    def probed(
        self,
        image: Tensor,
        output_shape: Sequence[int],
        margins: Sequence[tuple[int, int]],
    ) -> Tensor:
        """The voxels of the extended patch that this pathway sees; a view of it."""
        window = [
            along_axis.image_window(length, before)
            for along_axis, length, (before, _) in zip(
                self.axes, output_shape, margins, strict=True
            )
        ]
        return image[:, :, *window]

    def upsampled(self, features: Tensor, output_shape: Sequence[int]) -> Tensor:
        """What the pathway found, at every voxel that the hidden layers see."""
        if max(self.factors) == 1:
            return features
        if self.deconvolution is not None:
            features = self.deconvolution(features)
        elif self.upsampling == "linear":
            features = linearly_upsampled(features, self.factors)
        else:
            features = repeated(features, self.factors)
        window = [
            along_axis.upsampled_window(length)
            for along_axis, length in zip(self.axes, output_shape, strict=True)
        ]
        return features[:, :, *window]


@dataclass(frozen=True)
class PathwayAlongAxis:
    """Where a pathway takes its input from, along one axis."""

    factor: int
    kernels: tuple[int, ...]
    hidden_kernel: int
    upsampling: Upsampling

    @property
    def centre(self) -> int:
        """Voxels of a window before its centre; the left one of two."""
        return (sum(self.kernels) - len(self.kernels)) // 2

    @property
    def hidden_centre(self) -> int:
        """The same of the first hidden layer."""
        return (self.hidden_kernel - 1) // 2

    @property
    def layers(self) -> list[Layer]:
        """From the image to the hidden layers."""
        return [
            Shift(-self.factor * self.centre),
            Window(1, stride=self.factor),
            *(Window(kernel) for kernel in self.kernels),
            *self.layers_after,
        ]

    @property
    def layers_after(self) -> list[Layer]:
        """From the pathway's own grid to the hidden layers."""
        way_back: dict[str, Layer] = {
            "repetition": Repeat(self.factor),
            # A hat of two factors' width on every output of the pathway.
            "linear": TransposedWindow(
                2 * self.factor - 1, self.factor, padding=self.factor - 1
            ),
            "deconvolution": TransposedWindow(self.factor, self.factor),
        }
        hidden = Window(self.hidden_kernel, padding=self.hidden_centre)
        return [way_back[self.upsampling], hidden]

    def image_window(self, output_length: int, before: int) -> slice:
        """Probes of a patch with ``before`` voxels before the first output voxel."""
        first, last = behind(self.layers, 0, output_length - 1)
        return slice(before + first, before + last + 1, self.factor)

    def upsampled_window(self, output_length: int) -> slice:
        """The hidden layers' part of all outputs of the pathway, upsampled."""
        first_block, _ = behind(self.layers_after, 0, output_length - 1)
        start = -self.hidden_centre - first_block * self.factor
        return slice(start, start + output_length + self.hidden_kernel - 1)

    def blocks_window(self, output_length: int, layer: int) -> slice:
        """The part of a layer's output that stands in the output, by centres."""
        first_block, _ = behind(self.layers_after, 0, output_length - 1)
        passed = self.kernels[:layer]
        start = self.centre - (sum(passed) - len(passed)) // 2 - first_block
        return slice(start, start + output_length // self.factor)


def margins_along(
    pathways: Sequence[PathwayAlongAxis], alignment: int
) -> tuple[int, int]:
    """Input voxels before the first and after the last output voxel.

    Outputs begin with a block of every pathway and end with one, so not every phase
    occurs at the ends.
    """
    ends = [behind(pathway.layers, 0, alignment - 1) for pathway in pathways]
    first = min(first for first, _ in ends)
    last = max(last for _, last in ends)
    return -first, last - (alignment - 1)


class Chain(nn.Module):
    """Layers one after the other, some with a residual connection over two of them.

    Args:
        in_channels: Of the input.
        features: Channels per layer.
        kernels: Per layer and axis.
        residual_layers: Counted from 1.
        norm: See `DeepMedic`.
        dropout_fractions: Per layer.
        takes_image: The first layer gets a bias only: no norm and no activation.
    """

    def __init__(
        self,
        in_channels: int,
        features: Sequence[int],
        *,
        kernels: Sequence[Sequence[int]],
        residual_layers: Sequence[int],
        norm: Literal["batch", "none"],
        dropout_fractions: Sequence[float],
        takes_image: bool = False,
    ) -> None:
        super().__init__()
        self.residual_layers = frozenset(residual_layers)
        self.layers = nn.ModuleList(
            PreActivatedConvolution(
                [in_channels, *features][n],
                features[n],
                kernel=kernels[n],
                norm="none" if takes_image and n == 0 else norm,
                activation=not (takes_image and n == 0),
                dropout_fraction=dropout_fractions[n],
            )
            for n in range(len(features))
        )

    def forward(self, features: Tensor) -> Iterator[Tensor]:
        """Output of each layer in turn; none is kept here for longer than needed."""
        before = features
        for number, layer in enumerate(self.layers, start=1):
            output = layer(features)
            if number in self.residual_layers:
                add_centre(output, before)
            before, features = features, output
            yield output


class PreActivatedConvolution(nn.Module):
    """Batch norm or bias, PReLU, dropout, then a valid convolution.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Per axis.
        norm: Without, a learned bias per input channel takes its place.
        activation: With PReLU.
        dropout_fraction: Of the convolution's inputs, in training.
        bias: Also add one per output channel, after the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: Sequence[int],
        norm: Literal["batch", "none"],
        dropout_fraction: float,
        activation: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        dimensions = len(kernel)
        self.norm = (
            BATCH_NORMS[dimensions](in_channels, eps=NORM_EPSILON)
            if norm == "batch"
            else ChannelBias(in_channels)
        )
        self.activation = (
            nn.PReLU(in_channels, init=INITIAL_SLOPE) if activation else nn.Identity()
        )
        self.dropout = nn.Dropout(dropout_fraction)
        self.convolution = convolution_class(dimensions)(
            in_channels,
            out_channels,
            tuple(kernel),  # type: ignore[arg-type]
            bias=bias,
        )
        if bias:
            nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]

    def forward(
        self, features: Float[Tensor, "patch in_channel *space"]
    ) -> Float[Tensor, "patch out_channel *smaller"]:
        """Features, smaller by the kernel less one."""
        return self.convolution(self.dropout(self.activation(self.norm(features))))


class ChannelBias(nn.Module):
    """Adds a learned number per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, features: Float[Tensor, "patch channel *space"]
    ) -> Float[Tensor, "patch channel *space"]:
        """Features plus bias."""
        return features + self.bias.reshape(-1, *[1] * (features.ndim - 2))


def add_centre(output: Tensor, earlier: Tensor) -> None:
    """Add to an output the centre of an earlier one, as far as both have channels.

    Where an even number of voxels is lost, one less is lost at the start.
    """
    shared = min(output.shape[1], earlier.shape[1])
    window = []
    for long, short in zip(earlier.shape[2:], output.shape[2:], strict=True):
        window.append(slice((long - short) // 2, (long - short) // 2 + short))
    # In place: nothing is padded and nothing copied, and convolutions do not need
    # their output for the way back.
    output[:, :shared] += earlier[:, :shared, *window]


def linearly_upsampled(
    features: Float[Tensor, "patch feature *space"], factors: Sequence[int]
) -> Float[Tensor, "patch feature *larger"]:
    """Voxels a factor apart, with values in between."""
    size = [
        (length - 1) * factor + 1
        for length, factor in zip(features.shape[2:], factors, strict=True)
    ]
    mode = LINEAR_MODES[len(size)]
    return F.interpolate(features, size, mode=mode, align_corners=True)


def repeating_deconvolution(channels: int, factors: Sequence[int]) -> nn.Module:
    """A transposed convolution that starts as repetition."""
    deconvolution = TRANSPOSED_CONVOLUTIONS[len(factors)](
        channels,
        channels,
        tuple(factors),  # type: ignore[arg-type]
        stride=tuple(factors),  # type: ignore[arg-type]
        bias=False,
    )
    identity = torch.eye(channels).reshape(channels, channels, *[1] * len(factors))
    with torch.no_grad():
        deconvolution.weight.copy_(identity.expand_as(deconvolution.weight))
    return deconvolution


def pathway_name(number: int) -> str:
    """One of ``sharp``, ``wide``, ``wide2``, ``wide3``, and so on."""
    return ("sharp", "wide")[number] if number <= 1 else f"wide{number}"


def per_axis(size: Size, dimensions: int) -> tuple[int, ...]:
    """One number for all axes, or one for each."""
    sizes = (size,) * dimensions if isinstance(size, int) else tuple(size)
    if len(sizes) != dimensions:
        raise ValueError(f"{sizes} has {len(sizes)} axes; the network has {dimensions}")
    return sizes


def per_pathway(
    features: Sequence[int | Sequence[int]], number: int
) -> list[Sequence[int]]:
    """One list for all pathways, or one for each."""
    if isinstance(features[0], int):
        return [features] * number  # type: ignore[list-item]
    return list(features)  # type: ignore[arg-type]


def for_each(values: Sequence, layers: int) -> list:  # type: ignore[type-arg]
    """One value for all layers, or one for each."""
    values = list(values) * layers if len(values) == 1 else list(values)
    if len(values) != layers:
        raise ValueError(
            f"{values} has {len(values)} entries; there are {layers} layers"
        )
    return values
