"""Moving average of the weights (EMA), which is validated and used to predict."""

from torch import Tensor, nn

from foveal.networks.averaging import follow


class WeightAverage:
    """Follows a network's weights with exponentially fading memory, see `follow`."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {
            name: tensor.detach().clone()
            for name, tensor in network.state_dict().items()
        }

    def update(self, network: nn.Module) -> None:
        """Move towards the network's present weights."""
        self.updates += 1
        follow(self.weights, network, decay=self.decay, updates=self.updates)

    def load(self, weights: dict[str, Tensor], updates: int) -> None:
        """Continue from saved weights."""
        self.updates = updates
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)
