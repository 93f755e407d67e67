"""Passes that vote: each says one class per voxel, however sure it is."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foveal.ensembles.fused import PassRows
from foveal.ensembles.staple import staple_of
from foveal.ensembles.votes import gather_votes
from foveal.ensembles.voting import votes
from foveal.inference.predict import rows_at_once
from foveal.inference.restore import decided_classes

FusionRule = Literal["mean", "majority", "weighted", "staple"]
"""What is made of several passes: the mean of their probabilities; the class that most
of them say, all alike or by the weights of their models; or what STAPLE takes them to
come from. A model has one vote, which its passes share."""

Structures = Sequence[Sequence[int]]
"""Inside classes that each structure includes."""


def as_votes(
    passes: Iterable[tuple[float, PassRows]], structures: Structures
) -> Iterator[tuple[float, PassRows]]:
    """The same passes, with 1 for the class that each decides on and 0 for the others.

    Their mean is the share of votes, so the greatest is the majority's; a tie is
    background, or else the class that comes first (`Fused` rounds shares, as sums of
    equally many votes may differ in their last bits).
    """
    for share, rows in passes:
        yield share, _voted(rows, structures)


def _voted(rows: PassRows, structures: Structures) -> PassRows:
    for first, block in rows:
        yield first, votes(decided_classes(block, structures), len(block))


def stapled(
    passes: Iterable[tuple[float, PassRows]],
    structures: Structures,
    num_classes: int,
    shape: tuple[int, int, int],
) -> PassRows:
    """Chance of each class to be the one that the passes' label maps come from.

    STAPLE looks at whole label maps; of these one is held at a time, and a number per
    voxel.

    Args:
        passes: With shares, which have no say.
        structures: Of the task.
        num_classes: Background included.
        shape: Of the case, reoriented.

    Yields:
        Blocks of rows, first to last, as of one pass.
    """
    # Files lie in memory the other way round than rows, so axes are reversed for both.
    gathered = gather_votes(_decided(rows, structures, shape).T for _, rows in passes)
    truth = np.zeros((num_classes, len(gathered.counts)), np.float32)
    truth[list(gathered.labels)] = staple_of(gathered).truth.T
    numbers = gathered.combination_map.T
    count = rows_at_once(num_classes, shape[1:])
    for first in range(0, shape[0], count):
        block = truth[:, numbers[first : first + count]]
        yield first, torch.from_numpy(block)


def _decided(
    rows: PassRows, structures: Structures, shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    classes = np.empty(shape, np.uint8)
    for first, block in rows:
        decided = decided_classes(block, structures)
        classes[first : first + len(decided)] = decided
    return classes
