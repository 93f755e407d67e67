"""How good a mask is, as its own probabilities say: expected Dice without a reference.

For a mask S that was decided from probabilities p, twice the sum of p within S over the
size of S plus the sum of all p: the Dice in which the reference's counts are replaced
by their expectations. Borges et al. 2024, "Soft Dice confidence"
(https://arxiv.org/abs/2402.10665), show that it is close to the true expectation of
Dice where voxels are independent given the image. It is right as far as the
probabilities are, so they should be calibrated first, see `temperature`.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(eq=False)
class ExpectedDice:
    """Sums over the rows of one case, which may come block by block.

    Args:
        num_structures: Whose Dice is expected.
    """

    num_structures: int
    _within: Tensor = field(init=False)
    _masks: Tensor = field(init=False)
    _everywhere: Tensor = field(init=False)

    def __post_init__(self) -> None:
        # Single precision stops counting at 17 million voxels.
        self._within, self._masks, self._everywhere = torch.zeros(
            3, self.num_structures, dtype=torch.float64
        )

    def add(
        self,
        probabilities: Float[Tensor, "structure rows j k"],
        masks: Bool[Tensor, "structure rows j k"],
    ) -> None:
        """Count a block of rows.

        Args:
            probabilities: Of the structures, those that passes agreed on.
            masks: What was decided in the end, rules for components included.
        """
        axes = (1, 2, 3)
        self._within += (probabilities * masks).sum(axes, dtype=torch.float64)
        self._masks += masks.sum(axes, dtype=torch.float64)
        self._everywhere += probabilities.sum(axes, dtype=torch.float64)

    def values(self) -> list[float | None]:
        """Expected Dice per structure, in [0, 1].

        ``None`` where the mask is empty: the true Dice is then 0 or, if the structure
        is not there, not defined, and neither says how good the mask is.
        """
        sums = zip(
            self._within.tolist(),
            self._masks.tolist(),
            self._everywhere.tolist(),
            strict=True,
        )
        return [
            2 * within / (size + everywhere) if size else None
            for within, size, everywhere in sums
        ]
