"""How far a mean over cases may be off: percentile bootstrap.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000

_DRAWN_AT_ONCE = 1_000_000
"""Indices held in memory: 8 MB."""


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean: percentiles of the means of redrawn values.

    Values are drawn with replacement, as many as there are, `RESAMPLES` times; the
    bounds leave the same share out on both sides. The same values give the same
    interval.

    Args:
        values: One per case; cases should be independent, as those of one patient are
            not.
        seed: Of the draws.

    Returns:
        Lower and upper bound at `CONFIDENCE`; NaN for fewer than two values.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    array = np.asarray(values, np.float64)
    generator = np.random.default_rng(seed)
    means = []
    left = RESAMPLES
    while left:
        count = min(left, max(1, _DRAWN_AT_ONCE // len(array)))
        drawn = generator.integers(len(array), size=(count, len(array)))
        means.append(array[drawn].mean(axis=1))
        left -= count
    outside = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(means), (outside, 100 - outside))
    return float(low), float(high)
