"""Generalised Dice loss (Sudre et al. 2017, https://arxiv.org/abs/1707.03237).

One Dice of all structures and of background together, each weighted by the inverse of
its squared volume, so that a small structure counts as much as a large one. What the
paper leaves open: a structure that the reference lacks has the weight of the smallest
that it has. Volumes are those of the batch, see `soft_counts`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.losses.partial_annotation import merge_unannotated
from foveal.losses.soft_counts import (
    SMOOTHING,
    part_counts,
    with_own_parts,
)


def generalised_dice_loss(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, ""]:
    """One minus the generalised soft Dice.

    Args:
        logits: See `soft_counts`, as all arguments.
        label_map: Inside classes.
        annotated: Per patch; what is not annotated counts as what it looks like, mostly
            background.
        structures: Classes of each.

    Returns:
        In [0, 1]; 0 if every voxel is ignored.
    """
    merged = merge_unannotated(logits, annotated, structures)
    parts, known_in = with_own_parts(structures, annotated)
    background = torch.zeros_like(parts[:1])
    background[:, 0] = True
    counts = part_counts(
        merged,
        label_map,
        # Background, or what looks like it, is seen in every case.
        F.pad(known_in, (1, 0), value=True),
        torch.cat([background, parts]),
    )
    weights = squared_inverses(counts.reference)
    total = counts.predicted + counts.reference
    shared = (weights * counts.shared).sum()
    return 1 - (2 * shared + SMOOTHING) / ((weights * total).sum() + SMOOTHING)


def squared_inverses(volumes: Float[Tensor, " part"]) -> Float[Tensor, " part"]:
    """Inverse squares, in units of the largest, which an empty volume has too."""
    is_present = volumes > 0
    smallest = volumes.where(is_present, torch.inf).min()
    return (smallest / volumes).square().where(is_present, 1.0)
