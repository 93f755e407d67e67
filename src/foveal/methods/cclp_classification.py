"""CCLP of whole patches or images: one cluster for all that show the same structures.

Kamnitsas et al. 2018, https://arxiv.org/abs/1806.02679, as they do it, see
`foveal.methods.cclp`: a sample is an image, its embedding the mean over space of the
last hidden layer. It differs in what a class is, as several structures may be present
at once: which of them are. What is unknown of an image makes it an unlabelled sample.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.errors import SettingsError
from foveal.losses.compact_clusters import (
    Normalisation,
    Similarity,
    compact_clusters_loss,
)
from foveal.losses.presence import presence_cross_entropy
from foveal.methods.cclp import LEAST_CLASSES, NO_DEFAULT
from foveal.methods.interface import Clock, Method, Setting, Stream
from foveal.methods.probed_layers import probed_channels
from foveal.methods.ramps import rise
from foveal.methods.running_statistics import running_statistics
from foveal.networks.decouplednet import DecoupledNet
from foveal.networks.interface import Network, Output
from foveal.sampling.batch import Batch


class CclpClassification(Method):
    """Cross entropy of presence, and a regulariser of the embeddings of images.

    A step whose images all show the same is supervised only.

    Args:
        setting: Of the run.
        weight: Of the regulariser.
        ramp_up_fraction: Share of the run in which the weight rises from 0.
        steps: S, the longest Markov chain.
        normalisation: See `compact_clusters_loss`.
        similarity: See `similarities`.
        temperature: See `similarities`.
        layer: Whose activations make the embeddings; ``None``: the network's
            ``embedding_layer``.
        unlabelled_patches: Per step; ``None``: as many as labelled ones; 0: none.

    Raises:
        SettingsError: The network has no such layer, or a classifier of its own.
    """

    task = "classification"

    def __init__(
        self,
        setting: Setting,
        *,
        weight: float,
        ramp_up_fraction: float,
        steps: int,
        normalisation: Normalisation,
        similarity: Similarity,
        temperature: float,
        layer: str | None,
        unlabelled_patches: int | None,
    ) -> None:
        super().__init__()
        self.network = setting.network
        if any(isinstance(each, DecoupledNet) for each in self.network.modules()):
            raise SettingsError(
                "method cclp_classification takes embeddings from what makes the "
                "outlines, and decouplednet has a classifier apart from it; choose "
                "method classification, or another network"
            )
        self.weight, self.ramp_up_fraction = weight, ramp_up_fraction
        self.steps, self.normalisation = steps, normalisation
        self.similarity, self.temperature = similarity, temperature
        self.layer = setting.network.embedding_layer if layer is None else layer
        probed_channels(
            setting, [self.layer], option="method.layer", missing=NO_DEFAULT
        )
        number = setting.batch_size
        self.streams = {"images": Stream("image_labelled", setting.sampler, number)}
        others = number if unlabelled_patches is None else unlabelled_patches
        if others:
            self.streams["unlabelled"] = setting.unlabelled_stream(others)
        self._measured: dict[str, Tensor] = {}

    @property
    def predictor(self) -> Network:
        """The one network."""
        return self.network

    def forward(self, batches: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """The terms ``presence`` and ``compact_clusters``."""
        batch = batches["images"]
        present, known, structures = batch.presence()
        output = self.network(batch.image, [self.layer])
        image_logits = output.logits.flatten(2).mean(dim=2)
        supervised = presence_cross_entropy(image_logits, present, known, structures)
        is_known = known.all(dim=1)
        classes = combinations(present[is_known])
        num_classes = int(classes.max()) + 1 if len(classes) else 0
        self._measured = {"labelled_classes": torch.tensor(float(num_classes))}
        regulariser = output.logits.new_zeros(())
        if num_classes >= LEAST_CLASSES:
            embeddings = self._embeddings(output, batch)
            samples = [embeddings[is_known], embeddings[~is_known]]
            if "unlabelled" in batches:
                others = batches["unlabelled"]
                with running_statistics(self.network):
                    unlabelled = self.network(others.image, [self.layer])
                samples.append(self._embeddings(unlabelled, others))
            regulariser = compact_clusters_loss(
                torch.cat(samples),
                F.one_hot(classes, num_classes).float(),
                steps=self.steps,
                normalisation=self.normalisation,
                similarity=self.similarity,
                temperature=self.temperature,
            )
        factor = self.weight * rise(clock, self.ramp_up_fraction)
        return {"presence": supervised, "compact_clusters": factor * regulariser}

    def measures(self) -> Mapping[str, Tensor]:
        """``labelled_classes``: with fewer than 2 the step was supervised only."""
        return self._measured

    def _embeddings(
        self, output: Output, batch: Batch
    ) -> Float[Tensor, "patch feature"]:
        """Mean over space of the layer; of a 2D network, over all slices of a patch."""
        (activation,) = output.activations
        means = activation.float().flatten(2).mean(dim=2)
        return means.unflatten(0, (len(batch.image), -1)).mean(dim=1)


def combinations(
    present: Bool[Tensor, "patch structure"],
) -> Int[Tensor, " patch"]:
    """Number of what each patch shows, the same for the same structures; from 0."""
    if not len(present):
        return torch.zeros(0, dtype=torch.long, device=present.device)
    return torch.unique(present, dim=0, return_inverse=True)[1]
