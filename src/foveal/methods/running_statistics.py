"""Batches that batch norms neither learn from nor are normalised by."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch norms use the statistics that they have, and keep them, meanwhile.

    Unlabelled patches and those of another domain are drawn otherwise than labelled
    ones: statistics of both would suit neither, and prediction uses those of the
    labelled. Gradients flow as ever; dropout stays on in training.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.training
    ]
    try:
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm in norms:
            norm.train()
