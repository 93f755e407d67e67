"""Numbers that stand apart from others of their kind, told robustly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DEVIATIONS_PER_MAD = 1.4826
"""Of a normal distribution: standard deviation over median absolute deviation."""


def groups_apart(values: Sequence[float], gap: float) -> list[list[int]]:
    """Divide numbers where two neighbours in size lie further apart than a gap.

    Args:
        values: Finite.
        gap: Above 0.

    Returns:
        Places in ``values`` per group, ascending; the largest group first. None
        without values.
    """
    order = np.argsort(values, kind="stable")
    steps = np.diff(np.asarray(values, np.float64)[order])
    groups = np.split(order, np.flatnonzero(steps > gap) + 1)
    largest_first = sorted(groups, key=len, reverse=True)
    return [sorted(group.tolist()) for group in largest_first if len(group)]


def robust_deviations(
    values: Sequence[float], least_deviation: float
) -> NDArray[np.float64]:
    """Distance of each number from the median, in robust standard deviations.

    Args:
        values: Finite, at least one.
        least_deviation: Taken where most numbers agree more closely than that, so that
            agreement does not turn small differences into outliers.

    Returns:
        Signed, as many as ``values``.
    """
    array = np.asarray(values, np.float64)
    distances = array - np.median(array)
    deviation = DEVIATIONS_PER_MAD * float(np.median(np.abs(distances)))
    return distances / max(deviation, least_deviation)
