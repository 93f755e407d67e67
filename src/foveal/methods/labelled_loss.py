"""What the outlines of a batch cost: the part that all methods of outlines share."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from foveal.networks.interface import Network, Output
from foveal.sampling.batch import Batch

Loss = Callable[..., Tensor]
"""Of (logits, label map, annotated, structures); some take ``voxel_weights`` too."""


class LabelledLoss:
    """A weighted sum of losses, deep supervision included.

    Args:
        losses: Name to loss of (logits, label map, annotated, structures) and its
            weight.
        voxel_weighted: Names of the losses in which voxels count by the users' weight
            maps.
    """

    def __init__(
        self,
        losses: Mapping[str, tuple[Loss, float]],
        voxel_weighted: Collection[str] = (),
    ) -> None:
        self.losses = dict(losses)
        self.voxel_weighted = frozenset(voxel_weighted)

    def __call__(
        self, network: Network, output: Output, batch: Batch
    ) -> dict[str, Tensor]:
        """One term per loss.

        Args:
            network: Whose geometry says which voxels were predicted.
            output: Of the network for the batch.
            batch: Labelled.
        """
        scales = [output.logits, *output.coarse_logits]
        shares = halving_shares(len(scales))
        return {
            name: torch.stack(
                [
                    weight * share * self._loss_at(name, loss, z, network, batch)
                    for share, z in zip(shares, scales, strict=True)
                ]
            ).sum()
            for name, (loss, weight) in self.losses.items()
        }

    def _loss_at(
        self, name: str, loss: Loss, logits: Tensor, network: Network, batch: Batch
    ) -> Tensor:
        """A loss on the grid of ``logits``, which may be coarser than the patch."""
        label_map, annotated, structures = batch.labels()
        labels = labels_at(predicted_labels(label_map, network), logits)
        if name not in self.voxel_weighted:
            return loss(logits, labels, annotated, structures)
        weights = labels_at(predicted_labels(batch.weights(), network), logits)
        return loss(logits, labels, annotated, structures, voxel_weights=weights)


def predicted_labels(label_map: Tensor, network: Network) -> Tensor:
    """Labels of the voxels that a network predicts, of those of its whole input.

    Or other numbers per voxel, such as weights.
    """
    return label_map[(slice(None), *network.output_window(label_map.shape[1:]))]


def halving_shares(count: int) -> Sequence[float]:
    """Weights 1, 1/2, 1/4, … brought to a sum of 1: finer scales count more."""
    weights = [0.5**n for n in range(count)]
    return [weight / sum(weights) for weight in weights]


def labels_at(label_map: Tensor, logits: Tensor) -> Tensor:
    """Label map on the coarser grid of ``logits``: the voxel nearest each centre.

    Or other numbers per voxel, such as weights.
    """
    for axis, length in enumerate(logits.shape[2:], start=1):
        stride = label_map.shape[axis] // length
        if stride > 1:
            label_map = label_map[
                (slice(None),) * axis + (slice(stride // 2, None, stride),)
            ]
    return label_map
