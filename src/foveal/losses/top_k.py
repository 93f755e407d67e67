"""Top-K cross entropy: the mean over the voxels that are predicted worst.

Wu et al. 2016, https://arxiv.org/abs/1605.06885. Differs: no threshold of confidence,
but a share of the known voxels of the whole batch, as in nnU-Net.
"""

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from foveal.case import IGNORED
from foveal.losses.cross_entropy import voxel_cross_entropy


def top_k_loss(
    logits: Float[Tensor, "patch class *space"],
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
    *,
    percent: float,
) -> Float[Tensor, ""]:
    """Mean of the largest values of cross entropy.

    Args:
        logits: See `cross_entropy`, as the other tensors.
        label_map: Inside classes; ignored voxels are no candidates.
        annotated: Per patch.
        structures: Classes of each.
        percent: Of the known voxels of the batch, in (0, 100], rounded down but one at
            least; 100 is plain cross entropy.

    Returns:
        Not negative; 0 if every voxel is ignored.
    """
    surprise = voxel_cross_entropy(logits, label_map, annotated, structures)
    num_known = int((label_map != IGNORED).sum())
    count = max(1, int(num_known * percent / 100))
    # Ignored voxels are 0, so they come last and add nothing where all the known are 0.
    return surprise.flatten().topk(count, sorted=False).values.mean()
