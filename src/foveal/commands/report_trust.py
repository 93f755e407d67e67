"""Whether a run's probabilities can be trusted, for its report."""

from pathlib import Path

from foveal.commands.calibrate import gain_in_words
from foveal.commands.calibration_record import (
    CalibrationRecord,
    Correlation,
    Reliability,
    read_calibration,
)
from foveal.metrics.calibration import ALL_CLASSES
from foveal.reports import trust_figures
from foveal.reports.page import Curve, Trust, number

MOST_DIAGRAMS = 4
"""Structures with a reliability diagram of their own, those that are furthest off."""


def trust_of(folder: Path) -> Trust | None:
    """What ``foveal calibrate`` found of a run; ``None`` before it was asked.

    Raises:
        EvaluationError: Its record is damaged.
    """
    path = folder / "validation" / "calibration.json"
    if not path.exists():
        return None
    record = read_calibration(path)
    return Trust(
        summary=gain_in_words(record),
        band_mm=record.band_mm,
        rows=[(name, _measures(record, name)) for name in record.near.before],
        figures=[*_diagrams(record), _scatter(record), _sparsification(record)],
    )


def _measures(record: CalibrationRecord, name: str) -> list[float]:
    near, everywhere = (
        (measured.before[name], measured.after[name])
        for measured in (record.near, record.everywhere)
    )
    return [
        *(one.ece for one in near),
        *(one.brier for one in near),
        *(one.nll for one in near),
        *(one.ece for one in everywhere),
    ]


def _diagrams(record: CalibrationRecord) -> list[Curve]:
    near = record.near
    structures = sorted(
        near.before.keys() - {ALL_CLASSES},
        key=lambda name: near.before[name].ece,
        reverse=True,
    )
    return [
        Curve(
            f"Reliability: {name}",
            f"{_excess(near.before[name])} before, {_excess(near.after[name])} after.",
            trust_figures.reliability_diagram(
                _bins(near.before[name]), _bins(near.after[name])
            ),
        )
        for name in (ALL_CLASSES, *structures[:MOST_DIAGRAMS])
    ]


def _bins(found: Reliability) -> trust_figures.Bins:
    return found.voxels, found.probabilities, found.hits


def _excess(found: Reliability) -> str:
    way = "above" if found.excess > 0 else "below"
    return f"Probability {abs(found.excess):.3f} {way} the frequency"


def _scatter(record: CalibrationRecord) -> Curve:
    when = "after" if record.is_used else "before"
    pairs: dict[str, tuple[list[float], list[float]]] = {}
    for pair in record.dice:
        expected, true = pairs.setdefault(pair.structure, ([], []))
        expected.append(getattr(pair, when))
        true.append(pair.dice)
    with_it = "with" if record.is_used else "without"
    return Curve(
        "Expected and true Dice",
        f"A dot per case, {with_it} the temperature. "
        f"{_in_words(record.correlation(when))}",
        trust_figures.expected_dice_scatter(pairs),
    )


def _in_words(found: Correlation) -> str:
    return (
        f"Pearson {number(found.pearson, 2)}, Spearman {number(found.spearman, 2)} "
        f"over {found.pairs} pairs of case and structure; expected less true "
        f"{number(found.mean_error)} in the mean."
    )


def _sparsification(record: CalibrationRecord) -> Curve:
    curve = record.sparsification
    gain = (
        "Nothing is wrong there."
        if curve.gain is None
        else f"Entropy reaches {curve.gain:.0%} of what could be gained over chance."
    )
    return Curve(
        "Does uncertainty mark errors?",
        f"Voxels near foreground, the least certain removed first. {gain}",
        trust_figures.sparsification_curve(
            curve.removed, curve.by_uncertainty, curve.by_oracle, curve.random
        ),
    )
