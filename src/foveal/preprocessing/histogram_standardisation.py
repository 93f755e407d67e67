"""Piecewise-linear standardisation of histograms, after Nyul and Udupa.

Nyúl and Udupa, "On standardizing the MR image intensity scale", MRM 1999; Nyúl, Udupa
and Zhang, "New variants of a method of MRI scale standardization", IEEE TMI 2000,
https://doi.org/10.1109/42.836373. Percentiles of a case are its landmarks. Those of the
training cases, each brought to a scale from 0 to 100, are averaged once; a case is then
changed by the straight lines that bring its own percentiles to these averages.

Differs from the papers: percentiles are taken under the mask, or of all voxels, and not
of voxels brighter than the mean; values remain floating-point numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveal.errors import CaseError, DatasetError

STANDARD_SCALE = (0.0, 100.0)
"""Landmarks of the outer percentiles, the cut-offs. What is darker or brighter teaches
nothing, and is carried along on the outer lines."""


@dataclass(frozen=True)
class Landmarks:
    """Where percentiles of a case are brought to; both increase strictly."""

    percentiles: tuple[float, ...]
    values: tuple[float, ...]
    """On the standard scale."""


def case_landmarks(
    channel: NDArray[np.float32],
    inside: NDArray[np.bool_] | None,
    percentiles: Sequence[float],
) -> tuple[float, ...]:
    """Percentiles of one case on the standard scale: what landmarks are learned from.

    Args:
        channel: ``(i, j, k)``.
        inside: At least one voxel; ``None``: all.
        percentiles: In [0, 100], strictly increasing, at least two.

    Returns:
        From 0 to 100.

    Raises:
        CaseError: The outer percentiles are the same.
    """
    found = _percentiles(channel, inside, percentiles)
    span = found[-1] - found[0]
    if span == 0:
        raise CaseError(
            f"no landmarks can be learned from it, as percentiles {percentiles[0]:g} "
            f"and {percentiles[-1]:g} are both {found[0]:g}; correct the image or its "
            "mask, or take the case out of the data set"
        )
    low, high = STANDARD_SCALE
    scaled: list[float] = (low + (high - low) * (found - found[0]) / span).tolist()
    return tuple(scaled)


def learned_landmarks(
    percentiles: Sequence[float], cases: Sequence[Sequence[float]]
) -> Landmarks:
    """Average the landmarks of cases.

    Args:
        percentiles: As given to `case_landmarks`.
        cases: Of each, at least one, what `case_landmarks` returned.

    Raises:
        DatasetError: Two averages are the same, as when air fills a part of every case.
    """
    averages = np.mean(np.asarray(cases, np.float64), axis=0)
    # Sums depend on the order of the cases in the last digits, which nothing should.
    values = tuple(round(float(average), 6) for average in averages)
    equal = np.flatnonzero(np.diff(values) <= 0)
    if len(equal):
        first = int(equal[0])
        raise DatasetError(
            f"percentiles {percentiles[first]:g} and {percentiles[first + 1]:g} are "
            "the same in every case, so there are no landmarks: too many voxels are "
            'alike, such as air; give masks, or set preprocessing.crop to "nonzero", '
            "which leaves zeros out"
        )
    return Landmarks(tuple(percentiles), values)


def standardise(
    channel: NDArray[np.float32],
    inside: NDArray[np.bool_] | None,
    landmarks: Landmarks,
) -> NDArray[np.float32]:
    """Bring the percentiles of a channel to landmarks, by straight lines between them.

    Beyond the outer percentiles the outer lines go on, so that no voxels become alike.
    Percentiles that are the same in the case share the mean of their landmarks.

    Args:
        channel: ``(i, j, k)``; left as it is.
        inside: Voxels that percentiles are taken from; ``None``: all. Every voxel is
            changed.
        landmarks: At least two.

    Returns:
        Order is kept: no voxel becomes brighter than one that was brighter than it. 0
        everywhere if all voxels inside are the same.

    Raises:
        CaseError: All percentiles are the same, though voxels inside differ.
    """
    found = _percentiles(channel, inside, landmarks.percentiles)
    own, group = np.unique(found, return_inverse=True)
    if len(own) == 1:
        values = channel if inside is None else channel[inside]
        if values.min() == values.max():
            return np.zeros_like(channel)
        raise CaseError(
            f"cannot be brought to landmarks, as percentiles "
            f"{landmarks.percentiles[0]:g} and {landmarks.percentiles[-1]:g} are both "
            f"{found[0]:g}: too many voxels are alike, such as air; give a mask, crop "
            "to what is not zero as the training cases were, or correct the image"
        )
    wanted = np.bincount(group, landmarks.values) / np.bincount(group)
    slopes = np.diff(wanted) / np.diff(own)
    line = np.searchsorted(own[1:-1], channel, side="right")
    with np.errstate(over="ignore", invalid="ignore"):
        # In double precision: lines of slopes 1e6 and more meet without a step.
        result = wanted[line] + slopes[line] * (channel - own[line])
        return result.astype(np.float32)


def _percentiles(
    channel: NDArray[np.float32],
    inside: NDArray[np.bool_] | None,
    percentiles: Sequence[float],
) -> NDArray[np.float64]:
    """Interpolated between voxels, in double precision."""
    values = channel if inside is None else channel[inside]
    return np.percentile(values.astype(np.float64), percentiles)
