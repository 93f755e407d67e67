"""Are the predictions of one system better than those of another? Paired by case."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from foveal.errors import EvaluationError, listed
from foveal.metrics.bootstrap import mean_interval
from foveal.metrics.evaluation import Evaluation, without_nan

FORMAT_VERSION = 1

COMPARED = ("dice", "hd95_mm", "assd_mm")
"""Metrics that are compared unless others are named."""

HIGHER_IS_BETTER = {
    "dice": True,
    "iou": True,
    "sensitivity": True,
    "specificity": True,
    "precision": True,
    "hd_mm": False,
    "hd95_mm": False,
    "assd_mm": False,
}
"""Of the others neither end is the better one."""

DEFINITIONS = {
    "difference": "mean over cases of the system's value less the first system's",
    "interval": "95 % percentile bootstrap of it, cases redrawn 10,000 times",
    "effect": "Cohen's d of pairs: mean of the differences over their deviation",
    "better": "cases in which the system is better than the first; ties do not count",
    "wilcoxon_p": "two-sided signed-rank test of the differences, zeros left out",
    "t_test_p": "two-sided paired t-test",
    "holm": "p adjusted by Holm's method for all tests of its kind made here",
    "seeds": "averaged per case first; their deviation is that of their means",
    "undefined": "a case counts where the metric is defined in every evaluation",
}
"""What the numbers of a comparison mean, in a line each."""

ROUNDING = 1e-12
"""Differences below this part of the values are none."""

FEWEST_CASES = 6
"""With fewer pairs no signed-rank test can give a p below 0.05."""


@dataclass(frozen=True)
class System:
    """Something that predicted every case, maybe with several seeds."""

    name: str

    evaluations: tuple[Evaluation, ...]
    """One per seed."""


@dataclass(frozen=True)
class Mean:
    """A system's mean over the cases that count."""

    mean: float

    seed_deviation: float
    """Of the seeds' means, as of a sample (n - 1); NaN for one seed."""


@dataclass(frozen=True)
class Difference:
    """One metric of one structure, a system against the first. NaN: not defined."""

    structure: str
    metric: str
    system: str

    first: Mean
    second: Mean

    differences: Mapping[str, float]
    """Case to the system's value less the first system's, averaged over seeds."""

    num_left_out: int
    """Cases where the metric is not defined in every evaluation."""

    num_one_sided: int
    """Of these, where it is defined in some: with an empty reference, for example, the
    Dice of a prediction is 0 and that of no prediction is not defined."""

    mean_difference: float
    interval: tuple[float, float]
    effect: float

    num_better: int | None
    """``None`` where neither end of the metric is the better one."""

    num_worse: int | None
    wilcoxon_p: float
    t_test_p: float
    wilcoxon_p_holm: float = math.nan
    t_test_p_holm: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """Systems compared with the first of them."""

    systems: tuple[str, ...]
    num_seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    structures: tuple[str, ...]

    differences: tuple[Difference, ...]
    """By system, then metric, then structure."""

    notes: tuple[str, ...]

    def find(
        self, structure: str, metric: str, system: str | None = None
    ) -> Difference:
        """The difference of one metric of one structure.

        Args:
            structure: As in the evaluations.
            metric: One of those compared.
            system: Unset: the second.

        Raises:
            KeyError: It was not compared.
        """
        wanted = (structure, metric, system or self.systems[1])
        for entry in self.differences:
            if (entry.structure, entry.metric, entry.system) == wanted:
                return entry
        raise KeyError(f"{metric} of {structure} was not compared")

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON; NaN is ``None``."""
        return {
            "format_version": FORMAT_VERSION,
            "definitions": DEFINITIONS,
            "systems": [
                {"name": name, "num_seeds": count}
                for name, count in zip(self.systems, self.num_seeds, strict=True)
            ],
            "differences": [without_nan(asdict(entry)) for entry in self.differences],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Everything, with the definitions; NaN is null."""
        return json.dumps(self.as_record(), indent=2, allow_nan=False) + "\n"


