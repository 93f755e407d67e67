"""Probabilities of all passes over one case, summed up and read row by row.

Passes follow one another, and only sums over them are kept, so the peak of memory does
not grow with their number. A single pass streams by and keeps nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foveal.ensembles.running_sums import RunningSums, running_sums
from foveal.inference.model import Task
from foveal.inference.predict import rows_at_once
from foveal.inference.restore import (
    decided_classes,
    in_equal_blocks,
    structure_probabilities,
)
from foveal.postprocessing.components import ComponentRule, with_component_rules
from foveal.uncertainty.maps import entropy, variance
from foveal.uncertainty.temperature import tempered

PassRows = Iterator[tuple[int, Float[Tensor, "class _ j k"]]]
"""First row and probabilities of blocks that together cover a case once."""


STEP_OF_VOTES = 2.0**-20
"""Shares of votes are rounded to it, so that a tie is one, however sums are rounded."""


class Spread(NamedTuple):
    """How the passes differ, voxel by voxel, before any temperature or CRF."""

    variance: Float[Tensor, "structure rows j k"]
    """Of every structure's probability; 0 for one pass."""

    predictive_entropy: Float[Tensor, "rows j k"]
    """Of the mean over passes, in nats."""

    expected_entropy: Float[Tensor, "rows j k"]
    """Mean over passes of the entropy of each, in nats."""


class FusedRows(NamedTuple):
    """Consecutive rows of all passes together."""

    first: int
    """Number of the first row along the first axis of the reoriented grid."""

    probabilities: Float[Tensor, "class rows j k"]
    """Mean over passes."""

    spread: Spread | None
    """``None`` unless it was asked for."""


class Fused:
    """All passes over one case, while they are being summed up and read."""

    def __init__(
        self,
        passes: Iterator[tuple[float, PassRows]],
        num_passes: int,
        task: Task,
        shape: tuple[int, int, int],
        *,
        members: Sequence[int] | None = None,
        spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
        rules: Sequence[ComponentRule] = (),
        has_votes: bool = False,
        temperature: float = 1.0,
        wants_spread: bool = False,
        most_bytes: int | None = None,
        folder: Path | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            passes: Each with its share in the mean; shares sum to 1. The blocks of one
                are read before the next is asked for.
            num_passes: How many there are.
            task: What they predict.
            shape: Of the case, reoriented.
            members: Number of the model of every pass; ``None``: all of one.
            spacing_mm: Of the case, reoriented.
            rules: For components, which count in the volumes of passes.
            has_votes: Whether passes vote, see `as_votes`.
            temperature: Of the mean, see `tempered`.
            wants_spread: Whether to keep how the passes differ.
            most_bytes: That sums may take in memory; ``None``: no limit.
            folder: For sums that do not fit.
        """
        self._passes, self._num_passes = passes, num_passes
        self._num_classes, self._temperature = task.num_classes, temperature
        self._structures = task.structures
        self._members: Sequence[Sequence[int]] = tuple(task.structures.values())
        self._wants_spread = wants_spread
        self._most_bytes, self._folder = most_bytes, folder
        self._spacing_mm, self._has_votes = spacing_mm, has_votes
        self._rules = rules
        self._models = members or (0,) * num_passes
        self._shares: list[float] = []
        self.shape = shape
        self.voxels_of_passes: list[list[int]] = []
        """Per pass, voxels that it alone would give to every structure, rules for
        components included; known once the rows of several passes have been read."""

    def rows(self) -> Iterator[FusedRows]:
        """Rows from the first to the last, a few at a time.

        Their probabilities are at the given temperature; the spread
        is of the passes' own.
        """
        for block in self._untempered_rows():
            probabilities = tempered(block.probabilities, self._temperature)
            yield block._replace(probabilities=probabilities)

    def volumes(self) -> tuple[list[float], Float[Tensor, "draw structure"]]:
        """Voxels of every structure in independent draws, and the draws' shares.

        A draw is a model, with the mean over its passes, which are alike; where there
        is one model only, it is a pass. Known once the rows have been read; none for a
        single pass.
        """
        if len(set(self._models)) == 1:
            return self._shares, torch.tensor(self.voxels_of_passes).double()
        passes = torch.tensor(self.voxels_of_passes).double()
        shares = torch.tensor(self._shares).double()
        of_models, means = [], []
        for model in dict.fromkeys(self._models):
            is_own = torch.tensor([one == model for one in self._models])
            of_models.append(float(shares[is_own].sum()))
            means.append((shares[is_own] @ passes[is_own]) / of_models[-1])
        return of_models, torch.stack(means)

    def kept_rows(self, num_quantities: int) -> RunningSums:
        """Room for more numbers per voxel, where there is room for the sums."""
        return running_sums(
            num_quantities,
            self.shape,
            most_bytes=self._most_bytes,
            folder=self._folder,
        )

    def _untempered_rows(self) -> Iterator[FusedRows]:
        if self._num_passes == 1:
            _, rows = next(self._passes)
            yield from self._rows_of_one(rows)
            return
        sums = self._summed()
        parts = (self._num_classes, len(self._members), 1)
        first = 0
        for block in sums.rows(self._count):
            spread = None
            if self._wants_spread:
                block, squares, entropies = block.split(parts)
                means = structure_probabilities(block, self._members)
                spread = Spread(variance(means, squares), entropy(block), entropies[0])
            if self._has_votes:
                block = (block / STEP_OF_VOTES).round() * STEP_OF_VOTES
            yield FusedRows(first, block, spread)
            first += block.shape[1]

    def _rows_of_one(self, rows: PassRows) -> Iterator[FusedRows]:
        first = 0
        for block in in_equal_blocks((block for _, block in rows), self._count):
            spread = None
            if self._wants_spread:
                nats = entropy(block)
                structures = structure_probabilities(block, self._members)
                spread = Spread(torch.zeros_like(structures), nats, nats)
            yield FusedRows(first, block, spread)
            first += block.shape[1]

    @property
    def _count(self) -> int:
        return rows_at_once(self._num_classes, self.shape[1:])

    def _summed(self) -> RunningSums:
        more = len(self._members) + 1 if self._wants_spread else 0
        sums = self.kept_rows(self._num_classes + more)
        classes = np.empty(self.shape, np.uint8)
        for share, rows in self._passes:
            for first, block in rows:
                classes[first : first + block.shape[1]] = self._decided(block)
                if self._wants_spread:
                    structures = structure_probabilities(block, self._members)
                    quantities = (block, structures.square(), entropy(block)[None])
                    block = torch.cat(quantities)
                sums.add(first, share * block)
            self._shares.append(share)
            self._count_voxels(classes)
        return sums

    def _decided(self, block: Tensor) -> NDArray[np.int64]:
        if any(len(classes) > 1 for classes in self._members):
            # Elsewhere the most probable class is that at any temperature.
            block = tempered(block, self._temperature)
        return decided_classes(block, self._members).numpy()

    def _count_voxels(self, classes: NDArray[np.uint8]) -> None:
        """Count what a pass alone would give to every structure."""
        ruled = with_component_rules(
            classes, self._rules, self._structures, self._spacing_mm
        )
        counts = np.bincount(ruled.ravel(), minlength=self._num_classes)
        self.voxels_of_passes.append(
            [int(counts[list(one)].sum()) for one in self._members]
        )
