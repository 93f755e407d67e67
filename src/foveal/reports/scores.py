"""Scores of validation cases, ordered for a reader who looks for trouble."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from foveal.metrics.bootstrap import mean_interval
from foveal.metrics.evaluation import Evaluation

Scores = Mapping[str, float | None]
"""Metric to value; ``None`` where it is not defined."""


@dataclass(frozen=True)
class CaseScores:
    """Everything measured in one case."""

    name: str

    structures: Mapping[str, Scores]
    """A structure that was not annotated in the case is absent."""

    @property
    def mean_dice(self) -> float | None:
        """Over the structures that have a Dice; ``None`` if none has."""
        return mean_of(scores["dice"] for scores in self.structures.values())

    @property
    def worst_structure(self) -> str | None:
        """With the lowest Dice; ``None`` if no structure has one."""
        dice = {
            structure: scores["dice"]
            for structure, scores in self.structures.items()
            if scores["dice"] is not None
        }
        return min(dice, key=lambda structure: dice[structure] or 0.0, default=None)


@dataclass(frozen=True)
class RunScores:
    """Everything measured in the validation cases of a run, or of all folds."""

    cases: tuple[CaseScores, ...]
    """Lowest mean Dice first; cases without a Dice last."""

    structures: tuple[str, ...]

    definitions: Mapping[str, str]
    """Metric to what it means."""

    notes: tuple[str, ...]

    def mean(self, structure: str, metric: str) -> float | None:
        """Over the cases where the metric is defined; ``None`` if there are none."""
        return mean_of(self.values(structure, metric))

    def values(self, structure: str, metric: str) -> list[float]:
        """Of the cases where the metric is defined."""
        found = (
            case.structures[structure][metric]
            for case in self.cases
            if structure in case.structures
        )
        return [value for value in found if value is not None]

    def interval(self, structure: str, metric: str) -> tuple[float, float] | None:
        """Bootstrap interval of the mean; ``None`` for fewer than two cases."""
        low, high = mean_interval(self.values(structure, metric))
        return None if math.isnan(low) else (low, high)

    @property
    def mean_dice(self) -> float | None:
        """Mean over structures of their mean over cases."""
        return mean_of(self.mean(structure, "dice") for structure in self.structures)


@dataclass(frozen=True)
class FoldScores:
    """One line of the table that compares folds."""

    name: str
    num_steps: int
    """Made so far."""

    best_step: int | None
    """Of the checkpoint that predicts; ``None`` before the first validation."""

    scores: RunScores | None
    """``None`` before the fold's cases were measured."""


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of what is defined; ``None`` if nothing is."""
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def ordered_scores(evaluation: Evaluation) -> RunScores:
    """What was measured, worst case first."""
    by_case: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in evaluation.rows:
        structures = by_case.setdefault(row.case, {})
        value = None if math.isnan(row.value) else row.value
        structures.setdefault(row.structure, {})[row.metric] = value
    cases = [CaseScores(name, structures) for name, structures in by_case.items()]
    return RunScores(
        cases=tuple(sorted(cases, key=_badness)),
        structures=evaluation.structures,
        definitions=evaluation.definitions,
        notes=evaluation.notes,
    )


def _badness(case: CaseScores) -> tuple[bool, float, str]:
    return case.mean_dice is None, case.mean_dice or 0.0, case.name
