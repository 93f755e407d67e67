"""What a voxel says where some structures were not annotated.

In a case whose reference leaves out a structure, background means "background or that
structure". The classes left out are merged into background by adding their
probabilities, which is the log-sum-exp of their logits.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def merge_unannotated(
    logits: Float[Tensor, "patch class *space"],
    annotated: Bool[Tensor, "patch class"],
) -> Float[Tensor, "patch class *space"]:
    """Logits whose background stands for every class that was not annotated.

    Args:
        logits: Class 0 is background.
        annotated: Whether each class was annotated in the patch's case; true for
            class 0.

    Returns:
        Logits with the same softmax for annotated classes; a class that was not
        annotated has ``-inf``, hence probability 0.
    """
    if bool(annotated.all()):
        return logits
    spread = annotated.reshape(*annotated.shape, *[1] * (logits.ndim - 2))
    is_background = ~spread
    is_background[:, 0] = True
    background = logits.masked_fill(~is_background, -torch.inf).logsumexp(
        dim=1, keepdim=True
    )
    others = logits.masked_fill(~spread, -torch.inf)[:, 1:]
    return torch.cat([background, others], dim=1)
