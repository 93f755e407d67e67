"""One model or several, seen once or many times, that predict a case as one.

A **pass** is one run of one network over the case: every member, in every mirroring and
with every draw of dropout that is asked for. Passes follow one another, and only sums
over them are kept, so the peak of memory does not grow with their number. A single pass
streams by and keeps nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.case import Case
from foveal.ensembles.running_sums import RunningSums, running_sums
from foveal.errors import RunError
from foveal.geometry import reorientation
from foveal.inference.model import Model, Pass, Task
from foveal.inference.restore import (
    ROWS_AT_ONCE,
    in_equal_blocks,
    structure_probabilities,
)
from foveal.postprocessing.steps import NO_STEPS, Steps
from foveal.preprocessing.pipeline import PreprocessedCase, PreprocessingRecipe
from foveal.uncertainty.maps import entropy, variance
from foveal.uncertainty.temperature import tempered


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


@dataclass(frozen=True, eq=False)
class Ensemble:
    """One model, or several whose probabilities are averaged."""

    models: Sequence[Model]
    """At least one. They are asked for one after another, and may be made then."""

    mirror: bool = False
    """Whether every model also sees the case reversed along the axes that its plan
    names, in all combinations."""

    dropout_passes: int | None = None
    """Passes of every model with dropout on; ``None``: one with dropout off."""

    weights: tuple[float, ...] | None = None
    """Of the models, in their order; ``None``: all alike."""

    memory_bytes: int | None = None
    """For sums over passes; what does not fit is kept on disk. ``None``: no limit."""

    steps: Steps = NO_STEPS
    """What follows the networks."""

    task: Task = field(init=False)
    """What all models predict from what."""

    resample_channels: bool = field(init=False)
    """Whether a case's channels may lie on other grids than the first."""

    num_passes: int = field(init=False)
    """Runs of a network over each case."""

    def __post_init__(self) -> None:
        """Refuse models that cannot be averaged.

        Raises:
            RunError: There is none, or they differ in what they predict.
        """
        tasks, resample_channels, num_passes = [], False, 0
        for model in self.models:
            tasks.append(model.task)
            resample_channels |= model.recipe.resample_channels
            num_passes += len(self._passes(model))
        if not tasks:
            raise RunError("no model is given; name at least one run or model file")
        for other in tasks[1:]:
            for what, mine, theirs in zip(Task._fields, tasks[0], other, strict=True):
                if mine != theirs:
                    raise RunError(
                        f"the models differ in {what.replace('_', ' ')}: {mine} and "
                        f"{theirs}; only models of the same task can be averaged"
                    )
        if self.weights is not None:
            _require_weights(self.weights, len(tasks))
        object.__setattr__(self, "task", tasks[0])
        object.__setattr__(self, "resample_channels", resample_channels)
        object.__setattr__(self, "num_passes", num_passes)

    @property
    def structures(self) -> Mapping[str, tuple[int, ...]]:
        """Name to the inside classes whose union it is."""
        return self.task.structures

    @property
    def structure_values(self) -> dict[str, tuple[int, ...]]:
        """Name of each structure to its values in label maps."""
        values = self.task.label_values
        return {
            name: tuple(values[number - 1] for number in classes)
            for name, classes in self.structures.items()
        }

    def fused(
        self, case: Case, *, wants_spread: bool = False, folder: Path | None = None
    ) -> "Fused":
        """The case as all passes together see it, to be read once.

        Args:
            case: As `foveal.read_case` gives it.
            wants_spread: Whether to keep how the passes differ.
            folder: For temporary files.

        Raises:
            CaseError: A model cannot take the case, see `Model.prepared`.
            RunError: Dropout is asked for, and a network has none.
        """
        return Fused(self, case, wants_spread=wants_spread, folder=folder)

    def probabilities(self, case: Case) -> Iterator[Float[Tensor, "class _ j k"]]:
        """Mean probabilities of all passes, at the temperature of ``steps``.

        Yields:
            Consecutive blocks of rows of the case's reoriented grid, see `fused`.
        """
        for block in self.fused(case).rows():
            yield block.probabilities

    def passes(self, case: Case) -> Iterator[tuple[float, "PassRows"]]:
        """Every pass over a case, with its share in the mean; shares sum to 1.

        Args:
            case: As `foveal.read_case` gives it.

        Yields:
            The blocks of a pass are to be read before the next pass is asked for.
        """
        weights = self.weights or (1.0,) * len(self.models)
        held: tuple[PreprocessingRecipe, PreprocessedCase] | None = None
        for model, weight in zip(self.models, weights, strict=True):
            # Members that read a case alike share what was read.
            if held is None or held[0] != model.recipe:
                held = None
                held = model.recipe, model.prepared(case)
            passes = self._passes(model)
            share = weight / sum(weights) / len(passes)
            for one_pass in passes:
                yield share, model.probabilities(held[1], one_pass)

    def _passes(self, model: Model) -> list[Pass]:
        seeds = (
            [None] if self.dropout_passes is None else list(range(self.dropout_passes))
        )
        mirrorings = model.mirrorings() if self.mirror else ((),)
        return [Pass(axes, seed) for seed in seeds for axes in mirrorings]


