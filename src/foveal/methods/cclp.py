"""Compact clusters by label propagation, CCLP: one even cluster of features per class.

Kamnitsas et al., "Semi-supervised learning via compact latent space clustering", ICML
2018, https://arxiv.org/abs/1806.02679; K. Kamnitsas's thesis (Imperial College London),
chapter 6, algorithm 5.

Differs from the paper, which classifies images:

- A sample is a voxel, its embedding what the network's last hidden layer says of it.
  Labelled ones are drawn class by class, as many of each that a batch shows. Unlabelled
  ones are drawn by predicted class, with a bound on background's share.
- Unlabelled patches are normalised by the running statistics of labelled ones.
- By default embeddings are compared by their cosine, as products of unbounded features
  soon make every row of the transition matrix a single one.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from foveal.losses.compact_clusters import (
    Normalisation,
    Similarity,
    compact_clusters_loss,
    spread_labels,
)
from foveal.methods.interface import Clock, Method, Setting
from foveal.methods.labelled_loss import predicted_labels
from foveal.methods.probed_layers import probed_channels
from foveal.methods.ramps import rise
from foveal.methods.running_statistics import running_statistics
from foveal.methods.voxel_draws import (
    drawn_by_prediction,
    evenly_drawn,
    sure_classes,
)
from foveal.networks.interface import Network, Output
from foveal.sampling.batch import Batch

LEAST_CLASSES = 2
"""With fewer there is nothing to tell apart."""

NO_DEFAULT = "which is this network's last hidden layer is not known; name one of"
"""What to tell of a network without an ``embedding_layer``."""


class Cclp(Method):
    """Supervised terms and a regulariser of the embeddings of some voxels.

    The embeddings are taken before the classifier, which so learns from the supervised
    terms alone. A step whose labelled patches show a single class is supervised only.

    Args:
        setting: Of the run.
        weight: Of the regulariser.
        ramp_up_fraction: Share of the run in which the weight rises from 0.
        steps: S, the longest Markov chain.
        normalisation: See `compact_clusters_loss`.
        similarity: See `similarities`.
        temperature: See `similarities`.
        layer: Whose activations are the embeddings; ``None``: the network's
            ``embedding_layer``.
        labelled_voxels: Drawn per step, at most.
        unlabelled_voxels: Drawn per step, at most; 0: no unlabelled patches are read.
        background_share: Of the unlabelled voxels, at most.
        batch_size: Unlabelled patches per step; ``None``: as many as labelled ones.

    Raises:
        SettingsError: The network has no such layer; says which there are.
    """

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
        labelled_voxels: int,
        unlabelled_voxels: int,
        background_share: float,
        batch_size: int | None,
    ) -> None:
        super().__init__()
        self.network = setting.network
        self.labelled_loss = setting.labelled_loss
        self.weight, self.ramp_up_fraction = weight, ramp_up_fraction
        self.steps, self.normalisation = steps, normalisation
        self.similarity, self.temperature = similarity, temperature
        self.layer = setting.network.embedding_layer if layer is None else layer
        probed_channels(
            setting, [self.layer], option="method.layer", missing=NO_DEFAULT
        )
        self.labelled_voxels = labelled_voxels
        self.unlabelled_voxels = unlabelled_voxels
        self.background_share = background_share
        self.streams = {"labelled": setting.labelled_stream}
        if unlabelled_voxels:
            self.streams["unlabelled"] = setting.unlabelled_stream(batch_size)
        self._measured: dict[str, Tensor] = {}

    @property
    def predictor(self) -> Network:
        """The one network."""
        return self.network

    def forward(self, batches: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """The supervised terms and ``compact_clusters``."""
        batch = batches["labelled"]
        output = self.network(batch.image, [self.layer])
        terms = self.labelled_loss(self.network, output, batch)
        embeddings, labels = self._labelled(output, batch)
        num_classes = int(labels.any(dim=0).sum())
        self._measured = {"labelled_classes": torch.tensor(float(num_classes))}
        regulariser = output.logits.new_zeros(())
        if num_classes >= LEAST_CLASSES:
            if "unlabelled" in batches:
                others, predicted = self._unlabelled(batches["unlabelled"])
                embeddings = torch.cat([embeddings, others])
                self._measure(embeddings, labels, predicted)
            regulariser = compact_clusters_loss(
                embeddings,
                labels,
                steps=self.steps,
                normalisation=self.normalisation,
                similarity=self.similarity,
                temperature=self.temperature,
            )
        factor = self.weight * rise(clock, self.ramp_up_fraction)
        return {**terms, "compact_clusters": factor * regulariser}

    def measures(self) -> Mapping[str, Tensor]:
        """What was drawn in the latest step, and how propagation took it.

        ``labelled_classes``: with fewer than 2 the step was supervised only;
        ``unlabelled_voxels``; if any, ``unlabelled_foreground``, the share of them that
        is predicted as foreground, and ``propagation_agreement``, the share whose
        propagated class is the predicted one.
        """
        return self._measured

    def _labelled(
        self, output: Output, batch: Batch
    ) -> tuple[Float[Tensor, "drawn feature"], Float[Tensor, "drawn class"]]:
        """Embeddings and one-hot labels of voxels of which the class is sure."""
        label_map, annotated, structures = batch.labels()
        shown = predicted_labels(label_map, self.network)
        classes = sure_classes(shown, annotated, structures).flatten()
        drawn = evenly_drawn(classes, self.labelled_voxels)
        labels = F.one_hot(classes[drawn], output.logits.shape[1])
        embeddings = voxel_embeddings(self.network, self.layer, output, drawn)
        return embeddings, labels.float()

    def _unlabelled(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "drawn feature"], Int[Tensor, " drawn"]]:
        """Embeddings and predicted classes of voxels."""
        with running_statistics(self.network):
            output = self.network(batch.image, [self.layer])
        predicted = output.logits.detach().argmax(dim=1).flatten()
        drawn = drawn_by_prediction(
            predicted, self.unlabelled_voxels, self.background_share
        )
        embeddings = voxel_embeddings(self.network, self.layer, output, drawn)
        return embeddings, predicted[drawn]

    @torch.no_grad()
    def _measure(self, embeddings: Tensor, labels: Tensor, predicted: Tensor) -> None:
        self._measured["unlabelled_voxels"] = torch.tensor(float(len(predicted)))
        if not len(predicted):
            return
        posteriors = spread_labels(
            embeddings,
            labels,
            similarity=self.similarity,
            temperature=self.temperature,
        )
        agrees = posteriors[len(labels) :].argmax(dim=1).to(predicted) == predicted
        self._measured |= {
            "unlabelled_foreground": (predicted > 0).float().mean(),
            "propagation_agreement": agrees.float().mean(),
        }


def voxel_embeddings(
    network: Network, layer: str, output: Output, voxels: Int[Tensor, " voxel"]
) -> Float[Tensor, "voxel feature"]:
    """What a layer says of some voxels of the logits' grid.

    Args:
        network: That made ``output``.
        layer: Its name, the only one that was asked for.
        output: With that layer's activation.
        voxels: Places among the voxels of all patches of the batch.
    """
    (activation,) = output.activations
    number, _, *space = activation.shape
    # Only these few voxels are brought to the grid of the logits, by where they are.
    device, ones = activation.device, [1] * len(space)
    item = torch.arange(number, device=device).reshape(number, 1, *ones)
    place = torch.arange(math.prod(space), device=device).reshape(1, 1, *space)
    shape = (number, 1, *space)
    where = torch.cat([item.expand(shape), place.expand(shape)], dim=1).float()
    shown = network.at_output(layer, where, output.logits.shape[2:])
    items, places = shown.long().movedim(1, 0).flatten(1)[:, voxels]
    return activation.flatten(2)[items, :, places]
