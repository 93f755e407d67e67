"""A method in training: one update at a time, and everything needed to continue it."""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from foveal.engine.averaging import WeightAverage
from foveal.engine.batch_statistics import RecentStatistics
from foveal.engine.checkpoints import optimiser_tensors, restore_optimiser
from foveal.engine.penalties import WeightPenalty
from foveal.engine.plateau import Plateau, PlateauRule
from foveal.engine.thin_convolutions import compute_thin_convolutions_in_float32
from foveal.errors import TrainingError
from foveal.inference.numerics import Numerics, apply_layout, autocast, with_layout
from foveal.methods.interface import Clock, Method
from foveal.networks.interface import Network
from foveal.sampling.batch import Batch


@dataclass(frozen=True)
class UpdateRules:
    """How gradients become updates."""

    learning_rate_factor: Callable[[int, int], float]
    """Of (step, total steps)."""

    gradient_clip_norm: float
    """Largest norm of the gradient of everything that one optimiser updates."""

    ema_decay: float
    """0: no moving average."""

    plateau: PlateauRule | None = None
    """Drops of the learning rate, times ``learning_rate_factor``; ``None``: none."""

    penalty: WeightPenalty | None = None
    """Added to the loss; its gradient is clipped with the rest."""

    frozen: Sequence[nn.Module] = ()
    """Modules that stay in evaluation mode; their weights are no optimiser's."""

    kept_steps: Callable[[int], Sequence[int]] = lambda _: ()
    """Of total steps: numbers of updates after which the predictor is worth keeping,
    whatever validation says."""

    batch_norm_batches: int = 0
    """Of which the predictor's batch norms keep the mean; 0: as PyTorch does, a mean
    that fades exponentially."""


class NonFiniteLossError(TrainingError):
    """The loss of a step is NaN or infinite."""


