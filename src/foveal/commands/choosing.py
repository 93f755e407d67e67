"""Whether something that follows the network helps, on validation cases alone.

Several ways to go on, the first of them doing nothing, are scored in the same cases.
The best one flatters, as it was chosen on the cases that it is scored on; so each case
is also scored with what is best in the cases of the other patients.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from foveal.case import IGNORED
from foveal.config.postprocessing import EvidenceConfig
from foveal.errors import EvaluationError
from foveal.metrics.comparison import (
    FEWEST_CASES,
    Comparison,
    System,
    compare_systems,
    wilcoxon_p,
)
from foveal.metrics.evaluation import Evaluation, Row, summarise
from foveal.postprocessing.search import best, chosen_by_others

LARGEST_P = 0.05
"""Of the paired test, for a gain to count."""

ROWS_AT_ONCE = 8
"""Rows of voxels counted together; bounds the memory."""

DICE = {"dice": "2 TP / (2 TP + FP + FN); both masks empty: 1"}
"""Absent from both is right: removing a false alarm is worth something."""

BEFORE, AFTER = "before", "as others chose"
"""Names in a comparison."""

Structures = Mapping[str, Sequence[int]]
"""Name to the inside classes whose union it is."""


@dataclass(frozen=True)
class TriedCase:
    """A validation case and its Dice in every trial."""

    name: str
    patient: str

    dice: tuple[Mapping[str, float], ...]
    """Per trial, the first with nothing done: annotated structure to Dice."""


@dataclass(frozen=True)
class Verdict:
    """The best trial, and what it is worth."""

    choice: int
    """Best on all cases; 0: nothing is done."""

    cases: tuple[str, ...]
    before: tuple[Mapping[str, float], ...]
    """Per case, structure to Dice with nothing done."""

    after: tuple[Mapping[str, float], ...]
    """With the best trial: chosen on the same cases, so too good."""

    left_out: tuple[Mapping[str, float], ...]
    """With the trial that is best in the other patients' cases."""

    p_value: float | None
    """Of the means over structures, before against left out; ``None`` where there are
    fewer cases than a test needs."""

    helps: bool
    """The gain in left-out cases is above 0 and the test shows it; where there are too
    few cases for a test, no case loses."""

    @property
    def score_before(self) -> float:
        """Mean over structures and cases, as the other two."""
        return _mean(self.before)

    @property
    def score_after(self) -> float:
        """Of the best trial; flatters."""
        return _mean(self.after)

    @property
    def score_left_out(self) -> float:
        """To be expected in other cases."""
        return _mean(self.left_out)

    @property
    def evidence(self) -> EvidenceConfig:
        """For ``postprocessing.toml``; what is to be expected in other cases."""
        return EvidenceConfig(
            cases=self.cases,
            score_before=round(self.score_before, 6),
            score_after=round(self.score_left_out, 6),
            p_value=self.p_value,
        )

    def comparison(self) -> Comparison:
        """Structure by structure, before against left out."""
        structures = tuple(dict.fromkeys(name for case in self.before for name in case))
        systems = [
            System(name, (_evaluation(self.cases, scores, structures),))
            for name, scores in ((BEFORE, self.before), (AFTER, self.left_out))
        ]
        return compare_systems(systems, ["dice"])

    def as_record(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "helps": self.helps,
            "dice_before": self.score_before,
            "dice_after": self.score_after,
            "dice_as_others_chose": self.score_left_out,
            "p_value": self.p_value,
            "cases": [
                {"case": name, "before": dict(a), "after": dict(b), "left_out": dict(c)}
                for name, a, b, c in zip(
                    self.cases, self.before, self.after, self.left_out, strict=True
                )
            ],
        }


