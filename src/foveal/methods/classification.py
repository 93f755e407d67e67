"""Classification: which structures a patch shows, learned without outlines.

Seed of every system that starts a segmentation network from a classifier (Long et al.
2015, https://arxiv.org/abs/1411.4038; Hong et al. 2015,
https://arxiv.org/abs/1506.04924). It differs from theirs: several structures may be
present, so each has a logit of its own against background, and the network is the
segmentation network itself, whose logits are averaged over the patch.
"""

from collections.abc import Mapping

from torch import Tensor

from foveal.losses.presence import presence_cross_entropy
from foveal.methods.interface import Clock, Method, Stream
from foveal.networks.interface import Network
from foveal.sampling.batch import Batch


class Classification(Method):
    """Binary cross entropy of every structure's presence, where that is known.

    Args:
        network: Trained; its weights start a segmentation network.
        sampler: Name of the sampler of the patches.
        batch_size: Patches per step.
    """

    task = "classification"

    def __init__(self, network: Network, *, sampler: str, batch_size: int) -> None:
        super().__init__()
        self.network = network
        self.streams = {"images": Stream("image_labelled", sampler, batch_size)}

    @property
    def predictor(self) -> Network:
        """The one network."""
        return self.network

    def forward(self, batches: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """One term: the mean over patches and the structures known in them."""
        batch = batches["images"]
        present, known, structures = batch.presence()
        loss = presence_cross_entropy(
            self.network.image_logits(batch.image), present, known, structures
        )
        return {"presence": loss}
