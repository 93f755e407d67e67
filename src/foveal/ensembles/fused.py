"""Probabilities of all passes over one case, summed up and read row by row.

Passes follow one another, and only sums over them are kept, so the peak of memory does
not grow with their number. A single pass streams by and keeps nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from foveal.ensembles.running_sums import RunningSums, running_sums
from foveal.inference.model import Task
from foveal.inference.predict import rows_at_once
from foveal.inference.restore import (
    decided_classes,
    in_equal_blocks,
    structure_probabilities,
)
from foveal.uncertainty.maps import entropy, variance
from foveal.uncertainty.temperature import tempered

PassRows = Iterator[tuple[int, Float[Tensor, "class _ j k"]]]
"""First row and probabilities of blocks that together cover a case once."""


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
            temperature: Of the mean, see `tempered`.
            wants_spread: Whether to keep how the passes differ.
            most_bytes: That sums may take in memory; ``None``: no limit.
            folder: For sums that do not fit.
        """
        self._passes, self._num_passes = passes, num_passes
        self._num_classes, self._temperature = task.num_classes, temperature
        self._members: Sequence[Sequence[int]] = tuple(task.structures.values())
        self._wants_spread = wants_spread
        self._most_bytes, self._folder = most_bytes, folder
        self.shape = shape
        self.voxels_of_passes: list[Int64[Tensor, " structure"]] = []
        """Per pass, voxels that it alone would give to every structure; known once the
        rows have been read."""

    def rows(self) -> Iterator[FusedRows]:
        """Rows from the first to the last, a few at a time.

        Their probabilities are at the given temperature; the spread
        is of the passes' own.
        """
        for block in self._untempered_rows():
            probabilities = tempered(block.probabilities, self._temperature)
            yield block._replace(probabilities=probabilities)

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
            yield FusedRows(first, block, spread)
            first += block.shape[1]

    def _rows_of_one(self, rows: PassRows) -> Iterator[FusedRows]:
        self._count_next_pass()
        first = 0
        for block in in_equal_blocks((block for _, block in rows), self._count):
            structures = self._counted(block)
            spread = None
            if self._wants_spread:
                nats = entropy(block)
                spread = Spread(torch.zeros_like(structures), nats, nats)
            yield FusedRows(first, block, spread)
            first += block.shape[1]

    @property
    def _count(self) -> int:
        return rows_at_once(self._num_classes, self.shape[1:])

    def _summed(self) -> RunningSums:
        more = len(self._members) + 1 if self._wants_spread else 0
        sums = running_sums(
            self._num_classes + more,
            self.shape,
            most_bytes=self._most_bytes,
            folder=self._folder,
        )
        for share, rows in self._passes:
            self._count_next_pass()
            for first, block in rows:
                structures = self._counted(block)
                if self._wants_spread:
                    quantities = (block, structures.square(), entropy(block)[None])
                    block = torch.cat(quantities)
                sums.add(first, share * block)
        return sums

    def _count_next_pass(self) -> None:
        self.voxels_of_passes.append(torch.zeros(len(self._members), dtype=torch.int64))

    def _counted(self, block: Tensor) -> Float[Tensor, "structure _ j k"]:
        """Structures' probabilities in rows of a pass, whose decisions are counted."""
        decided = decided_classes(block, self._members)
        counts = torch.bincount(decided.flatten(), minlength=self._num_classes)
        self.voxels_of_passes[-1] += torch.stack(
            [counts[list(classes)].sum() for classes in self._members]
        )
        return structure_probabilities(block, self._members)
