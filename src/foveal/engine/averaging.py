"""Moving average of the weights (EMA), which is validated and used to predict."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """Follows a network's weights with exponentially fading memory.

    The first updates fade faster, (1 + n) / (10 + n), so that a short run is not
    dominated by its random start. The statistics of batch norm are averaged as the
    weights are; counters are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {
            name: tensor.detach().clone()
            for name, tensor in network.state_dict().items()
        }

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - decay)
            else:
                self.weights[name].copy_(tensor)

    def load(self, weights: dict[str, Tensor], updates: int) -> None:
        """Continue from saved weights."""
        self.updates = updates
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)
