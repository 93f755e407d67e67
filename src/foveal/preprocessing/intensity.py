"""Intensities of one channel on a common scale, as networks expect them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foveal.errors import CaseError
from foveal.preprocessing.bias_field import BiasField, without_bias_field
from foveal.preprocessing.histogram_standardisation import Landmarks, standardise

IQR_OF_NORMAL = 1.349
"""Interquartile range of a normal distribution in standard deviations."""


WINDOW_PERCENTILES = (2.0, 98.0)
"""As much as this is clipped at either end, where nothing else is asked for."""

Normalisation = Literal["ct", "zscore", "robust_zscore", "percentiles", "unit", "none"]


@dataclass(frozen=True)
class Cutoffs:
    """Which voxels have no part in mean and deviation, as in DeepMedic."""

    percentiles: tuple[float, float] | None = None
    """Lowest and highest that are left out with all beyond them, in [0, 100]."""

    deviations: tuple[float, float] | None = None
    """So many standard deviations below and above the mean, likewise."""

    below_mean: bool = False
    """Leave out what is not brighter than the mean of the whole channel, as air is."""


@dataclass(frozen=True)
class IntensityRecipe:
    """How one channel is normalised; names as in the plan's ``channels``."""

    name: str
    normalisation: Normalisation

    clip: tuple[float, float] | None = None
    """For ``ct``: lowest and highest value kept."""

    mean: float | None = None
    """For ``ct``: subtracted after clipping."""

    deviation: float | None = None
    """For ``ct``: divided by afterwards."""

    percentiles: tuple[float, float] = WINDOW_PERCENTILES
    """For ``percentiles``: what is clipped to, in [0, 100]."""

    cutoffs: Cutoffs | None = None
    """For ``zscore``."""

    bias_field: BiasField | None = None
    """Taken out before everything else."""

    landmarks: Landmarks | None = None
    """Brought to after that, before normalisation."""


def normalise(
    channel: NDArray[np.float32],
    recipe: IntensityRecipe,
    inside: NDArray[np.bool_] | None,
) -> NDArray[np.float32]:
    """Bring a channel to the scale of its recipe.

    Its bias field is taken out first, then its histogram is standardised, and what is
    left is normalised; all of it only as the recipe says.

    Args:
        channel: ``(i, j, k)``; left as it is.
        recipe: What to do.
        inside: Voxels that statistics of the case are taken from, at least one;
            ``None``: all. Every voxel is normalised.

    Raises:
        CaseError: The bias field cannot be found, the cut-offs leave nothing, or what
            scales values that differ is all the same.
        ValueError: The recipe is ``ct`` without its constants.
    """
    if recipe.bias_field is not None:
        channel = without_bias_field(channel, inside, recipe.bias_field)
    if recipe.landmarks is not None:
        channel = standardise(channel, inside, recipe.landmarks)
    match recipe.normalisation:
        case "ct":
            if recipe.clip is None or recipe.mean is None or recipe.deviation is None:
                raise ValueError(f"{recipe} needs clip, mean and deviation")
            clipped = np.clip(channel, *recipe.clip)
            return _standardised(clipped, recipe.mean, recipe.deviation)
        case "zscore":
            return zscore(channel, inside, recipe.cutoffs)
        case "robust_zscore":
            return robust_zscore(channel, inside)
        case "percentiles":
            return windowed(channel, inside, recipe.percentiles)
        case "unit":
            return windowed(channel, inside, (0.0, 100.0))
        case "none":
            return channel.copy()


