"""Bias-field correction by N4: shading of MR taken out, which coils cause.

Tustison et al., "N4ITK: improved N3 bias correction", IEEE TMI 2010,
https://doi.org/10.1109/TMI.2010.2046908, as in SimpleITK: four levels of cubic
B-splines, the first with one interval along each axis, halved at every level.

Differs from the paper: the field is fitted to every ``shrink_factor``-th voxel. Its
logarithm is evaluated there and interpolated linearly between them; from the outermost
of them to the border, less than ``shrink_factor`` voxels, it stays as it is.
"""

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from foveal.errors import CaseError

FEWEST_VOXELS = 20
"""Along an axis after shrinking; an axis shorter than twice that is not shrunk. Of few
thick slices each matters: the field is not fitted beyond the outermost voxels looked
at, and a slice's share of the shading is large."""


@dataclass(frozen=True)
class BiasField:
    """How the field is fitted; names as in the plan's ``bias_field``."""

    shrink_factor: int = 4
    """Every so many voxels along each axis are looked at."""

    iterations: tuple[int, ...] = (50, 50, 50, 50)
    """At most so many at each level; one level more halves the splines' intervals."""


def without_bias_field(
    channel: NDArray[np.float32],
    inside: NDArray[np.bool_] | None,
    recipe: BiasField,
) -> NDArray[np.float32]:
    """Divide a channel by its bias field.

    N4 takes logarithms, so only positive voxels inside are fitted: zeros, as they lie
    around a brain without its skull, have no part. Where no voxel is fitted nearby the
    splines fade to a field of 1. The same input gives the same output, to the bit.

    Args:
        channel: ``(i, j, k)``; left as it is.
        inside: Voxels that the field is fitted to; ``None``: all. Every voxel is
            divided.
        recipe: How it is fitted.

    Returns:
        The channel itself, copied, if all voxels to be fitted are the same.

    Raises:
        CaseError: Voxels inside are negative, or none is positive.
    """
    fitted = _positive_voxels(channel, inside)
    values = channel[fitted]
    if values.min() == values.max():
        return channel.copy()
    # A picture is a volume of one slice, across which nothing can be fitted.
    flat = tuple(axis for axis, length in enumerate(channel.shape) if length == 1)
    field = _log_bias_field(np.squeeze(channel, flat), np.squeeze(fitted, flat), recipe)
    factor = np.exp(np.expand_dims(field, flat))
    return (channel / factor).astype(np.float32, copy=False)


def _positive_voxels(
    channel: NDArray[np.float32], inside: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    values = channel if inside is None else channel[inside]
    num_negative = int(np.count_nonzero(values < 0))
    if num_negative:
        raise CaseError(
            f"bias_field needs intensities that are not negative, but "
            f"{100 * num_negative / values.size:.3g} % of the voxels inside are, down "
            f"to {values.min():g}; give the images as they were before they were "
            "normalised, or leave bias_field out"
        )
    fitted = channel > 0
    if inside is not None:
        fitted &= inside
    if not fitted.any():
        raise CaseError(
            "bias_field needs positive intensities, but all voxels inside are 0; "
            "correct the image or its mask"
        )
    return fitted


def _log_bias_field(
    channel: NDArray[np.float32], fitted: NDArray[np.bool_], recipe: BiasField
) -> NDArray[np.float32]:
    """Logarithm of the field at every voxel, of two or three axes."""
    image = SimpleITK.GetImageFromArray(channel)
    mask = SimpleITK.GetImageFromArray(fitted.astype(np.uint8))
    # SimpleITK counts axes from the last.
    factors = [
        max(1, min(recipe.shrink_factor, length // FEWEST_VOXELS))
        for length in reversed(channel.shape)
    ]
    small_image, small_mask = (
        SimpleITK.Shrink(image, factors),
        SimpleITK.Shrink(mask, factors),
    )
    if not SimpleITK.GetArrayViewFromImage(small_mask).any():
        raise CaseError(
            f"bias_field.shrink_factor {recipe.shrink_factor} leaves no voxel of the "
            f"{np.count_nonzero(fitted)} inside to look at; set it to 1, or correct "
            "the mask"
        )
    correction = SimpleITK.N4BiasFieldCorrectionImageFilter()
    correction.SetMaximumNumberOfIterations(recipe.iterations)
    # Sums over threads would depend on how many the machine has.
    correction.SetNumberOfThreads(1)
    correction.Execute(small_image, small_mask)
    field = SimpleITK.GetArrayFromImage(
        _at_voxels_of(image, correction.GetLogBiasFieldAsImage(small_image))
    )
    if not math.isfinite(float(field.sum())):
        raise CaseError(
            "no smooth bias field can be fitted to the image; leave bias_field out, or "
            "correct the image or its mask"
        )
    return field.astype(np.float32, copy=False)


def _at_voxels_of(
    image: SimpleITK.Image, small_field: SimpleITK.Image
) -> SimpleITK.Image:
    """Bring a field to the voxels of the image, by their position in the world.

    The splines themselves span the shrunken image only. Asked for the image, SimpleITK
    would stretch them over it.
    """
    resampling = SimpleITK.ResampleImageFilter()
    resampling.SetReferenceImage(image)
    resampling.SetInterpolator(SimpleITK.sitkLinear)
    resampling.SetUseNearestNeighborExtrapolator(True)
    return resampling.Execute(small_field)
