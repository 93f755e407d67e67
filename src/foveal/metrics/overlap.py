"""How many voxels two masks share, and the fractions made of those counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from foveal.metrics.masks import require_same_shape

DEFINITIONS = {
    "dice": "2 TP / (2 TP + FP + FN); both masks empty: NaN, one empty: 0",
    "iou": "TP / (TP + FP + FN); both masks empty: NaN, one empty: 0",
    "sensitivity": "TP / (TP + FN); reference empty: NaN",
    "specificity": "TN / (TN + FP); reference fills the image: NaN",
    "precision": "TP / (TP + FP); prediction empty: NaN",
}
"""Metric to what it means, in a line."""


@dataclass(frozen=True)
class Overlap:
    """Voxels of two masks counted by agreement; ratios in [0, 1], NaN where 0 / 0."""

    true_positives: int
    """In both masks."""

    false_positives: int
    """In the prediction only."""

    false_negatives: int
    """In the reference only."""

    true_negatives: int
    """In neither."""

    @property
    def dice(self) -> float:
        """Shared voxels over the mean size of the masks; NaN if both are empty."""
        errors = self.false_positives + self.false_negatives
        return _ratio(2 * self.true_positives, 2 * self.true_positives + errors)

    @property
    def iou(self) -> float:
        """Intersection over union (Jaccard index); NaN if both masks are empty."""
        errors = self.false_positives + self.false_negatives
        return _ratio(self.true_positives, self.true_positives + errors)

    @property
    def sensitivity(self) -> float:
        """Part of the reference that was found; NaN if the reference is empty."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> float:
        """Part of what is outside the reference that was left alone.

        NaN if nothing is outside.
        """
        return _ratio(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def precision(self) -> float:
        """Part of the prediction that is right; NaN if the prediction is empty."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)


def count_overlap(
    prediction: Bool[NDArray[Any], "_ _ _"],
    reference: Bool[NDArray[Any], "_ _ _"],
    *,
    num_ignored: int = 0,
) -> Overlap:
    """Count where two masks agree and where they differ.

    Args:
        prediction: Mask ``(i, j, k)``.
        reference: Mask on the same grid.
        num_ignored: Voxels to leave out of every count; they must be in neither mask.

    Raises:
        GeometryError: The masks differ in shape.
    """
    require_same_shape(prediction, reference)
    shared = int(np.count_nonzero(prediction & reference))
    predicted = int(np.count_nonzero(prediction))
    expected = int(np.count_nonzero(reference))
    return Overlap(
        true_positives=shared,
        false_positives=predicted - shared,
        false_negatives=expected - shared,
        true_negatives=prediction.size - num_ignored - predicted - expected + shared,
    )


def dice(
    prediction: Bool[NDArray[Any], "_ _ _"], reference: Bool[NDArray[Any], "_ _ _"]
) -> float:
    """Dice of two masks ``(i, j, k)`` alone; see `Overlap.dice`.

    Raises:
        GeometryError: The masks differ in shape.
    """
    return count_overlap(prediction, reference).dice


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")
