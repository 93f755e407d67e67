"""STAPLE: the likely segmentation behind several raters', and how good each of them is.

Warfield, Zou and Wells, "Simultaneous truth and performance level estimation (STAPLE)",
IEEE TMI 23(7), 2004, in its form for any number of labels: expectation maximisation of
the matrix of each rater, the chance that it says one label where another is true.

The prior of a label is its share of all raters' votes, the same in every voxel. There
is no Markov field between voxels. With one label the steps are those of the paper's
binary form. They run over combinations of votes and not over voxels, which changes no
value. Not in the paper: a single rater is taken at its word, as one rater's quality
cannot be estimated; ties are ruled as of `most_supported`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveal.ensembles.votes import Votes, gather_votes, most_supported

FIRST_GUESS = 0.99999
"""Of a rater's being right, as the paper suggests: raters are experts."""

TOLERANCE = 1e-7
"""The steps end when no entry of a rater's matrix changes by more."""

MAX_STEPS = 2000


@dataclass(frozen=True, eq=False)
class Staple:
    """What the raters' votes have most likely come from."""

    truth: NDArray[np.float64]
    """Chance of each label to be the true one, ``(combination, label)``."""

    decided: NDArray[np.intp]
    """Most likely label of each combination of votes, a place in `Votes.labels`."""

    confusion: NDArray[np.float64]
    """Chance that a rater says a label where another is true,
    ``(rater, said, true)``, places as in `Votes.labels`; NaN of labels that are true in
    no voxel."""

    sensitivity: NDArray[np.float64]
    """Chance that a rater finds a label where it is, ``(rater, label)``; NaN where it
    is nowhere."""

    specificity: NDArray[np.float64]
    """Chance that a rater leaves out a label where it is not, ``(rater, label)``; NaN
    where it is everywhere."""

    num_steps: int
    """Until the matrices no longer changed; `MAX_STEPS` if they still did, 0 if all
    raters say the same."""


def staple(label_maps: Iterable[NDArray[np.integer]]) -> NDArray[np.integer]:
    """Estimate the segmentation behind several label maps, or masks.

    Identical raters give what they say, and so does a single one. Of two
    raters who differ, nothing but the prior tells who errs; take three or more. The
    result does not depend on the order of the raters.

    Args:
        label_maps: As of `gather_votes`.

    Returns:
        ``(i, j, k)``.

    Raises:
        GeometryError: The label maps differ in shape.
    """
    votes = gather_votes(label_maps)
    return votes.label_map(staple_of(votes).decided)


def staple_of(votes: Votes) -> Staple:
    """As `staple`, of votes that were gathered before, with the raters' performance."""
    if (votes.combinations == votes.combinations[:, :1]).all():
        truth, num_steps = np.eye(len(votes.labels))[votes.combinations[:, 0]], 0
    else:
        truth, num_steps = _estimated_truth(votes)
    confusion, sensitivity, specificity = _performance(votes, truth)
    decided = most_supported(votes, truth)
    return Staple(truth, decided, confusion, sensitivity, specificity, num_steps)


def _estimated_truth(votes: Votes) -> tuple[NDArray[np.float64], int]:
    """Chance of each label to be true, ``(combination, label)``, and steps taken."""
    num_raters, num_labels = votes.num_members, len(votes.labels)
    wrong = (1 - FIRST_GUESS) / (num_labels - 1)
    confusion = np.full((num_raters, num_labels, num_labels), wrong)
    confusion[:, range(num_labels), range(num_labels)] = FIRST_GUESS
    change, num_steps = 1.0, 0
    while change > TOLERANCE and num_steps < MAX_STEPS:
        improved = _confusion(votes, _truth(votes, confusion))
        # A label that has become impossible keeps its column; it stays impossible.
        improved = np.where(np.isnan(improved), confusion, improved)
        change = np.abs(improved - confusion).max()
        confusion = improved
        num_steps += 1
    return _truth(votes, confusion), num_steps


def _truth(votes: Votes, confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expectation step: chance of each label, ``(combination, label)``."""
    # Sums of logarithms: products over many raters would underflow.
    with np.errstate(divide="ignore"):
        logs = np.log(confusion)
        chance = np.tile(np.log(votes.shares), (len(votes.counts), 1))
    # In the order of their values: sums must not depend on the order of raters.
    given = np.sort(
        [own[said] for own, said in zip(logs, votes.combinations.T, strict=True)],
        axis=0,
    )
    chance += given.sum(axis=0)
    chance -= chance.max(axis=1, keepdims=True)
    truth: NDArray[np.float64] = np.exp(chance)
    return truth / truth.sum(axis=1, keepdims=True)


def _confusion(votes: Votes, truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maximisation step: ``(rater, said, true)``; NaN where nothing is true."""
    num_true = votes.counts[:, None] * truth
    num_said = np.array(
        [
            [num_true[said == label].sum(axis=0) for label in range(len(votes.labels))]
            for said in votes.combinations.T
        ]
    )
    with np.errstate(invalid="ignore"):
        confusion: NDArray[np.float64] = num_said / num_said.sum(axis=1, keepdims=True)
    return confusion


def _performance(
    votes: Votes, truth: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Matrix, sensitivity and specificity of every rater."""
    confusion = _confusion(votes, truth)
    num_labels = len(votes.labels)
    sensitivity = confusion[:, range(num_labels), range(num_labels)]
    elsewhere = votes.counts[:, None] * (1 - truth)
    is_said = np.array(
        [said[:, None] == range(num_labels) for said in votes.combinations.T]
    )
    with np.errstate(invalid="ignore"):
        specificity = (elsewhere * ~is_said).sum(axis=1) / elsewhere.sum(axis=0)
    return confusion, sensitivity, specificity
