"""Weights to begin with, in place of those that a network's authors chose."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from foveal.networks.blocks import ResidualBlock

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
"""Layers that multiply what they take in by learned weights and sum it up."""

NORMAL_DEVIATION = 0.01


@torch.no_grad()
def initialise(network: nn.Module, rule: Literal["he", "glorot", "normal"]) -> None:
    """Draw the weights of all convolutions and linear layers anew; biases become 0.

    Norms and slopes stay as they are, and so do weights that are not learned.

    Args:
        network: Changed.
        rule: ``he``: normal with variance 2 / n, n being the numbers that one output
            sums up (He et al. 2015, https://arxiv.org/abs/1502.01852); ``glorot``:
            uniform with variance 2 / (n + m), m being the same for the gradient of one
            input, strides aside (Glorot and Bengio 2010); ``normal``: deviation 0.01.
    """
    for layer in network.modules():
        if not isinstance(layer, WEIGHTED) or not layer.weight.requires_grad:
            continue
        fan_in, fan_out = _fans(layer)
        if rule == "he":
            layer.weight.normal_(0.0, math.sqrt(2 / fan_in))
        elif rule == "glorot":
            # The variance of a uniform distribution in [-b, b] is b^2 / 3.
            bound = math.sqrt(6 / (fan_in + fan_out))
            layer.weight.uniform_(-bound, bound)
        else:
            layer.weight.normal_(0.0, NORMAL_DEVIATION)
        if layer.bias is not None:
            layer.bias.zero_()


@torch.no_grad()
def zero_last_scales(network: nn.Module) -> int:
    """Let every residual block begin as the identity (Goyal et al. 2017).

    Returns:
        How many blocks do; see `ResidualBlock`. One without norms cannot.
    """
    scales = [
        getattr(block.last_norm, "weight", None)
        for block in network.modules()
        if isinstance(block, ResidualBlock)
    ]
    learned = [scale for scale in scales if isinstance(scale, Tensor)]
    for scale in learned:
        scale.zero_()
    return len(learned)


def _fans(layer: nn.Module) -> tuple[float, float]:
    """Numbers that one output sums up, and that the gradient of one input does."""
    if isinstance(layer, nn.Linear):
        return float(layer.in_features), float(layer.out_features)
    assert isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED))  # noqa: S101 - for mypy
    kernel = math.prod(layer.kernel_size)
    inputs = layer.in_channels / layer.groups * kernel
    if isinstance(layer, TRANSPOSED):
        # Of the kernel's entries, only one per stride meets an input.
        inputs /= math.prod(layer.stride)
    return inputs, layer.out_channels / layer.groups * kernel
