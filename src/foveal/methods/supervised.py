"""Supervised training: labelled patches and a weighted sum of losses."""

from collections.abc import Collection, Mapping

from torch import Tensor

from foveal.methods.interface import Clock, Method, Stream
from foveal.methods.labelled_loss import LabelledLoss, Loss
from foveal.networks.interface import Network
from foveal.sampling.batch import Batch


class Supervised(Method):
    """The simplest method: one network, one stream, one optimiser.

    Args:
        network: Trained and used to predict.
        losses: Name to loss of (logits, label map, annotated, structures) and its
            weight.
        sampler: Name of the sampler of the labelled patches.
        batch_size: Patches per step.
        voxel_weighted: Names of the losses in which voxels count by the users' weight
            maps.
    """

    def __init__(
        self,
        network: Network,
        losses: Mapping[str, tuple[Loss, float]],
        *,
        sampler: str,
        batch_size: int,
        voxel_weighted: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.labelled_loss = LabelledLoss(losses, voxel_weighted)
        self.streams = {"labelled": Stream("labelled", sampler, batch_size)}

    @property
    def predictor(self) -> Network:
        """The one network."""
        return self.network

    def forward(self, batches: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """One term per loss, deep supervision included."""
        batch = batches["labelled"]
        return self.labelled_loss(self.network, self.network(batch.image), batch)
