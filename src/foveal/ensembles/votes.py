"""What members or raters say of every voxel, counted by combinations of votes.

A fusion of label maps decides by a voxel's votes alone, and volumes hold few different
combinations of votes. So these are found once, a decision is made for each of them, and
the volume is only looked up. The label maps are taken in one after another: the memory
needed does not grow with their number.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveal.errors import GeometryError
from foveal.io.label_maps import present_labels, shape_text

BLOCK_VOXELS = 1 << 22
"""Worked on at once."""


@dataclass(frozen=True, eq=False)
class Votes:
    """Labels that members give to voxels, by combination."""

    labels: tuple[int, ...]
    """Those that occur, and 0, background, in ascending order."""

    combinations: NDArray[np.intp]
    """Vote of each member as a place in `labels`, ``(combination, member)``."""

    counts: NDArray[np.int64]
    """Voxels with each combination, at least 1."""

    combination_map: NDArray[np.int32]
    """Number of each voxel's combination, ``(i, j, k)``."""

    @property
    def num_members(self) -> int:
        """That voted."""
        return self.combinations.shape[1]

    @property
    def background(self) -> int:
        """Place of 0 in `labels`."""
        return self.labels.index(0)

    @property
    def voxels(self) -> NDArray[np.int64]:
        """Voxels to which each member gives each label, ``(member, label)``."""
        is_said = self.combinations.T[:, :, None] == range(len(self.labels))
        voxels: NDArray[np.int64] = np.einsum("c,mcl->ml", self.counts, is_said)
        return voxels

    @property
    def shares(self) -> NDArray[np.float64]:
        """Fraction of all votes that each label has; order of members has no say."""
        shares: NDArray[np.float64] = self.voxels.sum(axis=0) / self.voxels.sum()
        return shares

    def support(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Summed weights of the votes for each label, ``(combination, label)``.

        Args:
            weights: Of a member's vote for a label, ``(member, label)``.
        """
        support = np.zeros((len(self.counts), len(self.labels)))
        rows = np.arange(len(self.counts))
        for votes, own in zip(self.combinations.T, weights, strict=True):
            support[rows, votes] += own[votes]
        return support

    def dice(self, decided: NDArray[np.intp]) -> NDArray[np.float64]:
        """Dice of every member with what was decided, ``(member, label)``.

        Args:
            decided: Places in `labels`, ``(combination,)``.

        Returns:
            In [0, 1]; NaN where neither has the label.
        """
        places = range(len(self.labels))
        is_decided = decided[:, None] == places
        is_said = self.combinations.T[:, :, None] == places
        both = np.einsum("c,mcl,cl->ml", self.counts, is_said, is_decided)
        with np.errstate(invalid="ignore"):
            dice: NDArray[np.float64] = (
                2 * both / (self.voxels + self.counts @ is_decided)
            )
        return dice

    def label_map(self, decided: NDArray[np.intp]) -> NDArray[np.int32]:
        """Label map ``(i, j, k)`` of what was decided for each combination.

        Args:
            decided: Places in `labels`, ``(combination,)``.
        """
        values = np.array(self.labels, np.int32)[decided]
        fused: NDArray[np.int32] = values[self.combination_map]
        return fused


def gather_votes(label_maps: Iterable[NDArray[np.integer]]) -> Votes:
    """Take in label maps, or masks, of one grid.

    Args:
        label_maps: At least one; ``(i, j, k)``, of any integers, 0 is background.

    Raises:
        GeometryError: They differ in shape.
        ValueError: There is none.
    """
    numbers: NDArray[np.int32] | None = None
    votes = np.zeros((1, 0), np.int64)
    counts = np.zeros(1, np.int64)
    for label_map in label_maps:
        if numbers is None:
            numbers = np.zeros(label_map.shape, np.int32, order="F")
        elif numbers.shape != label_map.shape:
            raise GeometryError(
                f"label maps of {shape_text(numbers.shape)} and "
                f"{shape_text(label_map.shape)} voxels cannot be fused; all must lie "
                "on one grid"
            )
        votes, counts = _with_member(numbers, votes, label_map)
    if numbers is None:
        raise ValueError("there is no label map to fuse")
    labels = tuple(sorted({0, *votes.ravel().tolist()}))
    return Votes(labels, np.searchsorted(labels, votes), counts, numbers)


def _with_member(
    numbers: NDArray[np.int32],
    votes: NDArray[np.int64],
    label_map: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split every combination by the votes of one more member.

    Args:
        numbers: Of each voxel's combination; changed to the new numbers.
        votes: Labels, ``(combination, member)``.
        label_map: Of the member.

    Returns:
        Labels ``(combination, member)`` with the member, and voxels of each.
    """
    labels = np.array(present_labels(label_map), np.int64)
    flat = numbers.ravel(order="F")  # A view, as numbers is in this order.
    given = label_map.ravel(order="F")
    blocks = [
        slice(start, start + BLOCK_VOXELS)
        for start in range(0, len(flat), BLOCK_VOXELS)
    ]

    def split(block: slice) -> NDArray[np.int64]:
        places = np.searchsorted(labels, given[block])
        split_numbers: NDArray[np.int64] = flat[block] * np.int64(len(labels)) + places
        return split_numbers

    counts = np.zeros(len(votes) * len(labels), np.int64)
    for block in blocks:
        counts += np.bincount(split(block), minlength=len(counts))
    kept = np.flatnonzero(counts)
    lookup = np.zeros(len(counts), np.int32)
    lookup[kept] = np.arange(len(kept))
    for block in blocks:
        flat[block] = lookup[split(block)]
    earlier, place = np.divmod(kept, len(labels))
    return np.column_stack([votes[earlier], labels[place]]), counts[kept]


def most_supported(
    votes: Votes, support: NDArray[np.float64], tolerance: float = 1e-9
) -> NDArray[np.intp]:
    """Label with the greatest support, for each combination; ties are ruled.

    Of labels with equal support background wins if it is among them: nothing is claimed
    that no majority claims. Else the one with more votes in the whole volume wins, and
    of those with equally many the smallest value. So the order of members never counts.

    Args:
        votes: What the support comes from.
        support: Not negative, ``(combination, label)``.
        tolerance: Supports are equal if they differ by less than this part of the
            greatest; sums of weights depend on their order by less.

    Returns:
        Places in ``votes.labels``, ``(combination,)``.
    """
    preference = np.argsort(-votes.shares, kind="stable")
    preference = np.concatenate(
        [[votes.background], preference[preference != votes.background]]
    ).astype(np.intp)
    best = support.max(axis=1, keepdims=True)
    is_best = support[:, preference] >= best * (1 - tolerance)
    decided: NDArray[np.intp] = preference[is_best.argmax(axis=1)]
    return decided