def zscore(
    channel: NDArray[np.float32],
    inside: NDArray[np.bool_] | None,
    cutoffs: Cutoffs | None = None,
) -> NDArray[np.float32]:
    """Subtract the mean and divide by the standard deviation.

    Args:
        channel: ``(i, j, k)``.
        inside: Voxels that both are taken from; ``None``: all.
        cutoffs: Which of these have no part.

    Returns:
        0 everywhere if all values inside are the same.

    Raises:
        CaseError: The cut-offs leave no voxel, or only equal ones, of values that
            differ.
    """
    values = channel if inside is None else channel[inside]
    kept = values
    if cutoffs is not None:
        kept = _within_cutoffs(values, cutoffs, float(channel.mean(dtype=np.float64)))
    if kept.min() == kept.max():
        left = f"all {kept.size} voxels that cutoffs leave"
        return _zeros(channel, values, left, float(kept.min()))
    return _standardised(
        channel,
        float(kept.mean(dtype=np.float64)),
        float(kept.std(dtype=np.float64)),
    )


def _within_cutoffs(
    values: NDArray[np.float32], cutoffs: Cutoffs, channel_mean: float
) -> NDArray[np.float32]:
    """Values strictly between all cut-offs, each found from all values."""
    lowest, highest = [-np.inf], [np.inf]
    if cutoffs.percentiles is not None:
        low, high = np.percentile(values, cutoffs.percentiles).tolist()
        lowest.append(low)
        highest.append(high)
    if cutoffs.deviations is not None:
        mean = float(values.mean(dtype=np.float64))
        deviation = float(values.std(dtype=np.float64))
        below, above = cutoffs.deviations
        lowest.append(mean - below * deviation)
        highest.append(mean + above * deviation)
    if cutoffs.below_mean:
        lowest.append(channel_mean)
    kept = values[(values > max(lowest)) & (values < min(highest))]
    if kept.size == 0:
        if values.min() == values.max():
            return values
        raise CaseError(
            f"cutoffs leave no voxel to take mean and deviation from: none of the "
            f"{values.size} inside lies between {max(lowest):g} and {min(highest):g}; "
            "widen or leave out cutoffs, or correct the image or its mask"
        )
    return kept


def windowed(
    channel: NDArray[np.float32],
    inside: NDArray[np.bool_] | None,
    percentiles: tuple[float, float],
) -> NDArray[np.float32]:
    """Clip to two percentiles, and scale what lies between them to [0, 1].

    Args:
        channel: ``(i, j, k)``.
        inside: Voxels that the percentiles are taken from; ``None``: all. Voxels
            outside are clipped too.
        percentiles: The lower and the higher, in [0, 100]; 0 and 100 are the smallest
            and largest value.

    Returns:
        In [0, 1]; 0 everywhere if all values inside are the same.

    Raises:
        CaseError: The percentiles are the same, though values inside differ.
    """
    values = channel if inside is None else channel[inside]
    # In the channel's precision, so that clipped voxels are 0 and 1 exactly.
    low, high = np.percentile(values, percentiles).astype(np.float32)
    if low == high:
        below, above = percentiles
        both = f"percentiles {below:g} and {above:g}"
        return _zeros(channel, values, both, float(low))
    return _standardised(np.clip(channel, low, high), float(low), float(high - low))


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
    if values.min() == values.max():
        return np.zeros_like(channel)
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    scale = (upper - lower) / IQR_OF_NORMAL
    if scale == 0:
        scale = float(values.std(dtype=np.float64))
    return _standardised(channel, median, scale)


def _zeros(
    channel: NDArray[np.float32], values: NDArray[np.float32], what: str, value: float
) -> NDArray[np.float32]:
    """Zeros for a channel whose values inside are all the same.

    Raises:
        CaseError: They differ; ``what`` should scale them is ``value`` alone.
    """
    low, high = float(values.min()), float(values.max())
    if low != high:
        raise CaseError(
            f"{what} are {value:g}, so nothing scales its voxels, which lie between "
            f"{low:g} and {high:g}; correct the image or its mask, give a mask or set "
            'preprocessing.crop to "nonzero" where most of it is air, or choose '
            "another normalisation"
        )
    return np.zeros_like(channel)


def _standardised(
    channel: NDArray[np.float32], centre: float, scale: float
) -> NDArray[np.float32]:
    # Extreme values may overflow; the pipeline refuses what is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        result = channel - np.float32(centre)
        result /= np.float32(scale)
    return result
