"""Dropout left on while predicting: every pass is another draw of the network.

Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142. Differs: a volume is
predicted in tiles, and every tile draws its own masks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from foveal.errors import RunError
from foveal.inference.predict import TileDraws
from foveal.sampling.randomness import generator


@contextmanager
def dropout_on(network: nn.Module) -> Iterator[None]:
    """Let dropout act for a while, and nothing else that differs in training."""
    layers = dropout_layers(network)
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


def require_dropout(network: nn.Module) -> None:
    """Refuse a network whose passes with dropout would all be alike.

    Raises:
        RunError: It has no dropout that would do anything.
    """
    if not dropout_layers(network):
        raise RunError(
            "the network has no dropout, so passes with dropout would all be alike; "
            "train one with dropout (its option in the plan's [network]), or give "
            "several models"
        )


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    """Layers that drop something while training."""
    return [
        module
        for module in network.modules()
        if isinstance(module, _DropoutNd) and module.p > 0
    ]


def tile_draws(seed: int, device: torch.device, *names: str) -> TileDraws:
    """Let the draws of every tile depend on these and on its place only.

    Args:
        seed: Of the pass.
        device: Where the network is computed.
        names: Of whatever else shall draw other masks: model, mirroring.
    """

    @contextmanager
    def drawing(number: int) -> Iterator[None]:
        draws = generator(seed, number, 0, "dropout", *names)
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices, device_type=device.type):
            torch.manual_seed(draws.initial_seed())
            yield

    return drawing
