"""Exponential moving averages (EMA) of a network's weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(
    average: Mapping[str, Tensor], network: nn.Module, *, decay: float, updates: int
) -> None:
    """Move an average towards a network's present weights.

    The first updates fade faster, (1 + n) / (10 + n), so that a short run is not
    dominated by its random start. The statistics of batch norm are averaged as the
    weights are; counters are copied.

    Args:
        average: Changed; a tensor for every one of the network's state.
        network: Whose weights are followed.
        decay: Share of the average that is kept, in [0, 1), in the long run.
        updates: Including this one; 1 or more.
    """
    kept = min(decay, (1 + updates) / (10 + updates))
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - kept)
        else:
            average[name].copy_(tensor)
