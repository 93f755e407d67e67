"""Pseudo-labels: unlabelled cases with the labels that the network itself gives them.

Lee 2013, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for
Deep Neural Networks", Workshop on Challenges in Representation Learning, ICML.

It differs from his: labels are made of whole cases, as they are predicted, and not of
each batch by the weights of the moment; the first are those of a trained network, with
whose weights training begins; voxels of which the network was not sure carry no loss;
and the labels may be probabilities.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from foveal.case import IGNORED
from foveal.losses.soft_cross_entropy import KNOWN_SHARE, soft_cross_entropy
from foveal.methods.interface import Clock, Method, Refresh, Setting
from foveal.methods.labelled_loss import (
    halving_shares,
    labels_at,
    predicted_labels,
)
from foveal.methods.ramps import rise
from foveal.methods.running_statistics import running_statistics
from foveal.networks.interface import Network, Output
from foveal.sampling.batch import Batch


class PseudoLabel(Method):
    """Labelled patches, and unlabelled ones with the labels that were made for them.

    Args:
        setting: What the run gives.
        labels: ``"hard"``: the losses of labelled patches, with the most probable class
            as label. ``"soft"``: cross entropy with the probabilities.
        threshold: Least probability of the most probable class of a voxel that counts.
        weight: Of the loss on unlabelled patches.
        ramp_up_fraction: Share of the run in which the weight rises from 0.
        every_steps: After which labels are made anew; ``None``: never.
        least_share: See `Refresh`.
        batch_size: Unlabelled patches per step; ``None``: as many as labelled ones.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        labels: Literal["hard", "soft"],
        threshold: float,
        weight: float,
        ramp_up_fraction: float,
        every_steps: int | None,
        least_share: float,
        batch_size: int | None,
    ) -> None:
        super().__init__()
        self.network = setting.network
        self.labelled_loss = setting.labelled_loss
        self.weight = weight
        self.ramp_up_fraction = ramp_up_fraction
        self.streams = {
            "labelled": setting.labelled_stream,
            "unlabelled": setting.unlabelled_stream(batch_size),
        }
        self.are_soft = labels == "soft"
        made = sure_probabilities if self.are_soft else sure_classes
        self.refresh = Refresh(
            stream="unlabelled",
            every_steps=every_steps,
            labels=partial(made, threshold=threshold),
            are_soft=self.are_soft,
            least_share=least_share,
        )
        self._sure_share: Tensor | None = None

    @property
    def predictor(self) -> Network:
        """The one network, which makes the labels, too."""
        return self.network

    def forward(self, batches: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """One term per loss of labelled patches, and ``pseudo_…`` of unlabelled."""
        labelled, unlabelled = batches["labelled"], batches["unlabelled"]
        terms = self.labelled_loss(self.network, self.network(labelled.image), labelled)
        with running_statistics(self.network):
            output = self.network(unlabelled.image)
        if self.are_soft:
            pseudo = {"cross_entropy": self._soft_loss(output, unlabelled)}
        else:
            pseudo = self.labelled_loss(self.network, output, unlabelled)
        weight = self.weight * rise(clock, self.ramp_up_fraction)
        terms |= {f"pseudo_{name}": weight * term for name, term in pseudo.items()}
        self._sure_share = self._is_sure(unlabelled).float().mean()
        return terms

    def measures(self) -> Mapping[str, Tensor]:
        """Share of the predicted voxels of unlabelled patches that carried a loss."""
        share = self._sure_share
        return {} if share is None else {"pseudo_label_share": share}

    def _soft_loss(self, output: Output, batch: Batch) -> Tensor:
        """Cross entropy with the probabilities, on every scale of deep supervision."""
        soft_labels = batch.made_probabilities()
        scales = [output.logits, *output.coarse_logits]
        predicted = predicted_labels(soft_labels.flatten(0, 1), self.network)
        losses = [
            share
            * soft_cross_entropy(
                z, labels_at(predicted, z).unflatten(0, soft_labels.shape[:2])
            )
            for share, z in zip(halving_shares(len(scales)), scales, strict=True)
        ]
        return torch.stack(losses).sum()

    def _is_sure(self, batch: Batch) -> Tensor:
        if self.are_soft:
            is_sure = batch.made_probabilities().sum(dim=1) >= KNOWN_SHARE
        else:
            is_sure = batch.labels()[0] != IGNORED
        return predicted_labels(is_sure, self.network)


def sure_classes(
    probabilities: Float[Tensor, "class i j k"], *, threshold: float
) -> UInt8[Tensor, "i j k"]:
    """Most probable class of every voxel; ignored where it is not probable enough."""
    highest, classes = probabilities.max(dim=0)
    return classes.where(highest >= threshold, IGNORED).to(torch.uint8)


def sure_probabilities(
    probabilities: Float[Tensor, "class i j k"], *, threshold: float
) -> UInt8[Tensor, "class i j k"]:
    """Probabilities times 255; 0 where none is high enough."""
    is_sure = probabilities.amax(dim=0) >= threshold
    return (probabilities * 255 * is_sure).round().to(torch.uint8)
