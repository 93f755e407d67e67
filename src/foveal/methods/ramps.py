"""How much a term counts in the course of a run."""

from foveal.methods.interface import Clock


def rise(clock: Clock, fraction: float) -> float:
    """Factor that rises in a straight line, from 0 at the first step to 1.

    Args:
        clock: Of the step.
        fraction: Share of the run after which it is 1, in [0, 1]. 0: from the start.
    """
    duration = fraction * clock.total_steps
    return 1.0 if clock.step >= duration else clock.step / duration
