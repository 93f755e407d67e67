"""What a training method is: its networks, streams, optimisers and losses by name.

The engine sums the loss terms, runs one backward pass, steps one optimiser per
parameter group and saves the state; it knows no method by name. Adversarial training
fits in one backward pass by reversing gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import Parameter

from foveal.networks.interface import Network
from foveal.sampling.batch import Batch


class Clock(NamedTuple):
    """Where in a run a step stands."""

    step: int
    """Updates made before this one."""

    total_steps: int
    seed: int
    rank: int
    """Of this process among the data-parallel ones."""


class Stream(NamedTuple):
    """A named sequence of batches."""

    cases: str
    """Which cases: ``"labelled"``, outlined; ``"image_labelled"``, these and the ones
    of which it is only known what they show; ``"unlabelled"``, ``"source"`` or
    ``"target"``."""

    sampler: str
    """Name of a sampler, see `foveal.building.SAMPLERS`."""

    batch_size: int


class Method(nn.Module, ABC):
    """What is learned from which batches; data-parallel training wraps it whole.

    Every network is a submodule, so that its weights are saved with the run; buffers
    hold what else must survive a resume.
    """

    streams: Mapping[str, Stream]

    task: Literal["segmentation", "classification"] = "segmentation"
    """What the predictor is validated by and used for: outlines, or what an image
    shows."""

    @property
    @abstractmethod
    def predictor(self) -> Network:
        """The network that is validated, exported and used to predict."""

    @abstractmethod
    def parameter_groups(self) -> Mapping[str, list[Parameter]]:
        """Disjoint groups of parameters; each gets an optimiser of its own."""

    @abstractmethod
    def forward(self, batches: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """Loss terms by name; their sum is what is minimised."""

    def after_step(self, clock: Clock) -> None:
        """Called when the optimisers have stepped: moving averages and the like."""
