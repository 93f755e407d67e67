"""Soft Dice loss (Milletari et al. 2016, https://arxiv.org/abs/1606.04797).

Differs from the paper: sums instead of squares in the denominator, as in nnU-Net, and
what is counted is as `soft_counts` says. The mean is over structures.
"""

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.losses.soft_counts import SMOOTHING, mean_loss, soft_counts


def dice_loss(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, ""]:
    """One minus the mean soft Dice of the structures.

    Args:
        logits: See `soft_counts`, as all arguments.
        label_map: Inside classes.
        annotated: Per patch.
        structures: Classes of each.

    Returns:
        In [0, 1]; 0 if no structure is annotated in any patch.
    """
    counts = soft_counts(logits, label_map, annotated, structures)
    total = counts.predicted + counts.reference
    return mean_loss(1 - (2 * counts.shared + SMOOTHING) / (total + SMOOTHING))