def compare_systems(
    systems: Sequence[System], metrics: Sequence[str] = COMPARED
) -> Comparison:
    """Compare every system with the first, structure by structure.

    Args:
        systems: Two or more; all their evaluations measured the same structures of the
            same cases against the same references.
        metrics: Names as in `Evaluation.definitions`.

    Raises:
        EvaluationError: The evaluations differ in cases, structures, references or
            definitions, or a metric was not measured.
    """
    _require_comparable(systems, metrics)
    values = {
        (system.name, structure, metric): _values(system, structure, metric)
        for system in systems
        for structure in systems[0].evaluations[0].structures
        for metric in metrics
    }
    structures = systems[0].evaluations[0].structures
    differences = [
        _difference(
            structure,
            metric,
            system.name,
            values[systems[0].name, structure, metric],
            values[system.name, structure, metric],
        )
        for system in systems[1:]
        for metric in metrics
        for structure in structures
    ]
    wilcoxon = holm([entry.wilcoxon_p for entry in differences])
    t_test = holm([entry.t_test_p for entry in differences])
    differences = [
        replace(entry, wilcoxon_p_holm=rank_p, t_test_p_holm=t_p)
        for entry, rank_p, t_p in zip(differences, wilcoxon, t_test, strict=True)
    ]
    return Comparison(
        systems=tuple(system.name for system in systems),
        num_seeds=tuple(len(system.evaluations) for system in systems),
        metrics=tuple(metrics),
        structures=structures,
        differences=tuple(differences),
        notes=tuple(_notes(differences)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values so that all of them together keep the level.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is smaller
    than one before it, and none above 1. NaN stays NaN and does not count.

    References:
        Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    order = sorted(
        (index for index, p in enumerate(p_values) if not math.isnan(p)),
        key=lambda index: p_values[index],
    )
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _values(
    system: System, structure: str, metric: str
) -> dict[str, tuple[float, ...]]:
    """Case to one value per seed."""
    by_seed = [
        {
            row.case: row.value
            for row in evaluation.rows
            if row.structure == structure and row.metric == metric
        }
        for evaluation in system.evaluations
    ]
    return {case: tuple(seed[case] for seed in by_seed) for case in by_seed[0]}


def _difference(
    structure: str,
    metric: str,
    system: str,
    first: Mapping[str, tuple[float, ...]],
    second: Mapping[str, tuple[float, ...]],
) -> Difference:
    """Compare two systems in the cases where both are defined with every seed."""
    counted = [
        case for case in first if not any(map(math.isnan, first[case] + second[case]))
    ]
    # Exact sums: equal values stay equal in whatever order the seeds are given.
    paired = {case: fmean(second[case]) - fmean(first[case]) for case in counted}
    differences = np.array(list(paired.values()), np.float64)
    magnitude = max(
        (abs(value) for case in counted for value in first[case] + second[case]),
        default=0.0,
    )
    differences[np.abs(differences) <= ROUNDING * magnitude] = 0.0
    num_better, num_worse = _wins(differences, metric)
    return Difference(
        structure=structure,
        metric=metric,
        system=system,
        first=_mean([first[case] for case in counted]),
        second=_mean([second[case] for case in counted]),
        differences=dict(zip(counted, differences.tolist(), strict=True)),
        num_left_out=len(first) - len(counted),
        num_one_sided=sum(
            not all(map(math.isnan, first[case] + second[case]))
            for case in first.keys() - set(counted)
        ),
        mean_difference=fmean(differences) if counted else math.nan,
        interval=mean_interval(differences.tolist()),
        effect=_effect(differences),
        num_better=num_better,
        num_worse=num_worse,
        wilcoxon_p=wilcoxon_p(differences),
        t_test_p=_t_test_p(differences),
    )


def _mean(values: Sequence[tuple[float, ...]]) -> Mean:
    """Mean over cases, and its deviation between seeds."""
    if not values:
        return Mean(math.nan, math.nan)
    of_seeds = [fmean(seed) for seed in zip(*values, strict=True)]
    deviation = float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else math.nan
    return Mean(fmean(of_seeds), deviation)


def _wins(
    differences: NDArray[np.float64], metric: str
) -> tuple[int | None, int | None]:
    if metric not in HIGHER_IS_BETTER:
        return None, None
    above = int(np.count_nonzero(differences > 0))
    below = int(np.count_nonzero(differences < 0))
    return (above, below) if HIGHER_IS_BETTER[metric] else (below, above)


def _effect(differences: NDArray[np.float64]) -> float:
    """0 where nothing differs; NaN for a single case or equal differences."""
    if len(differences) < 2:
        return math.nan
    if not differences.any():
        return 0.0
    if _are_equal(differences):
        return math.nan
    return float(differences.mean() / differences.std(ddof=1))


def wilcoxon_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of paired differences by Wilcoxon's signed ranks.

    Returns:
        1 where nothing differs; NaN without two cases.
    """
    if len(differences) < 2:
        return math.nan
    if not differences.any():
        return 1.0
    # With zeros SciPy takes the normal distribution, whose p is too small for a few.
    return float(stats.wilcoxon(differences[differences != 0]).pvalue)


def _t_test_p(differences: NDArray[np.float64]) -> float:
    """1 where nothing differs; NaN without two cases, or if all differ equally."""
    if len(differences) < 2:
        return math.nan
    if not differences.any():
        return 1.0
    if _are_equal(differences):
        return math.nan
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _are_equal(values: NDArray[np.float64]) -> bool:
    """Whether values differ by rounding only, so that they have no deviation."""
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _require_comparable(systems: Sequence[System], metrics: Sequence[str]) -> None:
    if len(systems) < 2:
        raise EvaluationError(
            "there is one system only; give two or more to compare, for example "
            "foveal compare A.json B.json"
        )
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise EvaluationError(
            f"two systems have the same name among {names}; name them with --name"
        )
    first = systems[0].evaluations[0]
    unknown = [metric for metric in metrics if metric not in first.definitions]
    if unknown:
        raise EvaluationError(
            f"{unknown[0]} was not measured; there are {', '.join(first.definitions)}"
        )
    first_name = _seed_name(systems[0], 0)
    for system in systems:
        for seed, evaluation in enumerate(system.evaluations):
            name = _seed_name(system, seed)
            _require_same(first_name, first, name, evaluation, metrics)


def _seed_name(system: System, seed: int) -> str:
    """How a message calls one evaluation of a system."""
    if len(system.evaluations) == 1:
        return system.name
    return f"{system.name} (number {seed + 1})"


def _require_same(
    first_name: str,
    first: Evaluation,
    second_name: str,
    second: Evaluation,
    metrics: Sequence[str],
) -> None:
    for metric in metrics:
        definitions = first.definitions[metric], second.definitions.get(metric)
        if definitions[0] != definitions[1]:
            raise EvaluationError(
                f"{metric} is defined differently: in {first_name} as "
                f'"{definitions[0]}", in {second_name} as "{definitions[1]}"; measure '
                "both with the same version of foveal evaluate"
            )
    _require_same_names(
        "structures", first_name, first.structures, second_name, second.structures
    )
    _require_same_names("cases", first_name, first.cases, second_name, second.cases)
    _require_same_references(first_name, first, second_name, second)


def _require_same_names(
    what: str,
    first_name: str,
    first: Iterable[str],
    second_name: str,
    second: Iterable[str],
) -> None:
    only_first = [name for name in first if name not in set(second)]
    only_second = [name for name in second if name not in set(first)]
    if only_first or only_second:
        parts = [
            f"{listed(names)} only in {where}"
            for names, where in ((only_first, first_name), (only_second, second_name))
            if names
        ]
        raise EvaluationError(
            f"the {what} differ: {'; '.join(parts)}. A paired comparison needs the "
            f"same {what}; evaluate all systems on the same ones"
        )


def _require_same_references(
    first_name: str, first: Evaluation, second_name: str, second: Evaluation
) -> None:
    """Refuse evaluations that were not measured against the same segmentations."""
    sizes = _reference_sizes(first), _reference_sizes(second)
    for case, structure in sorted(sizes[0].keys() | sizes[1].keys()):
        found = [of.get((case, structure), "not measured") for of in sizes]
        if found[0] != found[1]:
            raise EvaluationError(
                f"case {case}: the reference of {structure} is {found[0]} in "
                f"{first_name} but {found[1]} in {second_name}; measure both against "
                "the same references"
            )


def _reference_sizes(evaluation: Evaluation) -> dict[tuple[str, str], str]:
    """Size of the reference of every case and structure, in words."""
    sizes = {(row.case, row.structure): "of unknown size" for row in evaluation.rows}
    for row in evaluation.rows:
        if row.metric == "reference_voxels":
            sizes[row.case, row.structure] = f"{row.value:.0f} voxels"
    return sizes


def _notes(differences: Iterable[Difference]) -> list[str]:
    notes = []
    for entry in differences:
        count = len(entry.differences)
        what = f"{entry.metric} of {entry.structure} ({entry.system})"
        if entry.num_left_out:
            one_sided = (
                f" In {entry.num_one_sided} of them it is defined for some of the "
                "predictions: look at these yourself."
            )
            notes.append(
                f"{what}: {entry.num_left_out} of {count + entry.num_left_out} cases "
                "are left out, as the metric is not defined in every evaluation."
                + one_sided
                * bool(entry.num_one_sided)
            )
        differing = sum(value != 0 for value in entry.differences.values())
        if count >= 2 and not differing:
            notes.append(f"{what}: no case differs, so p is 1 in both tests.")
        elif differing < FEWEST_CASES:
            notes.append(
                f"{what}: {differing} of {count} cases differ, too few to show a "
                "difference; no signed-rank test of fewer than 6 gives a p below 0.05."
            )
    return notes
