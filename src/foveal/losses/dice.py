"""Soft Dice loss (Milletari et al. 2016, https://arxiv.org/abs/1606.04797).

Differs from the paper: sums instead of squares in the denominator, as in nnU-Net, and
voxels are pooled over the batch, so that a patch without a structure does not by itself
count as a miss.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.case import IGNORED
from foveal.losses.partial_annotation import merge_unannotated

SMOOTHING = 1e-5
"""Keeps a class that is absent from reference and prediction at 1."""


def dice_loss(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch class"],
) -> Float[Tensor, ""]:
    """One minus the mean soft Dice of the structures, background left out.

    Args:
        logits: Class 0 is background.
        label_map: Inside labels; voxels of 255 are in no sum.
        annotated: A class counts only the patches where it was annotated, and is left
            out where none has it; see `merge_unannotated`.

    Returns:
        In [0, 1]; 0 if no structure is annotated in any patch.
    """
    num_classes = logits.shape[1]
    probabilities = merge_unannotated(logits.float(), annotated).softmax(dim=1)[:, 1:]
    known = (label_map != IGNORED).flatten(1)
    # One class more than there are takes the ignored voxels and is cut off.
    target = torch.where(label_map == IGNORED, num_classes, label_map).long()
    reference = F.one_hot(target.flatten(1), num_classes + 1)[:, :, 1:num_classes]
    voxels = probabilities.flatten(2).transpose(1, 2) * known.unsqueeze(2)
    counted = annotated[:, 1:].unsqueeze(1)
    overlap = (voxels * reference * counted).sum(dim=(0, 1))
    total = ((voxels + reference) * counted).sum(dim=(0, 1))
    dice = (2 * overlap + SMOOTHING) / (total + SMOOTHING)
    is_annotated = annotated[:, 1:].any(dim=0)
    if not bool(is_annotated.any()):
        return logits.sum() * 0.0
    return 1 - dice[is_annotated].mean()
