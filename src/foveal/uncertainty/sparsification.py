"""Does uncertainty mark errors? What is left of the error without the least certain.

Voxels are removed, the most uncertain first, and the mean error of the rest is drawn
against the share removed. An oracle removes the worst voxel first; an uncertainty that
says nothing leaves the error as it is. The area between the curve and the oracle's,
over the whole error, is the AUSE (Ilg et al. 2018, https://arxiv.org/abs/1802.07095).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_SHARES = 100
"""Points of a curve: 0, 1 %, … 99 % removed."""


@dataclass(frozen=True, eq=False)
class Sparsification:
    """Mean error of what is left, per share removed."""

    removed: NDArray[np.float64]
    """Shares, from 0, less than 1."""

    by_uncertainty: NDArray[np.float64]
    by_oracle: NDArray[np.float64]

    random: float
    """Mean error of all voxels, which removing at random leaves as it is."""

    @property
    def ause(self) -> float:
        """Area between the curve and the oracle's over `random`: 0 is best.

        About 1 for uncertainty that says nothing of rare errors; 0 where nothing is
        wrong.
        """
        if self.random == 0:
            return 0.0
        return float((self.by_uncertainty - self.by_oracle).mean() / self.random)

    @property
    def gain(self) -> float | None:
        """Share of the oracle's gain over random removal that uncertainty reaches.

        1 is best, 0 is random, below 0 misleads; ``None`` where nothing can be gained.
        """
        possible = float(self.random - self.by_oracle.mean())
        if possible <= 0:
            return None
        return float(self.random - self.by_uncertainty.mean()) / possible


def sparsification(
    uncertainty: NDArray[Any], error: NDArray[Any], num_shares: int = NUM_SHARES
) -> Sparsification:
    """Curves of some voxels.

    Voxels of equal uncertainty cannot be told apart: each counts as their mean error.

    Args:
        uncertainty: Of any scale, ``(voxel,)``, at least one.
        error: Not negative, such as whether a voxel is wrong, ``(voxel,)``.
        num_shares: Points of the curves.
    """
    error = error.astype(np.float64)
    _, group, sizes = np.unique(uncertainty, return_inverse=True, return_counts=True)
    # Groups are in order of rising uncertainty, so what is kept are the first voxels.
    of_groups = np.bincount(group, error) / sizes
    removed = np.arange(num_shares) / num_shares
    kept = np.maximum(np.round((1 - removed) * error.size).astype(int), 1)

    def means_of_kept(errors: NDArray[np.float64]) -> NDArray[np.float64]:
        return errors.cumsum()[kept - 1] / kept

    return Sparsification(
        removed,
        means_of_kept(np.repeat(of_groups, sizes)),
        means_of_kept(np.sort(error)),
        float(error.mean()),
    )
