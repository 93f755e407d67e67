"""How many steps fit a time: measured on this machine, with this data and network."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from foveal.engine.training import Training
from foveal.sampling.batch import Batch

VALIDATION_FRACTION = 0.1
"""Share of a budget that validation may take, at most."""

VALIDATIONS = 10
"""Of a run, unless they would take more than that share."""

SAFETY_FRACTION = 0.02
"""Of a budget kept free, as machines slow down more often than they speed up."""


@dataclass(frozen=True)
class FittedLength:
    """Length of a run and when it validates."""

    steps: int
    validate_every_steps: int


def seconds_per_step(
    training: Training, batches: Iterator[dict[str, Batch]], probe_seconds: float
) -> float:
    """Time whole steps, loading included, and undo them.

    Args:
        training: Comes back as it was.
        batches: At least enough for the probe.
        probe_seconds: At least this long, and at least three steps after a first one
            that is not counted.
    """
    tensors, state = training.snapshot()
    training.update(next(batches), total_steps=1_000_000)
    start = time.perf_counter()
    count = 0
    for ready in batches:
        training.update(ready, total_steps=1_000_000)
        count += 1
        if count >= 3 and time.perf_counter() - start > probe_seconds:
            break
    seconds = (time.perf_counter() - start) / count
    training.restore(tensors, state)
    return seconds


def fit_to_budget(
    remaining_seconds: float, step_seconds: float, validation_seconds: float
) -> FittedLength:
    """Divide the time between training and validation.

    Args:
        remaining_seconds: Of the budget, from now on.
        step_seconds: Of one step.
        validation_seconds: Of one validation of all its cases; 0 without any.

    Returns:
        At least one step, and one validation at the end.
    """
    usable = remaining_seconds * (1 - SAFETY_FRACTION)
    validations = VALIDATIONS
    if validation_seconds > 0:
        affordable = int(usable * VALIDATION_FRACTION / validation_seconds)
        validations = min(max(affordable, 1), VALIDATIONS)
    steps = int((usable - validations * validation_seconds) / step_seconds)
    steps = max(steps, 1)
    return FittedLength(steps, validation_interval(steps, validations))


def validation_interval(steps: int, validations: int = VALIDATIONS) -> int:
    """Steps between validations so that there are at most so many in a run."""
    return max(1, -(-steps // validations))
