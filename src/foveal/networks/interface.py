"""What every network is: a plain function of an image, with its geometry stated."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


class Output(NamedTuple):
    """What a network says about a batch of patches."""

    logits: Float[Tensor, "patch class i j k"]

    coarse_logits: tuple[Float[Tensor, "patch class _ _ _"], ...] = ()
    """Deep supervision, finest first; empty unless training with it."""

    activations: tuple[Tensor, ...] = ()
    """Of the layers that were asked for, in the order asked."""


class Network(nn.Module, ABC):
    """Maps `(patch, channel, i, j, k)` to logits; knows nothing of training."""

    alignment: tuple[int, ...]
    """Input lengths must be multiples of this, per axis."""

    padding: Literal["same", "valid"]

    @property
    @abstractmethod
    def receptive_field(self) -> tuple[int, ...] | None:
        """Input voxels that one output voxel depends on, per axis.

        The union over the phases of any downsampling; ``None`` where a layer sees the
        whole input (instance norm, global pooling).
        """

    @abstractmethod
    def output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Spatial shape of the logits for an input of this spatial shape.

        Raises:
            GeometryError: The network cannot take this shape.
        """

    @abstractmethod
    def forward(self, image: Tensor, taps: Sequence[str] = ()) -> Output:
        """Logits of a batch; ``taps`` names layers whose activations are wanted."""
