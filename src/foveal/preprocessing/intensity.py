"""Intensities of one channel on a common scale, as networks expect them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

IQR_OF_NORMAL = 1.349
"""Interquartile range of a normal distribution in standard deviations."""


@dataclass(frozen=True)
class IntensityRecipe:
    """How one channel is normalised; names as in the plan's ``channels``."""

    name: str
    normalisation: Literal["ct", "robust_zscore", "zscore", "none"]

    clip: tuple[float, float] | None = None
    """For ``ct``: lowest and highest value kept."""

    mean: float | None = None
    """For ``ct``: subtracted after clipping."""

    deviation: float | None = None
    """For ``ct``: divided by afterwards."""


def normalise(
    channel: NDArray[np.float32],
    recipe: IntensityRecipe,
    inside: NDArray[np.bool_] | None,
) -> NDArray[np.float32]:
    """Bring a channel to the scale of its recipe.

    Args:
        channel: ``(i, j, k)``; left as it is.
        recipe: What to do.
        inside: Voxels that statistics of the case are taken from, at least one;
            ``None``: all. Every voxel is normalised.

    Raises:
        ValueError: The recipe is ``ct`` without its constants.
    """
    match recipe.normalisation:
        case "ct":
            if recipe.clip is None or recipe.mean is None or recipe.deviation is None:
                raise ValueError(f"{recipe} needs clip, mean and deviation")
            clipped = np.clip(channel, *recipe.clip)
            return _standardised(clipped, recipe.mean, recipe.deviation)
        case "zscore":
            return zscore(channel, inside)
        case "robust_zscore":
            return robust_zscore(channel, inside)
        case "none":
            return channel.copy()


def zscore(
    channel: NDArray[np.float32], inside: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Subtract the mean and divide by the standard deviation.

    Args:
        channel: ``(i, j, k)``.
        inside: Voxels that both are taken from; ``None``: all.

    Returns:
        0 everywhere if all values inside are the same.
    """
    values = channel if inside is None else channel[inside]
    return _standardised(
        channel,
        float(values.mean(dtype=np.float64)),
        float(values.std(dtype=np.float64)),
    )


def robust_zscore(
    channel: NDArray[np.float32], inside: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Subtract the median and divide by the interquartile range over 1.349.

    Few bright voxels (vessels, metal, noise beside the body) change neither. Where the
    quartiles are equal, as when most voxels are air, the standard deviation takes the
    place of the range.

    Args:
        channel: ``(i, j, k)``.
        inside: Voxels that the quartiles are taken from; ``None``: all.

    Returns:
        0 everywhere if all values inside are the same.
    """
    values = channel if inside is None else channel[inside]
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    scale = (upper - lower) / IQR_OF_NORMAL
    if scale == 0:
        scale = float(values.std(dtype=np.float64))
    return _standardised(channel, median, scale)


def _standardised(
    channel: NDArray[np.float32], centre: float, scale: float
) -> NDArray[np.float32]:
    if scale == 0:
        return np.zeros_like(channel)
    # Extreme values may overflow; the pipeline refuses what is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        result = channel - np.float32(centre)
        result /= np.float32(scale)
    return result
