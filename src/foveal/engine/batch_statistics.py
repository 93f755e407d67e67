"""Statistics of batch norm as the plain mean over the last batches.

As in DeepMedic (Kamnitsas et al. 2017, https://doi.org/10.1016/j.media.2016.10.004),
where the last 60 count alike. DeepMedic's ring of 60 begins with means 0 and variances
1, which dilute the statistics of the first 60 steps; here the batches so far count,
and before the first the statistics are those that the network came with.

A network does not know of this: while it trains, its batch norms keep the statistics of
the last batch (momentum 1), which are put into a ring after every step, and what is
validated and saved gets the mean of the ring in their place.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Batch norms that keep statistics, by their names."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None
    }


class RecentStatistics:
    """Means and variances of the last batches of every batch norm of a network.

    A batch counts once per step: of a network that sees several batches in a step, the
    last one. Variances are unbiased ones, as PyTorch keeps them, and always float32.
    With several processes the first one's batches count, as for PyTorch's own
    statistics.

    Args:
        network: Its batch norms keep the last batch's statistics from now on.
        batches: How many count.
        fixed: Modules in evaluation mode, whose statistics stay as they are.
    """

    def __init__(
        self, network: nn.Module, batches: int, fixed: Collection[nn.Module] = ()
    ) -> None:
        self.seen = 0
        """Batches so far."""

        self._size = batches
        self._norms = {
            name: module
            for name, module in batch_norms(network).items()
            if module not in fixed
        }
        self.rings: dict[str, Tensor] = {}
        for name, norm in self._norms.items():
            # Read by PyTorch: kept = (1 - momentum) * kept + momentum * batch.
            norm.momentum = 1.0  # type: ignore[assignment]
            for kind, kept in _statistics(norm).items():
                self.rings[f"{name}.{kind}"] = kept.new_zeros(batches, *kept.shape)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the statistics of the step just made."""
        place = self.seen % self._size
        for name, norm in self._norms.items():
            for kind, kept in _statistics(norm).items():
                self.rings[f"{name}.{kind}"][place] = kept
        self.seen += 1

    def means(self) -> dict[str, Tensor]:
        """Entries of the network's state; none before the first batch."""
        count = min(self.seen, self._size)
        if count == 0:
            return {}
        return {name: ring[:count].mean(dim=0) for name, ring in self.rings.items()}

    def load(self, rings: Mapping[str, Tensor], seen: int) -> None:
        """Continue from saved rings."""
        self.seen = seen
        for name, ring in rings.items():
            self.rings[name].copy_(ring)


def _statistics(norm: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in norm.named_buffers(recurse=False)
        if name in {"running_mean", "running_var"}
    }
