"""Cross entropy per voxel, with ignored voxels, partial annotation and weights."""

from collections.abc import Sequence

import torch
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
    *,
    class_weights: Sequence[float] | None = None,
    voxel_weights: Float[Tensor, "patch *space"] | None = None,  # noqa: F821
) -> Float[Tensor, ""]:
    """Mean negative log-probability of the reference over the voxels that carry one.

    Args:
        logits: Class 0 is background.
        label_map: Inside classes; 255 is ignored.
        annotated: See `merge_unannotated`.
        structures: See `merge_unannotated`.
        class_weights: Of every class, not negative. A voxel has that of the class that
            its label shows, whatever is merged into it.
        voxel_weights: Not negative; a voxel's two weights are multiplied.

    Returns:
        Weighted mean, not negative; 0 if every voxel is ignored or weighs 0.
    """
    if class_weights is None and voxel_weights is None:
        merged = merge_unannotated(logits, annotated, structures)
        target = label_map.long()
        total = F.cross_entropy(merged, target, ignore_index=IGNORED, reduction="sum")
        return total / (label_map != IGNORED).sum().clamp(min=1)
    surprise = voxel_cross_entropy(logits, label_map, annotated, structures)
    # Row 255 stays 0: ignored voxels do not count.
    table = torch.zeros(256, dtype=surprise.dtype, device=logits.device)
    if class_weights is None:
        table[: logits.shape[1]] = 1.0
    else:
        table[: logits.shape[1]] = torch.tensor(class_weights, dtype=surprise.dtype)
    weights = table[label_map.int()]
    if voxel_weights is not None:
        weights = weights * voxel_weights
    total_weight = weights.sum()
    # A sum of 0 is one of zeros above and below.
    return (weights * surprise).sum() / total_weight.where(total_weight > 0, 1.0)


def voxel_cross_entropy(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, "patch *space"]:  # noqa: F821
    """Negative log-probability of the reference; 0 in ignored voxels.

    Args:
        logits: See `cross_entropy`, as all arguments.
        label_map: Inside classes.
        annotated: Per patch.
        structures: Classes of each.
    """
    merged = merge_unannotated(logits, annotated, structures)
    return F.cross_entropy(
        merged, label_map.long(), ignore_index=IGNORED, reduction="none"
    )
