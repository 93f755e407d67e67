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
from foveal.inference.restore import smallest_type
from foveal.io.label_maps import present_labels, shape_text


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

    def label_map(self, decided: NDArray[np.intp]) -> NDArray[np.integer]:
        """Label map ``(i, j, k)`` of what was decided for each combination.

        Args:
            decided: Places in `labels`, ``(combination,)``.

        Returns:
            In the smallest integer type that holds all `labels`.
        """
        labels = np.array(self.labels)
        values = labels.astype(smallest_type(labels))[decided]
        fused: NDArray[np.integer] = values[self.combination_map]
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
    table = _Table()
    for label_map in label_maps:
        if numbers is None:
            # As files lie in memory, so that all are read alike.
            numbers = np.zeros(label_map.shape, np.int32, order="F")
        elif numbers.shape != label_map.shape:
            raise GeometryError(
                f"label maps of {shape_text(numbers.shape)} and "
                f"{shape_text(label_map.shape)} voxels cannot be fused; all must lie "
                "on one grid"
            )
        table.add_member(numbers.ravel(order="F"), label_map.ravel(order="F"))
    if numbers is None:
        raise ValueError("there is no label map to fuse")
    table.drop_empty(numbers.ravel(order="F"))
    labels = tuple(sorted({0, *table.labels.ravel().tolist()}))
    return Votes(labels, np.searchsorted(labels, table.labels), table.counts, numbers)


class _Table:
    """Combinations of votes, to which members are added one by one.

    A member's vote for background leaves a voxel's combination its number, so that only
    its foreground is touched, a small part of most volumes.
    """

    def __init__(self) -> None:
        self.labels = np.zeros((1, 0), np.int64)
        """``(combination, member)``; the first combination is background for all."""

        self.counts = np.zeros(1, np.int64)
        """Voxels of each combination; not known before the first member."""

    def add_member(
        self, numbers: NDArray[np.int32], label_map: NDArray[np.integer]
    ) -> None:
        """Split combinations by a member's votes.

        Args:
            numbers: Of each voxel's combination, ``(voxel,)``; changed.
            label_map: Of the member, ``(voxel,)``.
        """
        if self.labels.shape[1] == 0:
            self.counts[0] = len(numbers)
        foreground = np.flatnonzero(label_map)
        given, earlier = label_map[foreground], numbers[foreground]
        said = np.array(present_labels(given), np.int64)
        pairs = earlier * np.int64(len(said)) + np.searchsorted(said, given)
        found = np.bincount(pairs, minlength=len(self.counts) * len(said))
        added = np.flatnonzero(found)
        lookup = np.zeros(len(found), np.int32)
        lookup[added] = np.arange(len(self.counts), len(self.counts) + len(added))
        numbers[foreground] = lookup[pairs]
        parents, places = np.divmod(added, max(len(said), 1))
        np.subtract.at(self.counts, parents, found[added])
        self.counts = np.concatenate([self.counts, found[added]])
        background = np.zeros(len(self.labels), np.int64)
        self.labels = np.concatenate(
            [
                np.column_stack([self.labels, background]),
                np.column_stack([self.labels[parents], said[places]]),
            ]
        )

    def drop_empty(self, numbers: NDArray[np.int32]) -> None:
        """Forget combinations that later members left no voxel of.

        Args:
            numbers: Of each voxel's combination, ``(voxel,)``; changed.
        """
        kept = np.flatnonzero(self.counts)
        if len(kept) == len(self.counts):
            return
        lookup = np.zeros(len(self.counts), np.int32)
        lookup[kept] = np.arange(len(kept))
        numbers[:] = lookup[numbers]
        self.labels, self.counts = self.labels[kept], self.counts[kept]


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
