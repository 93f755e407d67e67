"""Soft Dice loss (Milletari et al. 2016, https://arxiv.org/abs/1606.04797).

Differs from the paper: sums instead of squares in the denominator, as in nnU-Net, and
voxels are pooled over the batch, so that a patch without a structure does not by itself
count as a miss. The mean is over structures: where they overlap, the probability of one
is the sum over its classes, and the part that it shares with no other counts as well.
Otherwise only the lesion itself would tell a lesion from the organ around it, and a
small one is learned late.
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
    """One minus the mean soft Dice of the structures, see the module.

    Args:
        logits: Class 0 is background.
        label_map: Inside classes; voxels of 255 are in no sum.
        annotated: A structure counts only the patches where it was annotated, and is
            left out where none has it; see `merge_unannotated`.
        structures: Whether each structure includes each class.

    Returns:
        In [0, 1]; 0 if no structure is annotated in any patch.
    """
    merged = merge_unannotated(logits.float(), annotated, structures)
    structures, annotated = with_own_parts(structures, annotated)
    is_annotated = annotated.any(dim=0)
    if not bool(is_annotated.any()):
        return logits.sum() * 0.0
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
