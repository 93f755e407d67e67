"""Learning rate over a run, as a factor of the one set."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal


def learning_rate_factor(
    step: int,
    total_steps: int,
    *,
    name: Literal["poly", "cosine", "cyclic", "constant", "steps", "plateau"],
    power: float | None = None,
    wait_fraction: float | None = None,
    cycles: int | None = None,
    drop_at: Sequence[float] | None = None,
    drop_factor: float | None = None,
    warmup_steps: int,
    warmup_start_fraction: float | None = None,
) -> float:
    """Rise linearly, then decay.

    Args:
        step: Updates made before this one, in [0, ``total_steps``).
        total_steps: Length of the run.
        name: ``poly``: (1 - t)^power with t the share of the run that is done
            (DeepLab's rule); ``cosine``: half a period (Loshchilov and Hutter 2017);
            ``cyclic``: that in every cycle, see `cycle_ends` (Huang et al. 2017);
            ``steps``: a drop at given points; ``constant``: 1; ``plateau``: 1 too, as
            its drops depend on validations (`foveal.engine.plateau`).
        power: Of ``poly``.
        wait_fraction: Of ``poly``: share of the run before the decay begins, which
            then takes the rest (DeepMedic's rule).
        cycles: Of ``cyclic``.
        drop_at: Of ``steps``: below 1 shares of the run, from 1 on updates.
        drop_factor: Of ``steps``: the factor of each drop.
        warmup_steps: Updates of the linear rise; the decay runs under it.
        warmup_start_fraction: What the rise begins with, to be 1 after
            ``warmup_steps`` updates (Goyal et al. 2017); ``None``: the first of
            ``warmup_steps`` + 1 equal parts.

    Returns:
        In (0, 1].
    """
    done = step / total_steps
    if name == "poly":
        wait, power = wait_fraction or 0.0, 1.0 if power is None else power
        decay = (1 - max(0.0, done - wait) / (1 - wait)) ** power
    elif name == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * done))
    elif name == "cyclic":
        done = _done_of_cycle(step, total_steps, cycles)
        decay = 0.5 * (1 + math.cos(math.pi * done))
    elif name == "steps":
        points = [at * total_steps if at < 1 else at for at in drop_at or ()]
        # Rounded, as 0.3 of 10 steps is 3.0000000000000004 of them or less.
        drops = sum(step >= math.ceil(round(point, 6)) for point in points)
        decay = (1.0 if drop_factor is None else drop_factor) ** drops
    else:
        decay = 1.0
    if warmup_start_fraction is None:
        return decay * min(1.0, (step + 1) / (warmup_steps + 1))
    if step >= warmup_steps:
        return decay
    start = warmup_start_fraction
    return decay * (start + (1 - start) * step / warmup_steps)


def cycle_ends(total_steps: int, cycles: int) -> tuple[int, ...]:
    """Steps after which a cycle of a cyclic schedule is over, the last at the end.

    Cycles differ by a step where they do not divide the run. Huang et al. let all but
    the last have the same length, so that the last may be far shorter.

    Args:
        total_steps: Length of the run.
        cycles: With more of them than steps, each step is one.

    References:
        Huang et al. 2017, "Snapshot ensembles", https://arxiv.org/abs/1704.00109.
    """
    count = min(cycles, total_steps)
    return tuple(number * total_steps // count for number in range(1, count + 1))


def _done_of_cycle(step: int, total_steps: int, cycles: int | None) -> float:
    """Share of its cycle that is done before a step, in [0, 1)."""
    ends = cycle_ends(total_steps, 5 if cycles is None else cycles)
    place = bisect_right(ends, step)
    start = ends[place - 1] if place else 0
    return (step - start) / (ends[place] - start)
