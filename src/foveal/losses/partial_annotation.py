"""What a voxel says where some structures were not annotated.

Without a structure that a case's reference leaves out, several classes look alike: a
lesion in an organ looks like the organ, a structure of its own like background. Classes
that look alike are merged by adding their probabilities, which is the log-sum-exp of
their logits.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.case import seen_classes


def merge_unannotated(
    logits: Float[Tensor, "patch class *space"],
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, "patch class *space"]:
    """Logits in which a class stands for all that look like it in the patch's case.

    Args:
        logits: Class 0 is background.
        annotated: Whether each structure was annotated in the patch's case.
        structures: Whether each structure includes each class; none includes class 0.

    Returns:
        Logits with the same softmax for classes that nothing was merged with; a class
        that was merged into another has ``-inf``, hence probability 0. Half precision,
        in which losses cannot be summed, becomes single.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    if bool(annotated.all()):
        return logits
    table = structures.cpu().numpy()
    seen_as = torch.tensor(
        [seen_classes(flags, table) for flags in annotated.cpu().numpy()],
        device=logits.device,
    )
    own = torch.arange(logits.shape[1], device=logits.device)
    is_gone = (seen_as != own).reshape(*seen_as.shape, *[1] * (logits.ndim - 2))
    merged = logits.masked_fill(is_gone, -torch.inf)
    for patch, shown in enumerate(seen_as):
        for number, count in enumerate(torch.bincount(shown).tolist()):
            if count > 1:
                together = logits[patch, shown == number]
                merged[patch, number] = together.logsumexp(dim=0)
    return merged


def structure_sums(
    values: Float[Tensor, "patch class voxel"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, "patch structure voxel"]:
    """Sum over the classes that each structure includes."""
    if bool((structures.sum(dim=1) == 1).all()):
        return values[:, structures.int().argmax(dim=1)]
    # Autocast would make the product, and with it the sum, one in half precision.
    with torch.autocast(values.device.type, enabled=False):
        return torch.einsum("sc,pcv->psv", structures.to(values.dtype), values)
