"""``validation/calibration.json``: how far a run's probabilities can be trusted."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from foveal import __version__
from foveal.errors import EvaluationError
from foveal.io.files import atomic_write_text
from foveal.metrics.calibration import Calibration
from foveal.uncertainty.sparsification import Sparsification

FORMAT_VERSION = 1

FEWEST_FOR_CORRELATION = 3
"""Pairs of numbers, below which a correlation means nothing."""


@dataclass(frozen=True)
class Reliability:
    """How far one probability can be trusted over some voxels of all cases."""

    ece: float
    excess: float
    """Mean probability less the frequency; above 0: too sure."""

    brier: float
    nll: float
    voxels: list[float]
    """Per bin of the reliability diagram, as are the next two."""

    probabilities: list[float]
    """Sums."""

    hits: list[float]


@dataclass(frozen=True)
class Measured:
    """Structure to reliability, and that of all classes, before and after."""

    before: dict[str, Reliability]
    after: dict[str, Reliability]


@dataclass(frozen=True)
class DicePair:
    """What a case's Dice was and what its probabilities made of it."""

    case: str
    structure: str
    dice: float
    before: float
    """Expected Dice without the temperature."""

    after: float


@dataclass(frozen=True)
class CaseFit:
    """What a temperature that was chosen without a case does in it."""

    case: str
    temperature: float
    nll_before: float
    nll_after: float


@dataclass(frozen=True)
class Correlation:
    """Of expected with true Dice over pairs of case and structure."""

    pairs: int
    pearson: float | None
    """``None`` for fewer than three pairs, or if either never changes."""

    spearman: float | None
    mean_error: float | None
    """Expected less true; ``None`` without a pair."""


@dataclass(frozen=True)
class Curve:
    """Sparsification of all cases' drawn voxels by predictive entropy."""

    removed: list[float]
    by_uncertainty: list[float]
    by_oracle: list[float]
    random: float
    ause: float
    gain: float | None


@dataclass(frozen=True)
class CalibrationRecord:
    """Everything that ``foveal calibrate`` found."""

    temperature: float
    """Chosen on all cases."""

    is_used: bool
    """Whether it helps in cases that it was not chosen on, so that it was kept."""

    p_value: float | None
    """Of Wilcoxon's test of the cases' NLL; ``None`` for a single one."""

    band_mm: float
    near: Measured
    """Within `band_mm` of foreground in the reference or the prediction."""

    everywhere: Measured
    """Over whole volumes."""

    cases: tuple[CaseFit, ...]
    dice: tuple[DicePair, ...]
    """Of structures that were annotated and found."""

    sparsification: Curve

    @property
    def nll_before(self) -> float:
        """Mean over cases, near foreground."""
        return float(np.mean([one.nll_before for one in self.cases]))

    @property
    def nll_after(self) -> float:
        """Likewise, each case at the temperature that was chosen without it."""
        return float(np.mean([one.nll_after for one in self.cases]))

    def correlation(self, when: str) -> Correlation:
        """Of expected with true Dice, ``when`` is ``"before"`` or ``"after"``."""
        expected = [getattr(pair, when) for pair in self.dice]
        return correlation(expected, [pair.dice for pair in self.dice])

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "foveal": __version__,
            **asdict(self),
            "correlation": {
                when: asdict(self.correlation(when)) for when in ("before", "after")
            },
        }


def correlation(expected: Sequence[float], true: Sequence[float]) -> Correlation:
    """How well expected Dice tells true Dice, over as many pairs."""
    error = float(np.subtract(expected, true).mean()) if expected else None
    varies = len(set(expected)) > 1 and len(set(true)) > 1
    if len(expected) < FEWEST_FOR_CORRELATION or not varies:
        return Correlation(len(expected), None, None, error)
    return Correlation(
        len(expected),
        float(stats.pearsonr(expected, true).statistic),
        float(stats.spearmanr(expected, true).statistic),
        error,
    )


def reliability(sums: Mapping[str, Calibration]) -> dict[str, Reliability]:
    """Measures of sums by name; names without a voxel are left out."""
    return {
        name: Reliability(
            one.ece,
            one.excess,
            one.brier,
            one.nll,
            one.voxels.tolist(),
            one.probabilities.tolist(),
            one.hits.tolist(),
        )
        for name, one in sums.items()
        if not math.isnan(one.ece)
    }


def curve(found: Sparsification) -> Curve:
    """A sparsification in plain values."""
    return Curve(
        found.removed.tolist(),
        found.by_uncertainty.tolist(),
        found.by_oracle.tolist(),
        found.random,
        found.ause,
        found.gain,
    )


def write_calibration(path: Path, record: CalibrationRecord) -> None:
    """Write the file in one step."""
    atomic_write_text(path, json.dumps(record.as_record(), indent=2))


def read_calibration(path: Path) -> CalibrationRecord:
    """Read what `write_calibration` wrote.

    Raises:
        EvaluationError: The file is damaged or of another version.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _require_version(found["format_version"])
        return CalibrationRecord(
            temperature=found["temperature"],
            is_used=found["is_used"],
            p_value=found["p_value"],
            band_mm=found["band_mm"],
            near=_measured(found["near"]),
            everywhere=_measured(found["everywhere"]),
            cases=tuple(CaseFit(**one) for one in found["cases"]),
            dice=tuple(DicePair(**one) for one in found["dice"]),
            sparsification=Curve(**found["sparsification"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} is damaged or of another version of Foveal ({error}); delete it, "
            "or make it again with foveal calibrate"
        ) from error


def _require_version(version: object) -> None:
    if version != FORMAT_VERSION:
        raise ValueError(f"format version {version}, not {FORMAT_VERSION}")


def _measured(found: Mapping[str, Any]) -> Measured:
    before, after = (
        {name: Reliability(**one) for name, one in found[when].items()}
        for when in ("before", "after")
    )
    return Measured(before, after)
