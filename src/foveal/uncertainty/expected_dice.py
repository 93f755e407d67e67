"""How good a mask is, as its own probabilities say: expected Dice without a reference.

For a mask S that was decided from probabilities p, twice the sum of p within S over the
size of S plus the sum of p near foreground: the Dice in which the reference's counts
are replaced by their expectations. Borges et al. 2024, "Soft Dice confidence"
(https://arxiv.org/abs/2402.10665), show that it is close to the true expectation of
Dice where voxels are independent given the image. It is right as far as the
probabilities are, so they should be calibrated first, see `temperature`.

Differs: they sum over the whole image. But a temperature is chosen on voxels near
foreground, and what little it leaves to millions of voxels far away would add up, so
that the same outline got less in a larger field of view. Near is a cell of `BAND_MM`
that holds foreground, of any structure, or touches a cell that does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

BAND_MM = 5.0
"""About foreground; the same as that of calibration."""


@dataclass(eq=False)
class ExpectedDice:
    """Sums over the rows of one case, which may come block by block.

    Args:
        num_structures: Whose Dice is expected.
        spacing_mm: Of the rows' grid.
    """

    num_structures: int
    spacing_mm: Sequence[float]
    _within: Tensor = field(init=False)
    _masks: Tensor = field(init=False)
    _near: Tensor = field(init=False)
    _row: int = 0
    _slabs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Layers of cells that may still turn out to be near: probabilities in every cell,
    ``(structure, j, k)``, and whether it holds foreground."""

    _found_before: Tensor = field(default_factory=lambda: torch.tensor(False))

    def __post_init__(self) -> None:
        # Single precision stops counting at 17 million voxels.
        self._within, self._masks, self._near = torch.zeros(
            3, self.num_structures, dtype=torch.float64
        )
        self._cell = [max(1, round(BAND_MM / step)) for step in self.spacing_mm]

    def add(
        self,
        probabilities: Float[Tensor, "structure rows j k"],
        masks: Bool[Tensor, "structure rows j k"],
    ) -> None:
        """Count a block of rows, which follows the one before.

        Args:
            probabilities: Of the structures, those that passes agreed on.
            masks: What was decided in the end, rules for components included.
        """
        axes = (1, 2, 3)
        self._within += (probabilities * masks).sum(axes, dtype=torch.float64)
        self._masks += masks.sum(axes, dtype=torch.float64)
        foreground = masks.any(dim=0).float()
        for row in range(probabilities.shape[1]):
            sums = self._in_cells(probabilities[:, row])
            found = self._in_cells(foreground[row]) > 0
            if self._row % self._cell[0]:
                before, found_before = self._slabs[-1]
                self._slabs[-1] = before + sums, found_before | found
            else:
                self._slabs.append((sums, found))
                if len(self._slabs) == 3:
                    self._near += self._near_sums(0)
                    self._found_before = self._slabs.pop(0)[1]
            self._row += 1

    def _in_cells(self, rows: Float[Tensor, "*_ j k"]) -> Float[Tensor, "*_ jj kk"]:
        """Sums over the cells of a row."""
        _, along_j, along_k = self._cell
        missing = (-rows.shape[-1] % along_k, -rows.shape[-2] % along_j)
        padded = F.pad(rows, (0, missing[0], 0, missing[1]))
        narrow = padded.unflatten(-1, (-1, along_k)).sum(dim=-1)
        return narrow.unflatten(-2, (-1, along_j)).sum(dim=-2)

    def _near_sums(self, number: int) -> Float[Tensor, " structure"]:
        """Probabilities in the cells of a slab that are near foreground."""
        sums, found = self._slabs[number]
        before = self._slabs[number - 1][1] if number else self._found_before
        near = found | before
        if number + 1 < len(self._slabs):
            near = near | self._slabs[number + 1][1]
        # One cell further along both axes.
        near = F.max_pool2d(near[None].float(), 3, stride=1, padding=1)[0] > 0
        return (sums * near).sum((1, 2), dtype=torch.float64)

    def values(self) -> list[float | None]:
        """Expected Dice per structure, in [0, 1].

        ``None`` where the mask is empty: the true Dice is then 0 or, if the structure
        is not there, not defined, and neither says how good the mask is.
        """
        near = self._near.clone()
        for number in range(len(self._slabs)):
            near += self._near_sums(number)
        sums = zip(
            self._within.tolist(), self._masks.tolist(), near.tolist(), strict=True
        )
        return [
            2 * within / (size + of_all) if size else None
            for within, size, of_all in sums
        ]
