"""Binary cross entropy of every structure, for structures that overlap.

For the nested regions of brain tumours in place of cross entropy over exclusive
classes, as Isensee et al. 2020 train (https://arxiv.org/abs/2011.00848).
Differs: no sigmoid per structure; a structure's probability is the sum of the softmax
over its classes, so that regions cannot contradict one another.
"""

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
    return torch.stack(
        [
            logits[:, classes].logsumexp(dim=1) - logits[:, ~classes].logsumexp(dim=1)
            for classes in structures
        ],
        dim=1,
    )
