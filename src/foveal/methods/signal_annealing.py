"""Training-signal annealing: what is learned already is not learned further for now.

Xie et al. 2020, https://arxiv.org/abs/1904.12848: with few labels a
network fits them long before the unlabelled cases have taught it anything. A labelled
voxel counts only while its right class is less probable than a limit that rises from
1 / classes to 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from jaxtyping import Float, UInt8
from torch import Tensor

from foveal.case import IGNORED
from foveal.losses.partial_annotation import merge_unannotated
from foveal.methods.interface import Clock
from foveal.methods.labelled_loss import predicted_labels
from foveal.networks.interface import Network
from foveal.sampling.batch import Batch

STEEPNESS = 5.0
"""Of the curved schedules; the paper's."""

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "log": lambda progress: 1 - math.exp(-STEEPNESS * progress),
    "exp": lambda progress: math.exp(STEEPNESS * (progress - 1)),
}
"""Share of the way from 1 / classes to 1, of the share of the run."""


def largest_probability(schedule: str, clock: Clock, num_classes: int) -> float:
    """Probability of the right class above which a labelled voxel does not count."""
    share = SCHEDULES[schedule](clock.step / clock.total_steps)
    lowest = 1 / num_classes
    return lowest + share * (1 - lowest)


def without_learned_voxels(
    batch: Batch,
    logits: Float[Tensor, "patch class *space"],
    network: Network,
    largest: float,
) -> Batch:
    """The batch, with voxels ignored whose right class is more probable than a limit.

    Being ignored is what every loss understands. Cross entropy is the mean over the
    voxels that remain, as in the paper. Dice, which the paper has not, is that of the
    voxels that remain; of a structure of which none does, it is 0.

    Args:
        batch: Labelled.
        logits: Of the voxels that the network predicts.
        network: Whose geometry says which these are.
        largest: The limit, in [0, 1].
    """
    label_map, annotated, structures = batch.labels()
    window = (slice(None), *network.output_window(label_map.shape[1:]))
    labels = label_map[window]
    merged = merge_unannotated(logits.detach(), annotated, structures)
    remaining = label_map.clone()
    remaining[window] = labels.masked_fill(
        probability_of(labels, merged.softmax(dim=1)) > largest, IGNORED
    )
    return replace(batch, label_map=remaining)


def probability_of(
    labels: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    probabilities: Float[Tensor, "patch class *space"],
) -> Float[Tensor, "patch *space"]:  # noqa: F821
    """Probability of every voxel's label; of ignored voxels any number."""
    known = labels.masked_fill(labels == IGNORED, 0).long()
    return probabilities.gather(1, known[:, None])[:, 0]


def ignored_fraction(remaining: Batch, labelled: Batch, network: Network) -> Tensor:
    """Of the labelled voxels that a network predicts, the fraction ignored now.

    0 if there are none.
    """
    before, now = (
        predicted_labels(batch.labels()[0], network) for batch in (labelled, remaining)
    )
    known, left = (before != IGNORED).sum(), (now != IGNORED).sum()
    return (known - left) / known.clamp(min=1)
