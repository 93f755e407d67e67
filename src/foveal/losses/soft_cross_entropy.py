"""Cross entropy with probabilities in place of labels."""

from jaxtyping import Float
from torch import Tensor

KNOWN_SHARE = 0.5
"""Least sum of the probabilities of a voxel that counts: interpolation leaves less than
1 beside voxels of which nothing is known."""


def soft_cross_entropy(
    logits: Float[Tensor, "patch class *space"],
    soft_labels: Float[Tensor, "patch class *space"],
) -> Float[Tensor, ""]:
    """Mean cross entropy over the voxels whose probabilities are known.

    Args:
        logits: Class 0 is background.
        soft_labels: Not negative; brought to a sum of 1 where they are known, and 0
            where nothing is.

    Returns:
        Not negative; 0 if nothing is known of any voxel.
    """
    total = soft_labels.sum(dim=1)
    is_known = total >= KNOWN_SHARE
    target = soft_labels / total.where(is_known, 1.0).unsqueeze(1)
    surprise = -(target * logits.float().log_softmax(dim=1)).sum(dim=1)
    return (surprise * is_known).sum() / is_known.sum().clamp(min=1)
