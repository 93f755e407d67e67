"""Do probabilities mean what they say? Reliability, ECE, Brier score and NLL.

Of all voxels that are given a probability of 0.8, four fifths should be right. The
reliability diagram bins voxels by probability and shows the frequency in each bin; the
expected calibration error is the mean distance between the two (Naeini et al. 2015,
https://doi.org/10.1609/aaai.v29i1.9602; Guo et al. 2017,
https://arxiv.org/abs/1706.04599). Every number is a sum over voxels, so that those of
rows and of cases add up.

Most voxels of a scan are background that nobody doubts. Over the whole volume they make
every error look small, so the numbers are meant for a band around the foreground, see
`near_foreground`; which of the two a number is of must be said with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from foveal.case import IGNORED, seen_classes

NUM_BINS = 15
"""Of equal width."""

SMALLEST = 1e-6
"""Probabilities are taken as at least this in NLL, so that a sure error costs 13.8
nats and not infinitely many."""

ALL_CLASSES = "all classes"
"""Name of the numbers of the most probable class, which no structure may have."""

DEFINITIONS = {
    "ece": "mean over voxels of how far the mean probability of their bin is from the "
    "frequency in it; 15 bins of equal width",
    "brier": "mean over voxels of the squared distance from the truth, summed over "
    "classes where all are meant; 0 is best",
    "nll": "mean over voxels of minus the log of the true class's probability, nats",
}
"""Measure to what it means, in a line."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Sums over voxels; measures are NaN if there is no voxel."""

    voxels: NDArray[np.float64]
    """Per bin, as are the next two."""

    probabilities: NDArray[np.float64]
    hits: NDArray[np.float64]
    """Voxels that are what the probability is of."""

    squares: float
    """Squared distances from the truth."""

    nats: float
    """Minus the logs of the true classes' probabilities."""

    def __add__(self, other: "Calibration") -> "Calibration":
        """Sums of more voxels, with the same bins."""
        return Calibration(
            self.voxels + other.voxels,
            self.probabilities + other.probabilities,
            self.hits + other.hits,
            self.squares + other.squares,
            self.nats + other.nats,
        )

    @property
    def num_voxels(self) -> int:
        """That count."""
        return int(self.voxels.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]."""
        return self._mean(float(np.abs(self.probabilities - self.hits).sum()))

    @property
    def excess(self) -> float:
        """Mean probability less the frequency: above 0 is too sure, in [-1, 1]."""
        return self._mean(float((self.probabilities - self.hits).sum()))

    @property
    def brier(self) -> float:
        """Brier score, in [0, 1], of all classes in [0, 2]."""
        return self._mean(self.squares)

    @property
    def nll(self) -> float:
        """Negative log-likelihood, nats."""
        return self._mean(self.nats)

    def _mean(self, total: float) -> float:
        return total / self.num_voxels if self.num_voxels else float("nan")


def summed(parts: Iterable[Mapping[str, Calibration]]) -> dict[str, Calibration]:
    """Sums of several parts by name; a part need not have every name."""
    total: dict[str, Calibration] = {}
    for part in parts:
        for name, sums in part.items():
            total[name] = total[name] + sums if name in total else sums
    return total


def structure_calibration(
    probabilities: Float[NDArray[Any], " voxel"],
    is_there: Bool[NDArray[Any], " voxel"],
    num_bins: int = NUM_BINS,
) -> Calibration:
    """How far the probability of one structure can be trusted.

    Args:
        probabilities: In [0, 1].
        is_there: Whether the reference has the structure in each voxel.
        num_bins: Of equal width over [0, 1]; 1 belongs to the last.
    """
    exact = probabilities.astype(np.float64)
    of_truth = np.where(is_there, exact, 1 - exact)
    return _sums(exact, is_there, ((exact - is_there) ** 2), of_truth, num_bins)


def class_calibration(
    probabilities: Float[NDArray[Any], "class voxel"],
    labels: Integer[NDArray[Any], " voxel"],
    num_bins: int = NUM_BINS,
) -> Calibration:
    """How far the probability of the most probable class can be trusted.

    Args:
        probabilities: Of sum 1 over classes.
        labels: The true classes.
        num_bins: Of equal width over [0, 1].
    """
    exact = probabilities.astype(np.float64)
    voxels = np.arange(labels.size)
    of_truth = exact[labels, voxels]
    # The sum over classes of (p - truth)^2, of which the truth is 1 in one class.
    squares = (exact**2).sum(axis=0) - 2 * of_truth + 1
    is_right = exact.argmax(axis=0) == labels
    return _sums(exact.max(axis=0, initial=0), is_right, squares, of_truth, num_bins)


def _sums(
    probabilities: NDArray[np.float64],
    is_hit: NDArray[np.bool_],
    squares: NDArray[np.float64],
    of_truth: NDArray[np.float64],
    num_bins: int,
) -> Calibration:
    number = np.clip((probabilities * num_bins).astype(np.int64), 0, num_bins - 1)
    return Calibration(
        np.bincount(number, minlength=num_bins).astype(np.float64),
        np.bincount(number, probabilities, num_bins).astype(np.float64),
        np.bincount(number, is_hit, num_bins).astype(np.float64),
        float(squares.sum()),
        float(-np.log(np.maximum(of_truth, SMALLEST)).sum()),
    )


def case_calibration(
    probabilities: Float[NDArray[Any], "class i j k"],
    reference: Integer[NDArray[Any], "i j k"],
    structures: Mapping[str, Sequence[int]],
    annotated: Sequence[bool] | None = None,
    counted: Bool[NDArray[Any], "i j k"] | None = None,
) -> dict[str, Calibration]:
    """Sums of one case, or of some rows of it.

    Args:
        probabilities: Of the classes, background first.
        reference: Inside classes; voxels of 255 do not count.
        structures: Name to the inside classes whose union it is.
        annotated: Per structure, whether it was contoured in the case; ``None``: all.
            Of those that were not there are no sums, and classes that look alike
            without them are told together.
        counted: Voxels that count; ``None``: all.

    Returns:
        Structure to its sums, and `ALL_CLASSES`.
    """
    known = reference != IGNORED
    if counted is not None:
        known &= counted
    labels = reference[known]
    flat = probabilities[:, known]
    drawn = np.ones(len(structures), bool) if annotated is None else annotated
    shown = shown_classes(len(probabilities), structures, annotated)
    merged = flat
    if not np.array_equal(shown, np.arange(len(shown))):
        merged = np.zeros_like(flat)
        np.add.at(merged, shown, flat)
    found = {
        name: structure_calibration(
            flat[list(classes)].sum(axis=0), np.isin(labels, classes)
        )
        for (name, classes), is_drawn in zip(structures.items(), drawn, strict=True)
        if is_drawn
    }
    return found | {ALL_CLASSES: class_calibration(merged, labels)}


def shown_classes(
    num_classes: int,
    structures: Mapping[str, Sequence[int]],
    annotated: Sequence[bool] | None,
) -> NDArray[np.int64]:
    """As which class each shows in a case, see `foveal.case.seen_classes`."""
    if annotated is None:
        return np.arange(num_classes)
    table = np.zeros((len(structures), num_classes), bool)
    for row, classes in zip(table, structures.values(), strict=True):
        row[list(classes)] = True
    return np.array(seen_classes(np.array(annotated), table))


def near_foreground(
    reference: Integer[NDArray[Any], "i j k"],
    prediction: Integer[NDArray[Any], "i j k"],
    spacing_mm: Sequence[float],
    band_mm: float,
) -> Bool[NDArray[Any], "i j k"]:
    """Voxels near a structure of the reference or of the prediction, or in it.

    Args:
        reference: Inside classes; 255 is no structure.
        prediction: Inside classes.
        spacing_mm: Per axis.
        band_mm: How far along each axis, at least one voxel.

    Returns:
        Nowhere true where both are empty.
    """
    near = ((reference != 0) & (reference != IGNORED)) | (prediction != 0)
    for axis, step in enumerate(spacing_mm):
        reach = max(1, round(band_mm / step))
        near = maximum_filter1d(near, 2 * reach + 1, axis=axis, mode="constant")
    return near
