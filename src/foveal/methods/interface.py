"""What a training method is: its networks, streams, optimisers and losses by name.

The engine sums the loss terms, runs one backward pass, steps one optimiser per
parameter group and saves the state; it knows no method by name. Adversarial training
fits in one backward pass by reversing gradients. What is made of whole cases by the
predictor is declared, and made by the engine between two steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import Parameter

from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import SpatialAugmentation
from foveal.methods.labelled_loss import LabelledLoss
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
    of which it is only known what they show; ``"unlabelled"``; ``"source"`` and
    ``"target"``, the cases of some domains, whether outlined or not."""

    sampler: str
    """Name of a sampler, see `foveal.building.SAMPLERS`."""

    batch_size: int

    domains: tuple[str, ...] = ()
    """Of ``"source"`` and ``"target"``, which domains; empty: for the source those in
    which a case to train on is outlined, for the target all others."""


class Refresh(NamedTuple):
    """Labels of a stream's cases that are made by the predictor, now and then anew."""

    stream: str

    every_steps: int | None
    """``None``: only before the first step."""

    labels: Callable[[Tensor], Tensor]
    """Of the probabilities `(class, i, j, k)` of some rows of a case: what patches are
    labelled with there, in bytes; a label map `(i, j, k)`, or `(class, i, j, k)`,
    probabilities times 255, all 0 where nothing is to be learned."""

    are_soft: bool
    """Whether ``labels`` gives probabilities; batches have them as ``soft_labels``."""

    least_share: float
    """New labels are not used if a structure has less than this share of the voxels
    that it had in the first, or none."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What a run gives to every method that outlines."""

    network: Network
    """Fresh; the method trains it."""

    labelled_loss: LabelledLoss

    sampler: str
    """Of labelled patches, by name."""

    batch_size: int
    """Labelled patches per step."""

    in_channels: int
    """Of the image."""

    patch_size: tuple[int, int, int]
    """What the network takes in, in voxels."""

    spacing_mm: tuple[float, float, float]
    """Of patches."""

    structures: Bool[Tensor, "structure class"]
    """Whether each structure includes each inside class."""

    spatial: SpatialAugmentation
    intensity: IntensityAugmentation
    """Changes that patches go through, for methods that make further ones."""

    @property
    def labelled_stream(self) -> Stream:
        """Labelled patches, as the run draws them."""
        return Stream("labelled", self.sampler, self.batch_size)

    def unlabelled_stream(self, batch_size: int | None) -> Stream:
        """Patches from anywhere in unlabelled cases, as their classes are not known.

        Args:
            batch_size: Per step; ``None``: as many as labelled ones.
        """
        return Stream("unlabelled", "uniform", batch_size or self.batch_size)


class Method(nn.Module, ABC):
    """What is learned from which batches; data-parallel training wraps it whole.

    Every network is a submodule, so that its weights are saved with the run; buffers
    hold what else must survive a resume.
    """

    streams: Mapping[str, Stream]

    task: Literal["segmentation", "classification"] = "segmentation"
    """What the predictor is validated by and used for: outlines, or what an image
    shows."""

    constant_rates: Mapping[str, float] = {}
    """Learning rates of parameter groups that do not follow optimiser and schedule of
    the settings in this."""

    refresh: Refresh | None = None

    @property
    @abstractmethod
    def predictor(self) -> Network:
        """The network that is validated, exported and used to predict."""

    @property
    def networks(self) -> Sequence[Network]:
        """All that begin with the weights of a run to go on from; the predictor first.

        They are alike.
        """
        return [self.predictor]

    def parameter_groups(self) -> Mapping[str, list[Parameter]]:
        """Disjoint groups of parameters; each gets an optimiser of its own.

        All of the predictor's under ``"network"``, unless a method says otherwise.
        """
        return {"network": list(self.predictor.parameters())}

    @abstractmethod
    def forward(self, batches: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """Loss terms by name; their sum is what is minimised."""

    def may_be_best(self, share_done: float) -> bool:
        """Whether weights of now may be kept as the best of the run.

        Not before what validation cannot see is in force, such as adaptation to cases
        that nobody outlined: earlier weights may be better on the outlined ones.

        Args:
            share_done: Of the run's steps, in (0, 1].
        """
        del share_done  # Supervised weights may be at any time.
        return True

    def after_step(self, clock: Clock) -> None:
        """Called when the optimisers have stepped: moving averages and the like."""

    def measures(self) -> Mapping[str, Tensor]:
        """Numbers of the latest `forward` that are logged beside its loss terms."""
        return {}
