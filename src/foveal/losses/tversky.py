"""Tversky loss (Salehi et al. 2017, https://arxiv.org/abs/1706.05721).

Dice in which voxels predicted too much and voxels missed weigh apart: more weight on
the missed ones finds small lesions that Dice gives up. Differs from the paper: every
structure has an index of its own, whose mean counts.
"""

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.losses.soft_counts import SMOOTHING, mean_loss, soft_counts


def tversky_loss(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
    *,
    false_positives: float,
    false_negatives: float,
) -> Float[Tensor, ""]:
    """One minus the mean soft Tversky index of the structures.

    Args:
        logits: See `soft_counts`, as the other tensors.
        label_map: Inside classes.
        annotated: Per patch.
        structures: Classes of each.
        false_positives: Weight, positive; the paper's alpha.
        false_negatives: Weight, positive; the paper's beta. Both 0.5: Dice; both 1:
            IoU.

    Returns:
        In [0, 1]; 0 if no structure is annotated in any patch.
    """
    counts = soft_counts(logits, label_map, annotated, structures)
    errors = false_positives * (counts.predicted - counts.shared)
    errors = errors + false_negatives * (counts.reference - counts.shared)
    index = (counts.shared + SMOOTHING) / (counts.shared + errors + SMOOTHING)
    return mean_loss(1 - index)
