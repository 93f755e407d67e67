"""Cross entropy per voxel, with ignored voxels and partial annotation."""

import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.case import IGNORED
from foveal.losses.partial_annotation import merge_unannotated


def cross_entropy(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, ""]:
    """Mean negative log-probability of the reference over the voxels that carry one.

    Args:
        logits: Class 0 is background.
        label_map: Inside classes; 255 is ignored.
        annotated: See `merge_unannotated`.
        structures: See `merge_unannotated`.

    Returns:
        Not negative; 0 if every voxel is ignored.
    """
    merged = merge_unannotated(logits.float(), annotated, structures)
    target = label_map.long()
    total = F.cross_entropy(merged, target, ignore_index=IGNORED, reduction="sum")
    return total / (label_map != IGNORED).sum().clamp(min=1)
