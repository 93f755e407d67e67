"""RMSProp as DeepMedic has it: epsilon inside the root, Nesterov momentum.

Tieleman and Hinton 2012 (lecture 6.5 of "Neural networks for machine learning"), with
the momentum of Nesterov in the form of Sutskever et al. 2013,
https://proceedings.mlr.press/v28/sutskever13.html. `torch.optim.RMSprop` adds epsilon
to the root, which with DeepMedic's 1e-4 is another step size for small gradients, and
its momentum is the classical one.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


class NesterovRMSprop(Optimizer):
    """For every weight w with gradient g, running mean of squares a and velocity v.

    ::

        a = squares_decay a + (1 - squares_decay) g^2
        s = lr g / sqrt(a + epsilon)
        v = momentum v - s
        w = w + momentum v - s

    Both begin at 0. DeepMedic's "normalized" momentum multiplies s by 1 - momentum,
    which is this with a learning rate that much smaller.

    Args:
        parameters: Or groups of them, each with its ``lr``.
        lr: Learning rate.
        squares_decay: In [0, 1).
        momentum: In [0, 1).
        epsilon: Under the root; positive.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[dict[str, Any]],
        lr: float,
        *,
        squares_decay: float,
        momentum: float,
        epsilon: float,
    ) -> None:
        super().__init__(
            parameters,
            {
                "lr": lr,
                "squares_decay": squares_decay,
                "momentum": momentum,
                "epsilon": epsilon,
            },
        )

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every weight that has a gradient.

        Args:
            closure: Computes the loss and its gradients anew, before the update.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        weights = [each for each in group["params"] if each.grad is not None]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["squares"] = torch.zeros_like(weight)
                self.state[weight]["velocity"] = torch.zeros_like(weight)
        # A GPU is quicker with all of a network's small tensors at once, a CPU with one
        # after another, which stays in its cache.
        at_once = [each for each in weights if each.device.type != "cpu"]
        if at_once:
            self._step_together(at_once, group)
        for weight in weights:
            if weight.device.type == "cpu":
                self._step_together([weight], group)

    def _step_together(
        self, weights: Sequence[Parameter], group: dict[str, Any]
    ) -> None:
        gradients = [each.grad for each in weights if each.grad is not None]
        values: list[Tensor] = list(weights)
        squares = [self.state[weight]["squares"] for weight in weights]
        velocities = [self.state[weight]["velocity"] for weight in weights]
        decay, momentum, rate = group["squares_decay"], group["momentum"], group["lr"]
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - decay)
        roots = torch._foreach_add(squares, group["epsilon"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_addcdiv_(velocities, gradients, roots, -rate)
        torch._foreach_add_(values, velocities, alpha=momentum)
        torch._foreach_addcdiv_(values, gradients, roots, -rate)
