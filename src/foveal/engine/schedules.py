"""Learning rate over a run, as a factor of the one set."""

import math
from typing import Literal


def learning_rate_factor(
    step: int,
    total_steps: int,
    *,
    name: Literal["poly", "cosine", "constant"],
    power: float,
    warmup_steps: int,
) -> float:
    """Rise linearly, then decay to nearly zero at the end.

    Args:
        step: Updates made before this one, in [0, ``total_steps``).
        total_steps: Length of the run.
        name: ``poly``: (1 - t)^power with t the share of the run that is done
            (DeepLab's rule); ``cosine``: half a period (Loshchilov and Hutter 2017);
            ``constant``: 1.
        power: Of ``poly``.
        warmup_steps: Updates of the linear rise; the decay runs under it.

    Returns:
        In (0, 1].
    """
    done = step / total_steps
    if name == "poly":
        decay = (1 - done) ** power
    elif name == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * done))
    else:
        decay = 1.0
    return decay * min(1.0, (step + 1) / (warmup_steps + 1))
