"""Binary cross entropy of every structure, for structures that overlap.

For the nested regions of brain tumours in place of cross entropy over exclusive
classes, as Isensee et al. 2020 train (https://arxiv.org/abs/2011.00848).
Differs: no sigmoid per structure; a structure's probability is the sum of the softmax
over its classes, so that regions cannot contradict one another.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.case import IGNORED


def region_cross_entropy(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, ""]:
    """Mean over voxels and the structures that are annotated there.

    Args:
        logits: Class 0 is background.
        label_map: Inside classes; 255 is ignored. A class may stand for others that
            look like it: they are in the same of the annotated structures.
        annotated: Whether each structure was annotated in the patch's case.
        structures: Whether each structure includes each class; none includes class 0.

    Returns:
        Not negative; 0 if every voxel is ignored or nothing is annotated.
    """
    odds = structure_log_odds(logits, structures)
    members = torch.zeros(256, len(structures), dtype=odds.dtype, device=logits.device)
    members[: structures.shape[1]] = structures.T.to(odds.dtype)
    reference = members[label_map.int()].movedim(-1, 1)
    entropy = F.binary_cross_entropy_with_logits(odds, reference, reduction="none")
    known = (label_map != IGNORED).unsqueeze(1)
    counted = annotated.reshape(*annotated.shape, *[1] * (label_map.ndim - 1)) & known
    return (entropy * counted).sum() / counted.sum().clamp(min=1)


def structure_log_odds(
    logits: Float[Tensor, "patch class *space"],
    structures: Bool[Tensor, "structure class"],
) -> Float[Tensor, "patch structure *space"]:
    """Logarithm of p / (1 - p) for each structure, exact for p near 0 and near 1.

    Args:
        logits: Class 0 is background, which keeps 1 - p above 0.
        structures: Whether each structure includes each class; none is empty.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    numbers = range(logits.shape[1])
    of_classes = class_log_odds(logits).unbind(dim=1)
    odds = []
    for row in structures.tolist():
        inside = [number for number in numbers if row[number]]
        if len(inside) == 1:
            odds.append(of_classes[inside[0]])
        else:
            outside = [number for number in numbers if not row[number]]
            ours, others = (logits[:, part].logsumexp(1) for part in (inside, outside))
            odds.append(ours - others)
    return torch.stack(odds, dim=1)


def class_log_odds(
    logits: Float[Tensor, "patch class *space"],
) -> Float[Tensor, "patch class *space"]:
    """Logarithm of p / (1 - p) for each class, in as many steps as a softmax."""
    log_p = logits.log_softmax(dim=1)
    # At most one class; of all others 1 - p can be had by subtraction.
    is_likely = log_p > -math.log(2)
    others = logits.masked_fill(is_likely, -torch.inf).logsumexp(dim=1, keepdim=True)
    # A likely class gets a made-up p here: its slope could be infinite, and count.
    unlikely = log_p.masked_fill(is_likely, -1.0)
    unlikely_odds = unlikely - torch.log1p(-unlikely.exp())
    return torch.where(is_likely, logits - others, unlikely_odds)