PassRows = Iterator[tuple[int, Float[Tensor, "class _ j k"]]]
"""First row and probabilities of blocks that together cover a case once."""


class Fused:
    """All passes over one case, while they are being summed up and read."""

    def __init__(
        self, ensemble: Ensemble, case: Case, *, wants_spread: bool, folder: Path | None
    ) -> None:
        self._ensemble, self._case = ensemble, case
        self._wants_spread, self._folder = wants_spread, folder
        turn = reorientation(case.grid, ensemble.task.orientation)
        self._grid = turn.apply_to_grid(case.grid)
        self._members = tuple(ensemble.structures.values())
        self.soft_volumes: list[Float[Tensor, " structure"]] = []
        """Per pass, voxels of every structure counted by their probability; known once
        the rows have been read."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the reoriented grid."""
        return self._grid.shape

    def rows(self) -> Iterator[FusedRows]:
        """Rows from the first to the last, a few at a time.

        Their probabilities are at the temperature of the ensemble's steps; the spread
        is of the passes' own.
        """
        temperature = self._ensemble.steps.temperature
        for block in self._untempered_rows():
            probabilities = tempered(block.probabilities, temperature)
            yield block._replace(probabilities=probabilities)

    def _untempered_rows(self) -> Iterator[FusedRows]:
        passes = self._ensemble.passes(self._case)
        if self._ensemble.num_passes == 1:
            ((_, rows),) = passes
            yield from self._rows_of_one(rows)
            return
        sums = self._summed(passes)
        num_classes, num_structures = (
            self._ensemble.task.num_classes,
            len(self._members),
        )
        first = 0
        for block in sums.rows(ROWS_AT_ONCE):
            spread = None
            if self._wants_spread:
                block, squares, entropies = block.split(
                    (num_classes, num_structures, 1)
                )
                means = structure_probabilities(block, self._members)
                spread = Spread(variance(means, squares), entropy(block), entropies[0])
            yield FusedRows(first, block, spread)
            first += block.shape[1]

    def _rows_of_one(self, rows: PassRows) -> Iterator[FusedRows]:
        self.soft_volumes.append(torch.zeros(len(self._members), dtype=torch.float64))
        first = 0
        for block in in_equal_blocks((block for _, block in rows), ROWS_AT_ONCE):
            structures = self._counted(block)
            spread = None
            if self._wants_spread:
                nats = entropy(block)
                spread = Spread(torch.zeros_like(structures), nats, nats)
            yield FusedRows(first, block, spread)
            first += block.shape[1]

    def _summed(self, passes: Iterator[tuple[float, PassRows]]) -> RunningSums:
        num_classes = self._ensemble.task.num_classes
        more = len(self._members) + 1 if self._wants_spread else 0
        budget = self._ensemble.memory_bytes
        sums = running_sums(
            num_classes + more, self.shape, most_bytes=budget, folder=self._folder
        )
        for share, rows in passes:
            self.soft_volumes.append(
                torch.zeros(len(self._members), dtype=torch.float64)
            )
            for first, block in rows:
                structures = self._counted(block)
                if self._wants_spread:
                    quantities = (block, structures.square(), entropy(block)[None])
                    block = torch.cat(quantities)
                sums.add(first, share * block)
        return sums

    def _counted(self, block: Tensor) -> Float[Tensor, "structure _ j k"]:
        """Structures' probabilities, whose sums are kept for the volumes."""
        structures = structure_probabilities(block, self._members)
        self.soft_volumes[-1] += structures.sum(dim=(1, 2, 3), dtype=torch.float64)
        return structures


def _require_weights(weights: Sequence[float], num_models: int) -> None:
    if len(weights) != num_models:
        raise RunError(
            f"{len(weights)} weights are given for {num_models} models; give one each"
        )
    if not all(0 < weight < float("inf") for weight in weights):
        raise RunError(
            f"the weights {', '.join(f'{weight:g}' for weight in weights)} must be "
            "positive numbers; leave out a model that is to have no say"
        )
