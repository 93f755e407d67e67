"""Error maps made anew in pauses of the training.

Training stops at steps that are known beforehand, some cases are predicted with the
weights it has, and it goes on. Which maps were in use belongs to the checkpoint, so a
resumed run draws what the unbroken one would.

Whoever trains sees `Refreshing` only, and not what is refreshed.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from foveal.engine.error_maps import ErrorMapFolder
from foveal.inference.errors import CaseErrors, mean_dice
from foveal.networks.interface import Network
from foveal.sampling.randomness import generator
from foveal.store.store import StoredCase

FindErrors = Callable[[Network, StoredCase], CaseErrors]
"""Predicts a case with a network in evaluation mode."""

KEPT_CHECKPOINTS = 2
"""From which a run can be resumed: the last and the previous."""

SHORTEST_INTERVAL = 20
"""Steps between two pauses, if there are cases enough to be worth one."""


@runtime_checkable  # the run-time shape checks look at signatures with it
class Refreshing(Protocol):
    """What the training loop asks of something that its batches are drawn by."""

    def next_pause(self, step: int) -> int | None:
        """The first step after ``step`` before which training has to stop."""
        ...

    def at_pause(
        self, step: int, predictor: Callable[[], Network]
    ) -> dict[str, Any] | None:
        """Called by one process before the batches of ``step`` are drawn.

        Returns:
            What to log; ``None`` if nothing was due.
        """
        ...

    def after_step(
        self, step: int, predictor: Callable[[], Network]
    ) -> Sequence[dict[str, Any]]:
        """Called by every process when ``step`` updates are made.

        Returns:
            What the first process logs; a ``note`` in it is told to whoever watches.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What JSON can hold, for a checkpoint and for the other processes."""
        ...

    def saved(self, state: Mapping[str, Any]) -> None:
        """Called by one process: a checkpoint holds this state, and one more is kept.

        That is the checkpoint saved before it.
        """
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        ...

    def close(self) -> None:
        """Training is over, or failed."""
        ...


@dataclass(frozen=True)
class Rhythm:
    """When cases are predicted, and which."""

    every_steps: int
    cases: int
    """At a time."""

    order: Literal["stalest", "random"]
    seed: int
    """Of a random order."""


class PausedRefreshing:
    """Refreshes error maps at steps known beforehand, while training waits.

    Args:
        maps: Of the training cases.
        rhythm: When, and how many.
        find_errors: Predicts a case.
    """

    def __init__(
        self,
        maps: ErrorMapFolder,
        rhythm: Rhythm,
        find_errors: FindErrors,
    ) -> None:
        self._maps = maps
        self._cases = {case.name: case for case in maps.cases}
        self._rhythm = rhythm
        self._find_errors = find_errors
        self._refreshed_at: int | None = None
        self._in_checkpoints: list[dict[str, int]] = []

    def next_pause(self, step: int) -> int | None:
        """Every so many steps."""
        every = self._rhythm.every_steps
        return (step // every + 1) * every

    def at_pause(
        self, step: int, predictor: Callable[[], Network]
    ) -> dict[str, Any] | None:
        """Predict the cases whose turn it is, and use their new maps."""
        is_due = step > 0 and step % self._rhythm.every_steps == 0
        if not is_due or self._refreshed_at == step:
            return None
        start = time.perf_counter()
        network = predictor()
        found = {}
        for name in whose_turn(self._maps.steps, list(self._cases), self._rhythm, step):
            errors = self._find_errors(network, self._cases[name])
            self._maps.write(name, step, errors)
            self._maps.use(name, step)
            found[name] = errors
        # A resumed run does not know at first what the previous checkpoint needs.
        if len(self._in_checkpoints) == KEPT_CHECKPOINTS:
            self._maps.forget(self._in_checkpoints)
        self._refreshed_at = step
        return {"cases": told(found), "seconds": time.perf_counter() - start}

    def after_step(
        self, step: int, predictor: Callable[[], Network]
    ) -> Sequence[dict[str, Any]]:
        """Nothing: all is done while training waits."""
        return ()

    def state(self) -> dict[str, Any]:
        """Versions of the maps in use, and when they were refreshed last."""
        return {"versions": self._maps.steps, "refreshed_at": self._refreshed_at}

    def saved(self, state: Mapping[str, Any]) -> None:
        """The last and the previous checkpoint need their maps."""
        self._in_checkpoints.append(state["versions"])
        del self._in_checkpoints[:-KEPT_CHECKPOINTS]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Use the maps that were in use then."""
        self._maps.use_versions(state["versions"])
        self._refreshed_at = state["refreshed_at"]

    def close(self) -> None:
        """Nothing is left open."""


