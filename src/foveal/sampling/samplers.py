"""Which case a training patch comes from, and where in it.

What is drawn is what a network predicts: a patch, or, for networks that put out less
than they take in, the window in its middle. A case is drawn first, then what the patch
is for, then the voxel it is drawn around.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from foveal.errors import SamplingError
from foveal.sampling.cases import SampledCase
from foveal.sampling.laws import Category, Law
from foveal.sampling.patches import corner_around
from foveal.sampling.voxels import Voxels, VoxelTable, voxel_tables


class Draw(NamedTuple):
    """One patch of one case."""

    case_index: int
    """Place of the case in the sequence it was drawn from."""

    corner: tuple[int, int, int]
    """First voxel; negative along an axis shorter than the patch."""

    centre: tuple[int, int, int] | None = None
    """Voxel that the patch was drawn around; ``None`` if the sampler does not say."""

    category: str = ""
    """What the patch was drawn for."""

    error_step: int | None = None
    """Of an adaptive sampler: updates behind the weights that made the case's error
    map; ``None``: it has none yet, so its error is 1 everywhere."""

    acceptance: float | None = None
    """Of an adaptive sampler: share of the base sampler's draws that it accepts."""


class Place(NamedTuple):
    """Where a patch is drawn, and what for."""

    case_index: int
    category: Category
    voxel: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class BaseSampler:
    """Draws a case, every one equally likely, and in it by a law."""

    law: Law
    _tables: "_Tables" = field(default_factory=lambda: _Tables())

    def draw(
        self,
        cases: Sequence[SampledCase],
        patch_size: Sequence[int],
        generator: torch.Generator,
    ) -> Draw:
        """Draw a patch.

        Args:
            cases: At least one, with different names.
            patch_size: In voxels.
            generator: The only source of randomness.
        """
        place = self.place(cases, patch_size, generator)
        return patch_at(cases, place, patch_size)

    def place(
        self,
        cases: Sequence[SampledCase],
        patch_size: Sequence[int],
        generator: torch.Generator,
    ) -> Place:
        """Draw the voxel that a patch is to lie around, see `draw`."""
        case_index = int(torch.randint(len(cases), (), generator=generator))
        case = cases[case_index]
        categories = self.categories(case, patch_size)
        chances = [category.chance for category in categories]
        category = categories[drawn_index(chances, generator)]
        voxel = self.voxel(case, category.voxels, generator)
        return Place(case_index, category, voxel)

    def voxel(
        self, case: SampledCase, voxels: Voxels, generator: torch.Generator
    ) -> tuple[int, int, int]:
        """Draw one voxel of a set, by its weights."""
        drawn = voxels.drawn(case, generator)
        if drawn is not None:
            return drawn
        return self._tables.of(case, voxels).voxel(
            uniform(generator), lambda window: voxels.weights(case, window)
        )

    def categories(
        self, case: SampledCase, patch_size: Sequence[int]
    ) -> Sequence[Category]:
        """What patches of a case are drawn for."""
        i, j, k = patch_size
        return self.law(case, (i, j, k))

    def total(self, case: SampledCase, voxels: Voxels) -> float:
        """Sum of the weights of a case's voxels."""
        known = voxels.total(case)
        return self._tables.of(case, voxels).total if known is None else known


class _Tables:
    """Tables of sets of voxels that have no faster way, made when first needed."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, Voxels], VoxelTable] = {}
        self._lock = threading.Lock()

    def of(self, case: SampledCase, voxels: Voxels) -> VoxelTable:
        key = case.name, voxels
        with self._lock:
            if key not in self._made:
                (made,) = voxel_tables(case.shape, [partial(voxels.weights, case)])
                if not made.total:
                    raise SamplingError(
                        f"case {case.name}: no voxel may be drawn, as its mask or "
                        "weight map is 0 everywhere; correct it, or choose another "
                        "sampling.sampler"
                    )
                self._made[key] = made
            return self._made[key]


def patch_at(
    cases: Sequence[SampledCase], place: Place, patch_size: Sequence[int]
) -> Draw:
    """The patch around a voxel, shifted no more than needed to stay inside."""
    shape = cases[place.case_index].shape
    return Draw(
        place.case_index,
        corner_around(place.voxel, patch_size, shape),
        place.voxel,
        place.category.name,
    )


def uniform(generator: torch.Generator) -> float:
    """A number in [0, 1)."""
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def drawn_index(weights: Sequence[float], generator: torch.Generator) -> int:
    """One of the indices, as likely as its weight; takes one number."""
    ends = np.cumsum(weights)
    place = int(np.searchsorted(ends, uniform(generator) * ends[-1], side="right"))
    # Rounding may lead beyond the last index that has a weight.
    return min(place, int(np.searchsorted(ends, ends[-1], side="left")))
