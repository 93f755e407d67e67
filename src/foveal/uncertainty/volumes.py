"""The volume of a structure, and where it may lie, from several draws.

A draw is a network, or a pass of the only network (mirrored, dropout), and its volume
that of the label map which it alone would give. Its uncertainty cannot be summed over
voxels, as they are not independent (a border that is off is off everywhere), so it is
taken from the spread of the draws: the interval is where, by Student's t, the volume of
one more such draw lies,

    mean +- t(n - 1) s sqrt(1 + sum w^2),
    s^2 = sum w (volume - mean)^2 / (1 - sum w^2),

cut off at 0, with the weighted mean and weights w of sum 1: where they are equal, s is
the usual deviation of n draws and the sum of their squares is 1 / n. It knows what the
draws disagree about and nothing of what they have in common, such as the training
cases; one draw gives none. Passes of one network are alike, so their interval is
narrower than that of networks which were trained apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95
"""Of the interval, in as far as the volumes of draws are normally distributed."""


@dataclass(frozen=True)
class Volume:
    """How large a structure is, over all draws."""

    mean_ml: float
    """By weight."""

    deviation_ml: float
    """Of the draws, as of a sample."""

    interval_ml: tuple[float, float]
    """At `CONFIDENCE`."""


def volume_of_draws(
    volumes_ml: Sequence[float], weights: Sequence[float] | None = None
) -> Volume:
    """Volume of a structure from its volume in every draw.

    Args:
        volumes_ml: One per draw, at least two, not negative.
        weights: Of the draws, positive; ``None``: all alike.
    """
    num_draws = len(volumes_ml)
    total = sum(weights) if weights else num_draws
    shares = [weight / total for weight in weights or (1.0,) * num_draws]
    squares = sum(share**2 for share in shares)
    mean = sum(share * volume for share, volume in zip(shares, volumes_ml, strict=True))
    spread = sum(
        share * (volume - mean) ** 2
        for share, volume in zip(shares, volumes_ml, strict=True)
    )
    deviation = math.sqrt(spread / (1 - squares))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, num_draws - 1))
    reach = quantile * deviation * math.sqrt(1 + squares)
    return Volume(mean, deviation, (max(mean - reach, 0.0), mean + reach))
