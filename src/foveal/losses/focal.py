"""Focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002).

Differs from the paper: softmax over classes instead of one object against the rest, no
alpha, the weight of a class, and the mean over all voxels that are not ignored, where
the paper divides by the number of anchors that objects were assigned to.
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.case import IGNORED
from foveal.losses.cross_entropy import voxel_cross_entropy


def focal_loss(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
    *,
    gamma: float,
) -> Float[Tensor, ""]:
    """Mean of `-(1 - p)^gamma log p`, p the probability of the reference.

    Args:
        logits: See `cross_entropy`, as the other tensors.
        label_map: Inside classes; 255 is ignored.
        annotated: Per patch.
        structures: Classes of each.
        gamma: How little voxels count that are right already; 0 is cross entropy.

    Returns:
        Not negative; 0 if every voxel is ignored.
    """
    surprise = voxel_cross_entropy(logits, label_map, annotated, structures)
    # At exactly 0, gamma below 1 would have an infinite slope.
    error = (-torch.expm1(-surprise)).clamp(min=torch.finfo(surprise.dtype).tiny)
    known = (label_map != IGNORED).sum().clamp(min=1)
    return (error**gamma * surprise).sum() / known