def judged(cases: Sequence[TriedCase]) -> Verdict:
    """Choose among trials, and say whether the choice helps.

    Args:
        cases: All with the same trials; of one case no structure may be annotated.

    Raises:
        EvaluationError: The cases with something annotated are of fewer than two
            patients.
    """
    cases = [case for case in cases if case.dice[0]]
    patients = [case.patient for case in cases]
    require_several_patients(patients)
    scores = np.array(
        [[fmean(dice.values()) for dice in case.dice] for case in cases]
    ).T
    choice = best(scores)
    without = chosen_by_others(scores, patients)
    gains = scores[without, np.arange(len(cases))] - scores[0]
    p_value = wilcoxon_p(gains) if len(cases) >= FEWEST_CASES else math.nan
    is_shown = p_value < LARGEST_P if len(cases) >= FEWEST_CASES else gains.min() >= 0
    return Verdict(
        choice=choice,
        cases=tuple(case.name for case in cases),
        before=tuple(case.dice[0] for case in cases),
        after=tuple(case.dice[choice] for case in cases),
        left_out=tuple(
            case.dice[number] for case, number in zip(cases, without, strict=True)
        ),
        p_value=None if math.isnan(p_value) else p_value,
        helps=bool(choice and gains.mean() > 0 and is_shown),
    )


def require_several_patients(patients: Sequence[str]) -> None:
    """Refuse cases on which nothing could be both chosen and checked.

    Raises:
        EvaluationError: They are of fewer than two patients.
    """
    if len(set(patients)) < 2:
        found = f"all are of patient {patients[0]}" if patients else "there are none"
        raise EvaluationError(
            "what follows the network is chosen on validation cases and checked on "
            f"those of other patients, but {found}; give a run with two or more "
            "validation patients (splits.folds), or a cross-validation (--fold all)"
        )


def class_counts(
    prediction: NDArray[np.integer], reference: NDArray[np.integer], num_classes: int
) -> Int64[NDArray[np.integer], "class class"]:
    """Voxels of each predicted class (rows) and true class, where that is known.

    Args:
        prediction: Inside classes ``(i, j, k)``.
        reference: The same; 255 is not known.
        num_classes: Including background.
    """
    counts = np.zeros(num_classes**2, np.int64)
    for first in range(0, len(prediction), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        counts += _pairs(prediction[rows], reference[rows], num_classes)
    return counts.reshape(num_classes, num_classes)


def changed_counts(
    counts: Int64[NDArray[np.integer], "class class"],
    before: NDArray[np.integer],
    after: NDArray[np.integer],
    reference: NDArray[np.integer],
) -> Int64[NDArray[np.integer], "class class"]:
    """The `class_counts` of ``after`` from those of ``before``."""
    if after is before:
        return counts
    places = np.flatnonzero(before != after)
    size = len(counts)
    known = reference.ravel()[places]
    gone = _pairs(before.ravel()[places], known, size)
    come = _pairs(after.ravel()[places], known, size)
    return counts + (come - gone).reshape(size, size)


def dice_of_counts(
    counts: Int64[NDArray[np.integer], "class class"],
    annotated: Sequence[bool] | None,
    structures: Structures,
) -> dict[str, float]:
    """Dice of every annotated structure, see `DICE`.

    Args:
        counts: See `class_counts`.
        annotated: Per structure; ``None``: all.
        structures: In the order of the plan.
    """
    found = {}
    for place, (name, classes) in enumerate(structures.items()):
        if annotated is None or annotated[place]:
            own = list(classes)
            sizes = int(counts[own].sum() + counts[:, own].sum())
            shared = int(counts[np.ix_(own, own)].sum())
            found[name] = 2 * shared / sizes if sizes else 1.0
    return found


def _pairs(
    prediction: NDArray[np.integer], reference: NDArray[np.integer], num_classes: int
) -> Int64[NDArray[np.integer], " pair"]:
    known = reference != IGNORED
    pairs = prediction[known].astype(np.int64) * num_classes + reference[known]
    return np.bincount(pairs, minlength=num_classes**2)


def _mean(cases: Sequence[Mapping[str, float]]) -> float:
    """Over structures, then cases."""
    return fmean(fmean(case.values()) for case in cases)


def _evaluation(
    cases: Sequence[str],
    scores: Sequence[Mapping[str, float]],
    structures: Sequence[str],
) -> Evaluation:
    rows = [
        Row(case, structure, "dice", dice.get(structure, math.nan))
        for case, dice in zip(cases, scores, strict=True)
        for structure in structures
    ]
    return Evaluation(tuple(rows), summarise(rows, structures), definitions=DICE)
