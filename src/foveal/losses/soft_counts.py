"""Voxels of the prediction, of the reference and of both, counted by probability.

What the losses that compare regions are made of: Dice, generalised Dice, IoU, Tversky.
Voxels are pooled over the batch, so that a patch without a structure does not by itself
count as a miss.

Where structures overlap, the probability of one is the sum over its classes, and the
part of each that it shares with no other is counted too. Otherwise only the lesion
itself would tell a lesion from the organ around it, and a small one is learned late.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.case import IGNORED
from foveal.losses.partial_annotation import merge_unannotated, structure_sums

SMOOTHING = 1e-5
"""Voxels added above and below a fraction, as in EMMA: a structure that is absent from
reference and prediction agrees, and nothing is divided by 0."""


class SoftCounts(NamedTuple):
    """Voxels per structure, then per own part of one that overlaps."""

    shared: Float[Tensor, " part"]
    """In the reference, times the probability: soft true positives."""

    predicted: Float[Tensor, " part"]
    """Sum of the probabilities."""

    reference: Float[Tensor, " part"]
    """In the reference."""


def soft_counts(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> SoftCounts:
    """Counts of every structure that is annotated in some patch.

    Args:
        logits: Class 0 is background.
        label_map: Inside classes; voxels of 255 are not counted.
        annotated: A structure is counted in the patches where it was annotated, and is
            left out where none has it; see `merge_unannotated`.
        structures: Whether each structure includes each class.

    Returns:
        Empty if no structure is annotated in any patch.
    """
    merged = merge_unannotated(logits, annotated, structures)
    parts, known_in = with_own_parts(structures, annotated)
    return part_counts(merged, label_map, known_in, parts)


def part_counts(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    known_in: Bool[Tensor, "patch part"],
    parts: Bool[Tensor, "part class"],
) -> SoftCounts:
    """Counts of unions of classes.

    Args:
        logits: Of classes that are told apart in each patch, see `merge_unannotated`.
        label_map: Inside classes; voxels of 255 are not counted.
        known_in: In which patches each part is counted; without one it is left out.
        parts: Whether each part includes each class.
    """
    probabilities = structure_sums(logits.softmax(dim=1).flatten(2), parts)
    labels = label_map.flatten(1)
    known = (labels != IGNORED).unsqueeze(1)
    # Row 255 stays empty: ignored voxels are in no part.
    members = torch.zeros(256, len(parts), device=logits.device)
    members[: parts.shape[1]] = parts.T.float()
    reference = members[labels.int()].transpose(1, 2)
    is_counted = known_in.any(dim=0)

    def over_patches(voxels: Tensor) -> Tensor:
        # A product of matrices would be in half precision under autocast.
        return (voxels.sum(dim=2) * known_in).sum(dim=0)[is_counted]

    return SoftCounts(
        over_patches(probabilities * reference),
        over_patches(probabilities * known),
        over_patches(reference),
    )


def mean_loss(of_parts: Float[Tensor, " part"]) -> Float[Tensor, ""]:
    """Mean over the parts; 0 if there is none."""
    return of_parts.sum() / max(len(of_parts), 1)


def with_own_parts(
    structures: Bool[Tensor, "structure class"],
    annotated: Bool[Tensor, "patch structure"],
) -> tuple[Bool[Tensor, "part class"], Bool[Tensor, "patch part"]]:
    """The structures, then of those that overlap the part that no other shares.

    Args:
        structures: Whether each structure includes each class.
        annotated: Whether each structure was annotated in the patch's case.

    Returns:
        The same as the arguments where no structures overlap.
    """
    own = structures & (structures.sum(dim=0) == 1)
    is_part = own.any(dim=1) & (own != structures).any(dim=1)
    return (
        torch.cat([structures, own[is_part]]),
        torch.cat([annotated, annotated[:, is_part]], dim=1),
    )
