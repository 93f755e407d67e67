"""Regularisation that belongs to the loss: L1 and L2 norms of some weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import Parameter


@dataclass(frozen=True)
class WeightPenalty:
    """The term ``l1 sum |w| + l2 sum w^2`` of a loss, by its gradient.

    The gradient, ``l1 sign(w) + 2 l2 w`` (0 for w = 0), is added to that of the other
    terms, as if the penalty had been among them; the value is never computed. So ``l2``
    is half of what is called weight decay elsewhere.
    """

    weights: Sequence[Parameter]
    l1: float
    l2: float

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add to the gradients of the weights that have one."""
        for weight in self.weights:
            if weight.grad is None:
                continue
            if self.l1 > 0:
                weight.grad.add_(weight.sign(), alpha=self.l1)
            if self.l2 > 0:
                weight.grad.add_(weight, alpha=2 * self.l2)
