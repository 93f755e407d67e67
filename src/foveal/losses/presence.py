"""Which structures an image shows: logits and their cross entropy."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def presence_logits(
    image_logits: Float[Tensor, "patch class"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, "patch structure"]:
    """Logit of every structure's presence: its classes against background.

    Args:
        image_logits: Of the classes, background first.
        structures: Whether each structure includes each class.
    """
    lowest = torch.finfo(torch.float32).min
    of_structures = image_logits.float()[:, None].masked_fill(~structures, lowest)
    return of_structures.logsumexp(dim=2) - image_logits.float()[:, :1]


def presence_cross_entropy(
    image_logits: Float[Tensor, "patch class"],
    present: Bool[Tensor, "patch structure"],
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, ""]:
    """Mean binary cross entropy over patches and the structures known in them.

    Args:
        image_logits: Of the classes, background first.
        present: Whether each patch shows each structure.
        annotated: Whether that is known; where nothing is, the loss is 0.
        structures: Whether each structure includes each class.
    """
    entropy = F.binary_cross_entropy_with_logits(
        presence_logits(image_logits, structures), present.float(), reduction="none"
    )
    known = annotated.float()
    return (entropy * known).sum() / known.sum().clamp(min=1)