class Training:
    """A method, its optimisers, the average of its weights and the step reached.

    Args:
        method: On any device; moved to that of ``fabric``.
        optimisers: One per parameter group of the method, by the same name.
        fabric: Launched.
        numerics: Precision and layout of the forward pass.
        rules: How gradients become updates.
        seed: Of every draw of the method, such as dropout.
    """

    def __init__(
        self,
        method: Method,
        optimisers: Mapping[str, Optimizer],
        fabric: Fabric,
        *,
        numerics: Numerics,
        rules: UpdateRules,
        seed: int,
    ) -> None:
        self.method = method
        self.fabric = fabric
        self.numerics = numerics
        self.rules = rules
        self.seed = seed
        self.step = 0
        self.batch_halvings = 0
        self.best_score: float | None = None
        self._base_rates = {
            name: [group["lr"] for group in optimiser.param_groups]
            for name, optimiser in optimisers.items()
            if name not in method.constant_rates
        }
        self._optimisers = dict(optimisers)
        apply_layout(method, numerics.memory_layout)
        if numerics.precision == "bfloat16" and fabric.device.type == "cpu":
            compute_thin_convolutions_in_float32(method)
        self._wrapped = fabric.setup_module(method)
        self._scaler = torch.amp.GradScaler(
            fabric.device.type, enabled=numerics.precision == "float16"
        )
        self._plateau = Plateau(rules.plateau) if rules.plateau else None
        self._statistics = (
            RecentStatistics(
                method.predictor,
                rules.batch_norm_batches,
                [module for layer in rules.frozen for module in layer.modules()],
            )
            if rules.batch_norm_batches
            else None
        )
        self._average = (
            WeightAverage(method.predictor, rules.ema_decay)
            if rules.ema_decay > 0
            else None
        )

    def update(
        self, batches: Mapping[str, Batch], total_steps: int
    ) -> tuple[dict[str, float], float]:
        """Make one update of the weights.

        Returns:
            The loss terms and the learning rate factor.

        Raises:
            NonFiniteLossError: The sum of the terms is not finite; nothing was changed.
        """
        clock = Clock(self.step, total_steps, self.seed, self.fabric.global_rank)
        torch.manual_seed(_step_seed(clock))
        factor = self.rules.learning_rate_factor(self.step, total_steps)
        if self._plateau is not None:
            factor *= self._plateau.factor
        laid_out = {
            name: batch.with_image(
                with_layout(batch.image, self.numerics.memory_layout)
            )
            for name, batch in batches.items()
        }
        self._wrapped.train()
        for layer in self.rules.frozen:
            layer.eval()
        with autocast(self.numerics, self.fabric.device.type):
            terms = self._wrapped(laid_out, clock)
        loss = torch.stack(list(terms.values())).sum()
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not bool(torch.isfinite(loss)):
            raise NonFiniteLossError(
                f"the loss of step {self.step} is not finite: "
                + ", ".join(f"{name} {value}" for name, value in values.items())
            )
        for name, optimiser in self._optimisers.items():
            optimiser.zero_grad(set_to_none=True)
            if name in self._base_rates:
                for group, rate in zip(
                    optimiser.param_groups, self._base_rates[name], strict=True
                ):
                    group["lr"] = rate * factor
        self.fabric.backward(self._scaler.scale(loss))
        for optimiser in self._optimisers.values():
            self._scaler.unscale_(optimiser)
        if self.rules.penalty is not None:
            self.rules.penalty.add_gradients()
        for optimiser in self._optimisers.values():
            torch.nn.utils.clip_grad_norm_(
                [each for group in optimiser.param_groups for each in group["params"]],
                self.rules.gradient_clip_norm,
            )
            self._scaler.step(optimiser)
        self._scaler.update()
        self.method.after_step(clock)
        if self._statistics is not None:
            self._statistics.update()
        if self._average is not None:
            self._average.update(self.method.predictor)
        self.step += 1
        return values, factor

    def add_score(self, score: float | None) -> None:
        """Take in the score of a validation, the same in every process.

        Args:
            score: ``None``, if there was nothing to measure, does not count.
        """
        if self._plateau is not None and score is not None:
            self._plateau.add(score)

    def release_gradients(self) -> None:
        """Free what a step that ran out of memory left behind."""
        for optimiser in self._optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()

    def predictor_weights(self) -> dict[str, Tensor]:
        """What is validated and saved to predict with: the average, if there is one.

        With the mean over the last batches, if wanted, as statistics of batch norms;
        these are the weights' own and not averaged further.
        """
        recent = self._statistics.means() if self._statistics is not None else {}
        if self._average is not None:
            return self._average.weights | recent
        return self.method.predictor.state_dict() | recent

    def frozen_predictor(self) -> Network:
        """Copy of the predictor with those weights, in evaluation mode."""
        network = copy.deepcopy(self.method.predictor)
        network.load_state_dict(self.predictor_weights())
        return network.eval()

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `restore` needs; tensors are copies."""
        tensors = {
            f"method.{name}": tensor
            for name, tensor in self.method.state_dict().items()
        }
        values: dict[str, Any] = {}
        for name, optimiser in self._optimisers.items():
            of_optimiser, other = optimiser_tensors(optimiser, f"optimiser.{name}")
            tensors |= of_optimiser
            values |= other
        tensors |= {
            f"predictor.{name}": tensor
            for name, tensor in self.predictor_weights().items()
        }
        if self._statistics is not None:
            tensors |= {
                f"statistics.{name}": ring
                for name, ring in self._statistics.rings.items()
            }
        state = {
            "step": self.step,
            "task": self.method.task,
            "batch_halvings": self.batch_halvings,
            "best_score": self.best_score,
            "average_updates": self._average.updates if self._average else 0,
            "statistics_seen": self._statistics.seen if self._statistics else 0,
            "plateau": self._plateau.state() if self._plateau else None,
            "scaler": self._scaler.state_dict(),
            "optimiser_values": values,
        }
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}, (
            state
        )

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from a snapshot, to the bit."""
        self.method.load_state_dict(under("method.", tensors))
        for name, optimiser in self._optimisers.items():
            restore_optimiser(
                optimiser, f"optimiser.{name}", tensors, state["optimiser_values"]
            )
        if self._average is not None:
            self._average.load(
                under("predictor.", tensors), int(state["average_updates"])
            )
        if self._statistics is not None:
            self._statistics.load(
                under("statistics.", tensors), int(state["statistics_seen"])
            )
        if self._plateau is not None:
            self._plateau.load(state["plateau"])
        self._scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.batch_halvings = state["batch_halvings"]
        self.best_score = state["best_score"]


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose name begins with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _step_seed(clock: Clock) -> int:
    digest = hashlib.blake2b(
        f"{clock.seed} {clock.step} {clock.rank}".encode(), digest_size=8
    )
    return int.from_bytes(digest.digest(), "big") >> 1
