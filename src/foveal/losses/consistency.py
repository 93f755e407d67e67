"""How far what a network says of one view is from what was said of another.

The target is said of the first view, and carried to the voxels of the second.
Sharpening and the confidence mask are those of UDA (Xie et al. 2020,
https://arxiv.org/abs/1904.12848), the squared difference is that of mean teacher
(Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780).
"""

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor


def sharpened(
    probabilities: Float[Tensor, "patch class *space"], temperature: float
) -> Float[Tensor, "patch class *space"]:
    """Probabilities of logits that are divided by a temperature.

    Args:
        probabilities: Summing to 1 over the classes.
        temperature: Positive. Below 1 the largest probability grows, above 1 it falls.
    """
    # Relative to the largest, so that no power is 0 throughout.
    relative = probabilities / probabilities.amax(dim=1, keepdim=True)
    powers = relative ** (1 / temperature)
    return powers / powers.sum(dim=1, keepdim=True)


def is_confident(
    target: Float[Tensor, "patch class *space"], threshold: float
) -> Bool[Tensor, "patch *space"]:  # noqa: F821 - a shape, not names
    """Whether the most probable class is at least as probable as a threshold."""
    return target.amax(dim=1) >= threshold


def divergence(
    logits: Float[Tensor, "patch class *space"],
    target: Float32[Tensor, "patch class *space"],
) -> Float32[Tensor, "patch *space"]:  # noqa: F821
    """Kullback-Leibler divergence of each voxel's prediction from its target.

    Args:
        logits: Of the second view.
        target: Probabilities; zeros are allowed.

    Returns:
        KL(target || softmax(logits)), not negative.
    """
    surprise = -(target * logits.float().log_softmax(dim=1)).sum(dim=1)
    return surprise + torch.xlogy(target, target).sum(dim=1)


def squared_difference(
    logits: Float[Tensor, "patch class *space"],
    target: Float32[Tensor, "patch class *space"],
) -> Float32[Tensor, "patch *space"]:  # noqa: F821
    """Squared difference of each voxel's probabilities, summed over classes, in [0, 2].

    Args:
        logits: Of the second view.
        target: Probabilities.
    """
    return ((logits.float().softmax(dim=1) - target) ** 2).sum(dim=1)


def mean_over(
    values: Float32[Tensor, "patch *space"],  # noqa: F821
    inside: Bool[Tensor, "patch *space"],  # noqa: F821
    confident: Bool[Tensor, "patch *space"],  # noqa: F821
) -> Float32[Tensor, ""]:
    """Mean over the voxels inside, where those that are not confident count as 0.

    As in UDA, whose sum over confident examples is divided by the number of all: while
    few voxels are confident, the loss is small.

    Args:
        values: Finite everywhere.
        inside: Voxels whose target is known.
        confident: Voxels whose target is sure enough.

    Returns:
        0, with a gradient of 0, if no voxel is inside.
    """
    return (values * (inside & confident)).sum() / inside.sum().clamp(min=1)
