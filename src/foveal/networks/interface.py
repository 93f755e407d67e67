"""What every network is: a plain function of an image, with its geometry stated."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.errors import GeometryError
from foveal.networks.places import spread


class Output(NamedTuple):
    """What a network says about a batch of patches; spatial axes are those it takes."""

    logits: Float[Tensor, "patch class ..."]

    coarse_logits: tuple[Float[Tensor, "patch class ..."], ...] = ()
    """Deep supervision, finest first; empty unless training with it."""

    activations: tuple[Tensor, ...] = ()
    """Of the layers that were asked for, in the order asked."""


class Network(nn.Module, ABC):
    """Maps `(patch, channel, …)` to logits, 2D or 3D; knows nothing of training."""

    alignment: tuple[int, ...]
    """Per axis: output lengths, and in a larger image the first output voxel of every
    patch, must be multiples of this. Padded networks put out what they take in, so the
    same holds for the input."""

    padding: Literal["same", "valid"]
    """``"valid"``: only voxels whose whole context is in the input are put out."""

    margins: tuple[tuple[int, int], ...] = ()
    """Per axis, input voxels before the first and after the last output voxel; empty
    stands for none, as with ``padding = "same"``."""

    classifier_names: tuple[str, ...]
    """Names of the modules that make logits of features: those that another data set
    replaces, and that some papers exempt from regularisation."""

    embedding_layer: str = ""
    """Name in ``taps`` of the layer that the classifier reads, or that among several
    which comes closest; empty: not known."""

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """Names in ``taps`` of the layers that are made alike over domains by default.

        From the middle of the network on to what the classifier reads, as in Kamnitsas'
        thesis (Imperial College London 2019), section 5.2.2. Empty: the user has to
        name them.
        """
        return ()

    @property
    @abstractmethod
    def receptive_field(self) -> tuple[int, ...] | None:
        """Input voxels that one output voxel depends on, per axis.

        The union over the phases of any downsampling; ``None`` where a layer sees the
        whole input (instance norm, global pooling).
        """

    @property
    def pathway_fields(self) -> tuple[tuple[int, ...], ...]:
        """Receptive fields of parallel pathways, the sharpest first."""
        return () if self.receptive_field is None else (self.receptive_field,)

    def pretrained_names(self) -> Mapping[str, str]:
        """Names of weights here to those in a published classification network.

        Of parameters and buffers alike, in torchvision's naming. Empty: there is none
        of this kind. Where a fully connected layer became a convolution, the published
        matrix is viewed in the shape that it has here.
        """
        return {}

    def output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Spatial shape of the logits for an input of this spatial shape.

        Raises:
            GeometryError: The network cannot take this shape; names the next ones.
        """
        if len(input_shape) != len(self.alignment):
            raise GeometryError(
                f"input {tuple(input_shape)} has {len(input_shape)} axes; the network "
                f"is for {len(self.alignment)}"
            )
        margins = [before + after for before, after in self.all_margins]
        output = tuple(
            length - margin for length, margin in zip(input_shape, margins, strict=True)
        )
        if all(
            length > 0 and length % step == 0
            for length, step in zip(output, self.alignment, strict=True)
        ):
            return output
        rule = f"must be divisible by {self.alignment}"
        if any(margins):
            rule = (
                f"must be {tuple(margins)}, the context at the borders, plus multiples "
                f"of {self.alignment}"
            )
        raise GeometryError(
            f"input {tuple(input_shape)} {rule}; next larger: "
            f"{self.fitting_shape(input_shape)}"
        )

    def fitting_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """The smallest input the network takes that is as large on every axis."""
        return tuple(
            before + after + step * max(1, -(-(length - before - after) // step))
            for length, step, (before, after) in zip(
                input_shape, self.alignment, self.all_margins, strict=True
            )
        )

    def output_window(self, input_shape: Sequence[int]) -> tuple[slice, ...]:
        """Voxels of an input of this shape that the logits speak of."""
        return tuple(
            slice(before, before + length)
            for length, (before, _) in zip(
                self.output_shape(input_shape), self.all_margins, strict=True
            )
        )

    @property
    def all_margins(self) -> tuple[tuple[int, int], ...]:
        """``margins``, written out."""
        return self.margins or ((0, 0),) * len(self.alignment)

    def image_logits(self, image: Tensor) -> Float[Tensor, "patch class"]:
        """What every image shows as a whole: the mean of its logits over space.

        With a fully connected network made convolutional it is the classifier's answer,
        averaged over its positions (Lin et al. 2014, https://arxiv.org/abs/1312.4400).
        """
        return self(image).logits.flatten(2).mean(dim=2)

    def at_output(
        self,
        tap: str,
        activation: Tensor,
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Tensor:
        """A layer's activation on the grid of the logits, repeated where it is coarser.

        Args:
            tap: Its name in ``forward``.
            activation: What ``forward`` gave for it.
            output_shape: Of the logits.
            window: First voxel and end of the part that is wanted, along every axis;
                ``None``: all. Less is made of a coarse layer for less.
        """
        del tap  # Every layer spans what the padded network puts out.
        part = whole(output_shape) if window is None else window
        lengths = activation.shape[2:]
        if all(
            length and output % length == 0
            for output, length in zip(output_shape, lengths, strict=True)
        ):
            strides = [
                output // length
                for output, length in zip(output_shape, lengths, strict=True)
            ]
            return spread(activation, part, strides, [0] * len(strides))
        shown = F.interpolate(activation, tuple(output_shape), mode="nearest-exact")
        return shown[:, :, *part]

    @abstractmethod
    def forward(self, image: Tensor, taps: Sequence[str] = ()) -> Output:
        """Logits of a batch; ``taps`` names layers whose activations are wanted."""


def late_layers(number: int) -> list[int]:
    """Of so many layers, from 1: the middle one, that at three quarters, the last."""
    middle, later = -(-number // 2), -(-3 * number // 4)
    return sorted({middle, later, number})


class UnknownLayerError(ValueError):
    """A network was asked for the activations of layers that it does not have.

    Args:
        unknown: Names that were asked for.
        names: Those there are.
    """

    def __init__(self, unknown: Sequence[str], names: Sequence[str]) -> None:
        there = ", ".join(names)
        super().__init__(f"no layer is called {', '.join(unknown)}; there are {there}")
        self.names = tuple(names)


def whole(shape: Sequence[int]) -> tuple[slice, ...]:
    """The window of a grid that is all of it."""
    return tuple(slice(0, length) for length in shape)


def asked(
    activations: Mapping[str, Tensor],
    taps: Sequence[str],
    names: Iterable[str] | None = None,
) -> tuple[Tensor, ...]:
    """Activations in the order asked.

    Args:
        activations: By the names of layers.
        taps: Names that are asked for.
        names: Of all layers, where only those asked for were kept.

    Raises:
        UnknownLayerError: A tap is no layer's name; says which there are.
    """
    unknown = [name for name in taps if name not in activations]
    if unknown:
        there = list(activations if names is None else names)
        raise UnknownLayerError(unknown, there)
    return tuple(activations[name] for name in taps)
