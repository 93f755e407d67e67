"""Augmentation consistency: an unlabelled patch means the same, seen otherwise.

Unsupervised data augmentation, UDA: Xie et al. 2020, https://arxiv.org/abs/1904.12848.
What the network says of a patch, sharpened, is the target of what it says of the same
patch with other geometry and intensities.

What differs from the paper, which classifies whole images:

- Every voxel is an example. What is said of the first view is carried to the voxels of
  the second by the map between the two before they are compared; voxels that the first
  view does not show carry no loss.
- The first view is the patch as labelled ones are augmented too, and the second goes
  through the run's augmentation once more; the paper's first view is the plain image,
  and its second goes through RandAugment.
- The weight of the term rises in a straight line; in the paper it is constant.
- Batch norms see labelled patches only.

As in the paper, dropout is on in both views, no gradient flows through the target, and
voxels below the threshold count as 0 in the mean.
"""

from collections.abc import Mapping

from torch import Tensor

from foveal.losses.consistency import divergence, is_confident, sharpened
from foveal.methods.interface import Clock, Method, Setting
from foveal.methods.ramps import rise
from foveal.methods.signal_annealing import (
    ignored_fraction,
    largest_probability,
    without_learned_voxels,
)
from foveal.methods.two_views import seen_twice
from foveal.networks.interface import Network
from foveal.sampling.batch import Batch


class Consistency(Method):
    """One network, which agrees with itself on unlabelled patches.

    Args:
        setting: Of the run.
        weight: Of the divergence.
        ramp_up_fraction: Share of the run in which the weight rises from 0.
        temperature: Of sharpening.
        threshold: Voxels whose target is less sure count as 0.
        annealing: ``"none"``, or a schedule of `foveal.methods.signal_annealing`.
        batch_size: Unlabelled patches per step; ``None``: as many as labelled ones.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        weight: float,
        ramp_up_fraction: float,
        temperature: float,
        threshold: float,
        annealing: str,
        batch_size: int | None,
    ) -> None:
        super().__init__()
        self.network = setting.network
        self.setting = setting
        self.weight = weight
        self.ramp_up_fraction = ramp_up_fraction
        self.temperature = temperature
        self.threshold = threshold
        self.annealing = annealing
        self.streams = {
            "labelled": setting.labelled_stream,
            "unlabelled": setting.unlabelled_stream(batch_size),
        }
        self._measures: dict[str, Tensor] = {}

    @property
    def predictor(self) -> Network:
        """The one network."""
        return self.network

    def forward(self, batches: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """One term per loss of labelled patches, and ``"consistency"``."""
        labelled = batches["labelled"]
        output = self.network(labelled.image)
        learned_from, measures = labelled, {}
        if self.annealing != "none":
            num_classes = output.logits.shape[1]
            learned_from = without_learned_voxels(
                labelled,
                output.logits,
                self.network,
                largest_probability(self.annealing, clock, num_classes),
            )
            measures["annealed_fraction"] = ignored_fraction(
                learned_from, labelled, self.network
            )
        terms = self.setting.labelled_loss(self.network, output, learned_from)
        views = seen_twice(
            batches["unlabelled"].image,
            self.setting,
            teacher=self.network,
            student=self.network,
        )
        target = sharpened(views.target, self.temperature)
        # Sure before it is sharpened, as in the authors' program.
        confident = is_confident(views.target, self.threshold)
        consistency = views.mean(divergence(views.logits, target), confident)
        self._measures = measures | views.measures(consistency, confident)
        factor = self.weight * rise(clock, self.ramp_up_fraction)
        return {**terms, "consistency": factor * consistency}

    def measures(self) -> Mapping[str, Tensor]:
        """How consistent, how sure and of what; see `TwoViews.measures`.

        With annealing also the fraction of the labelled voxels that it left out.
        """
        return self._measures
