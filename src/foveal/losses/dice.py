"""Soft Dice loss (Milletari et al. 2016, https://arxiv.org/abs/1606.04797).

Differs from the paper: sums instead of squares in the denominator, as in nnU-Net, and
voxels are pooled over the batch, so that a patch without a structure does not by itself
count as a miss. The mean is over structures: where they overlap, the probability of one
is the sum over its classes.
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.case import IGNORED
from foveal.losses.partial_annotation import merge_unannotated, structure_sums

SMOOTHING = 1e-5
"""Keeps a class that is absent from reference and prediction at 1."""


def dice_loss(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, ""]:
    """One minus the mean soft Dice of the structures.

    Args:
        logits: Class 0 is background.
        label_map: Inside classes; voxels of 255 are in no sum.
        annotated: A structure counts only the patches where it was annotated, and is
            left out where none has it; see `merge_unannotated`.
        structures: Whether each structure includes each class.

    Returns:
        In [0, 1]; 0 if no structure is annotated in any patch.
    """
    is_annotated = annotated.any(dim=0)
    if not bool(is_annotated.any()):
        return logits.sum() * 0.0
    merged = merge_unannotated(logits.float(), annotated, structures)
    probabilities = structure_sums(merged.softmax(dim=1).flatten(2), structures)
    labels = label_map.flatten(1)
    known = (labels != IGNORED).unsqueeze(1)
    # Row 255 stays empty: ignored voxels are in no structure.
    members = torch.zeros(256, len(structures), device=logits.device)
    members[: structures.shape[1]] = structures.T.float()
    reference = members[labels.int()].transpose(1, 2)
    voxels = probabilities * known
    counted = annotated.unsqueeze(2)
    overlap = (voxels * reference * counted).sum(dim=(0, 2))
    total = ((voxels + reference) * counted).sum(dim=(0, 2))
    dice = (2 * overlap + SMOOTHING) / (total + SMOOTHING)
    return 1 - dice[is_annotated].mean()
