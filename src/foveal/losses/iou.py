"""IoU loss: one minus the soft Jaccard index.

Rahman and Wang 2016, https://doi.org/10.1007/978-3-319-50835-1_22; with the smoothing
of EMMA's first network (Kamnitsas et al. 2018, https://arxiv.org/abs/1711.01468), from
which it differs in that background has no term of its own.
"""

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.losses.soft_counts import SMOOTHING, mean_loss, soft_counts


def iou_loss(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, ""]:
    """One minus the mean soft intersection over union of the structures.

    Args:
        logits: See `soft_counts`, as all arguments.
        label_map: Inside classes.
        annotated: Per patch.
        structures: Classes of each.

    Returns:
        In [0, 1]; 0 if no structure is annotated in any patch.
    """
    counts = soft_counts(logits, label_map, annotated, structures)
    union = counts.predicted + counts.reference - counts.shared
    return mean_loss(1 - (counts.shared + SMOOTHING) / (union + SMOOTHING))
