"""How many steps fit a time: measured on this machine, with this data and network."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from foveal.engine.training import Training
from foveal.sampling.batch import Batch
from foveal.store.store import StoredCase

VALIDATION_FRACTION = 0.1
"""Share of a budget that validation may take, at most."""

VALIDATIONS = 10
"""Of a run, unless they would take more than that share."""

SAFETY_FRACTION = 0.02
"""Of a budget kept free, as machines slow down more often than they speed up."""


LONGEST_PROBE = 1000
"""Steps timed at most."""

PROBE_TOTAL_STEPS = 1_000_000
"""Length that a probe pretends: what is undone needs no schedule."""


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
        batches: At least `LONGEST_PROBE` + 2.
        probe_seconds: About as long, but three steps at least.
    """
    tensors, state = training.snapshot()
    training.update(next(batches), total_steps=PROBE_TOTAL_STEPS)
    start = time.perf_counter()
    training.update(next(batches), total_steps=PROBE_TOTAL_STEPS)
    affordable = round(probe_seconds / (time.perf_counter() - start))
    # Data-parallel processes wait for each other, so all make as many steps.
    count = training.fabric.broadcast(min(max(affordable, 3), LONGEST_PROBE))
    start = time.perf_counter()
    for _ in range(count):
        training.update(next(batches), total_steps=PROBE_TOTAL_STEPS)
    seconds = (time.perf_counter() - start) / count
    training.restore(tensors, state)
    return seconds


def seconds_per_case(
    cases: Sequence[StoredCase], predict: Callable[[StoredCase], object]
) -> float:
    """Time the prediction of a case of middling size, which stands for all.

    Args:
        cases: At least one.
        predict: Called twice: the first time warms up.
    """
    middle = sorted(cases, key=lambda case: sum(case.shape))[len(cases) // 2]
    predict(middle)
    start = time.perf_counter()
    predict(middle)
    return time.perf_counter() - start


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
        affordable = usable * VALIDATION_FRACTION / validation_seconds
        validations = int(min(max(affordable, 1), VALIDATIONS))
    steps = int((usable - validations * validation_seconds) / step_seconds)
    steps = max(steps, 1)
    return FittedLength(steps, validation_interval(steps, validations))


def validation_interval(steps: int, validations: int = VALIDATIONS) -> int:
    """Steps between validations so that there are at most so many in a run."""
    return max(1, -(-steps // validations))
