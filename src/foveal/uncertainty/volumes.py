"""The volume of a structure, and where it may lie, from several passes.

The volume of a pass is that of the label map which the pass alone would give. Its
uncertainty cannot be summed over voxels, as they are not independent (a border that is
off is off everywhere), so it is taken from the spread of the passes: the interval is
where, by Student's t, the volume of one more such pass lies,

    mean +- t(n - 1) s sqrt(1 + 1 / n),   s^2 = sum (volume - mean)^2 / (n - 1),

cut off at 0. It knows what the passes disagree about and nothing of what they have in
common, such as the training cases; one pass gives none. Passes of one network are alike
(mirrored images, dropout), so their interval is narrower than that of networks which
were trained apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

CONFIDENCE = 0.95
"""Of the interval, in as far as the volumes of passes are normally distributed."""


@dataclass(frozen=True)
class Volume:
    """How large a structure is, over all passes."""

    mean_ml: float

    deviation_ml: float | None
    """Of the passes, as of a sample (n - 1); ``None`` for one pass."""

    interval_ml: tuple[float, float] | None
    """At `CONFIDENCE`; ``None`` for one pass."""


def volume_of_passes(volumes_ml: Sequence[float]) -> Volume:
    """Volume of a structure from its volume in every pass.

    Args:
        volumes_ml: One per pass, at least one, not negative.
    """
    mean = fmean(volumes_ml)
    num_passes = len(volumes_ml)
    if num_passes == 1:
        return Volume(mean, None, None)
    deviation = stdev(volumes_ml)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, num_passes - 1))
    reach = quantile * deviation * math.sqrt(1 + 1 / num_passes)
    return Volume(mean, deviation, (max(mean - reach, 0.0), mean + reach))