def whose_turn(
    steps: Mapping[str, int], names: Sequence[str], rhythm: Rhythm, step: int
) -> list[str]:
    """Cases to predict now.

    Args:
        steps: Version in use of those that have one.
        names: Of all cases.
        rhythm: How many, and by which rule.
        step: Updates made so far; the only thing that a random choice depends on.

    Returns:
        The stalest first, those without a map before all; or any.
    """
    if rhythm.order == "random":
        draws = generator(rhythm.seed, step, 0, "refresh")
        order = torch.randperm(len(names), generator=draws).tolist()
    else:
        order = sorted(
            range(len(names)), key=lambda index: (steps.get(names[index], -1), index)
        )
    return [names[index] for index in order[: rhythm.cases]]


def told(found: Mapping[str, CaseErrors]) -> dict[str, Any]:
    """What the log says of predicted cases."""
    return {
        name: {
            "mean_error": float(errors.error.mean() / 255),
            "difficulty": errors.difficulty,
            "dice": errors.dice,
        }
        for name, errors in found.items()
    }


def refresh_curves(row: Mapping[str, Any]) -> dict[str, Any]:
    """What TensorBoard shows of a row: means over cases, not a curve for each.

    Args:
        row: As `Refreshing` gives it to the log.
    """
    curves = {
        key: row[key]
        for key in ("seconds", "worker_seconds", "validation_dice", "labels")
        if key in row
    }
    cases = row.get("cases", {}).values()
    if cases:
        for key in ("mean_error", "difficulty"):
            curves[key] = sum(case[key] for case in cases) / len(cases)
        curves["dice"] = mean_dice([case["dice"] for case in cases])
    return curves


def fraction_rhythm(
    fraction: float,
    *,
    step_seconds: float,
    case_seconds: float,
    num_cases: int,
    every_steps: int | None,
    cases_per_refresh: int | None,
) -> tuple[int, int]:
    """Steps between refreshes and cases of each, so that they take a share of the time.

    With `n` steps of `s` seconds between predictions of `m` cases of `c` seconds, the
    share is `m c / (n s + m c)`. Few cases at a time keep maps fresh evenly, but a
    pause also empties the queue of prepared batches, so there are at least
    `SHORTEST_INTERVAL` steps between two if there are cases enough.

    Args:
        fraction: That share, in (0, 1).
        step_seconds: Of one step.
        case_seconds: Of predicting one case.
        num_cases: There are so many.
        every_steps: Given by a person; ``None``: to be found.
        cases_per_refresh: The same; if there are fewer, all are predicted.

    Returns:
        Steps and cases.
    """
    # Seconds of steps that one predicted case has to be paid with.
    paid = case_seconds * (1 - fraction) / fraction
    cases = cases_per_refresh
    if cases is None:
        affordable = (every_steps or SHORTEST_INTERVAL) * step_seconds / paid
        # Named steps must pay for them; free ones grow until they do.
        wanted = math.floor(affordable) if every_steps else math.ceil(affordable)
        cases = min(max(wanted, 1), num_cases)
    steps = every_steps
    if steps is None:
        predicted = min(cases, num_cases)
        steps = max(math.ceil(predicted * paid / step_seconds), 1)
    return steps, cases
