"""One model or several, seen once or many times, that predict a case as one.

A **pass** is one run of one network over the case: every member, in every mirroring and
with every draw of dropout that is asked for.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foveal.case import Case
from foveal.ensembles.fused import Fused, PassRows
from foveal.ensembles.prediction import Prediction, TakeRows, predicted
from foveal.ensembles.voted_passes import FusionRule, as_votes, stapled
from foveal.errors import RunError
from foveal.geometry import reorientation
from foveal.inference.bricks import BYTES_PER_NUMBER
from foveal.inference.dropout import require_dropout
from foveal.inference.memory import MemoryBudget, machine_budget
from foveal.inference.model import Model, Pass, Task
from foveal.postprocessing.steps import NO_STEPS, Steps
from foveal.preprocessing.pipeline import PreprocessedCase, PreprocessingRecipe


@dataclass(frozen=True, eq=False)
class Ensemble:
    """One model, or several whose probabilities are averaged."""

    models: Sequence[Model]
    """At least one. They are asked for one after another, and may be made then."""

    mirror: bool = False
    """Whether every model also sees the case reversed along the axes that its plan
    names, in all combinations."""

    dropout_passes: int | None = None
    """Passes of every model with dropout on, at least 2; ``None``: one with dropout
    off."""

    weights: tuple[float, ...] | None = None
    """Of the models, in their order; ``None``: all alike."""

    fusion: FusionRule = "mean"
    """What is made of all passes. Votes have no temperature."""

    memory_bytes: int | None = None
    """That the process may take; what does not fit waits on disk. ``None``: most of
    what the machine has free."""

    steps: Steps = NO_STEPS
    """What follows the networks."""

    task: Task = field(init=False)
    """What all models predict from what."""

    resample_channels: bool = field(init=False)
    """Whether a case's channels may lie on other grids than the first."""

    num_passes: int = field(init=False)
    """Runs of a network over each case."""

    _passes_of_models: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse models that cannot be averaged.

        Raises:
            RunError: There is none, they differ in what they predict, dropout is asked
                of a network that has none or for a single pass, or mirroring where no
                plan allows it.
            SettingsError: What follows them is meant for other cases.
        """
        if self.dropout_passes is not None and self.dropout_passes < 2:
            raise RunError(
                f"dropout_passes is {self.dropout_passes}, but how sure a network is "
                "shows only where several draws differ; ask for 2 or more, or leave "
                "it out"
            )
        tasks, resample_channels, passes_of_models = [], False, []
        can_mirror = False
        for number in range(len(self.models)):
            model = self.models[number]
            tasks.append(model.task)
            resample_channels |= model.recipe.resample_channels
            can_mirror |= len(model.mirrorings()) > 1
            if self.dropout_passes is not None:
                require_dropout(model.network)
            passes_of_models.append(len(self._passes(model, number)))
            # Its weights go before those of the next are read.
            del model
        num_passes = sum(passes_of_models)
        if not tasks:
            raise RunError("no model is given; name at least one run or model file")
        for other in tasks[1:]:
            for what, mine, theirs in zip(Task._fields, tasks[0], other, strict=True):
                if mine != theirs:
                    raise RunError(
                        f"the models differ in {what.replace('_', ' ')}: {mine} and "
                        f"{theirs}; only models of the same task can be averaged"
                    )
        if self.mirror and not can_mirror:
            raise RunError(
                "mirroring is asked for, but the plan mirrors along no axis "
                "(mirroring.axes), so it would change nothing; leave it out, or train "
                "with axes along which the anatomy may be reversed"
            )
        if self.weights is not None:
            _require_weights(self.weights, len(tasks))
        self.steps.require_fit(
            tasks[0].structures, len(tasks[0].channel_names), tasks[0].num_classes
        )
        _require_fusion(self.fusion, num_passes, has_weights=self.weights is not None)
        object.__setattr__(self, "task", tasks[0])
        object.__setattr__(self, "resample_channels", resample_channels)
        object.__setattr__(self, "num_passes", num_passes)
        object.__setattr__(self, "_passes_of_models", tuple(passes_of_models))

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

    def predict(self, case: Case) -> NDArray[np.integer]:
        """Label map of a case on its own grid, with the user's label values.

        Args:
            case: As `foveal.read_case` gives it.

        Returns:
            ``(i, j, k)`` in stored order.

        Raises:
            CaseError: A model cannot take the case.
        """
        return self.prediction(case).label_map

    def prediction(
        self,
        case: Case,
        *,
        take_rows: TakeRows | None = None,
        wants_spread: bool = False,
        folder: Path | None = None,
    ) -> Prediction:
        """Label map of a case, and what is known of its structures.

        Args:
            case: As `foveal.read_case` gives it.
            take_rows: Also gets the probabilities that are decided on, and how passes
                differ.
            wants_spread: Whether ``take_rows`` wants to know how passes differ.
            folder: For temporary files.

        Raises:
            CaseError: A model cannot take the case, see `Model.prepared`.
        """
        fused = self.fused(case, wants_spread=wants_spread, folder=folder)
        return predicted(fused, case, self.task, self.steps, take_rows)

    def probabilities(self, case: Case) -> Iterator[Float[Tensor, "class _ j k"]]:
        """Mean probabilities of all passes, at the temperature of ``steps``.

        Yields:
            Consecutive blocks of rows of the case's reoriented grid, see `fused`.
        """
        for block in self.fused(case).rows():
            yield block.probabilities

    def fused(
        self, case: Case, *, wants_spread: bool = False, folder: Path | None = None
    ) -> Fused:
        """The case as all passes together see it, to be read once.

        Args:
            case: As `foveal.read_case` gives it.
            wants_spread: Whether to keep how the passes differ.
            folder: For temporary files.
        """
        turn = reorientation(case.grid, self.task.orientation)
        grid = turn.apply_to_grid(case.grid)
        shape = grid.shape
        budget = self._budget(folder)
        kept = self._numbers_kept(wants_spread=wants_spread)
        sums_bytes = kept * math.prod(shape) * BYTES_PER_NUMBER
        budget = replace(budget, sums_bytes=sums_bytes)
        passes, num_passes = self.passes(case, budget), self.num_passes
        members = [
            number
            for number, count in enumerate(self._passes_of_models)
            for _ in range(count)
        ]
        structures = tuple(self.structures.values())
        if self.fusion == "staple":
            rows = stapled(passes, structures, self.task.num_classes, shape)
            passes, num_passes, members = iter([(1.0, rows)]), 1, [0]
        elif self.fusion != "mean":
            passes = as_votes(passes, structures)
        return Fused(
            passes,
            num_passes,
            self.task,
            shape,
            members=members,
            spacing_mm=grid.spacing_mm,
            rules=self.steps.components,
            has_votes=self.fusion in ("majority", "weighted"),
            temperature=self.steps.temperature if self.fusion == "mean" else 1.0,
            wants_spread=wants_spread,
            most_bytes=None if budget.has_sums_in_memory else 0,
            folder=folder,
        )

    def _numbers_kept(self, *, wants_spread: bool) -> int:
        """Per voxel, while passes go on: sums, and what rules will look back at."""
        structures = len(self.structures)
        kept = structures if self.steps.components else 0
        if self.num_passes > 1 and self.fusion != "staple":
            kept += self.task.num_classes
            kept += structures + 1 if wants_spread else 0
        return kept

    def _budget(self, folder: Path | None) -> MemoryBudget:
        budget = machine_budget()
        if self.memory_bytes is not None:
            budget = replace(budget, bytes_in_all=self.memory_bytes)
        return budget if folder is None else replace(budget, folder=folder)

    def passes(
        self, case: Case, memory: MemoryBudget | None = None
    ) -> Iterator[tuple[float, PassRows]]:
        """Every pass over a case, with its share in the mean; shares sum to 1.

        Args:
            case: As `foveal.read_case` gives it.
            memory: What the process may take, see `Model.probabilities`.

        Yields:
            The blocks of a pass are to be read before the next pass is asked for.
        """
        weights = self.weights or (1.0,) * len(self.models)
        held: tuple[PreprocessingRecipe, PreprocessedCase] | None = None
        for number, weight in enumerate(weights):
            model = self.models[number]
            # Members that read a case alike share what was read.
            if held is None or held[0] != model.recipe:
                held = None
                held = model.recipe, model.prepared(case)
            passes = self._passes(model, number)
            share = weight / sum(weights) / len(passes)
            for one_pass in passes:
                yield share, model.probabilities(held[1], one_pass, memory)
            # Its weights go before those of the next are read.
            del model

    def _passes(self, model: Model, number: int) -> list[Pass]:
        seeds = (
            [None] if self.dropout_passes is None else list(range(self.dropout_passes))
        )
        mirrorings = model.mirrorings() if self.mirror else ((),)
        return [Pass(axes, seed, number) for seed in seeds for axes in mirrorings]


def _require_fusion(fusion: FusionRule, num_passes: int, *, has_weights: bool) -> None:
    if fusion != "mean" and num_passes == 1:
        raise RunError(
            f"fusion {fusion} puts several passes together, but there is one; give "
            "more models, mirror, or leave the fusion out"
        )
    if fusion == "weighted" and not has_weights:
        raise RunError("a weighted vote needs the weight of every model")
    if fusion in ("majority", "staple") and has_weights:
        raise RunError(
            f"weights are given, but {fusion} does not use them; leave them out, or "
            "take the weighted vote"
        )


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
