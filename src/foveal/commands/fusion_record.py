"""``fusion.json``: what was fused from what, and how well the sources agree with it."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from foveal import __version__
from foveal.metrics.evaluation import without_nan

RECORD_FILE = "fusion.json"
FORMAT_VERSION = 1

DOUBTFUL_DICE = 0.1
"""Below this a source hardly overlaps with the others: is it the same case at all?"""

CASES_NAMED = 5
"""In a note; the others are in the record."""


@dataclass(frozen=True)
class Agreement:
    """How one source's structure compares with the fusion."""

    voxels: int
    """That the source gives to the structure."""

    dice: float
    """With the fusion; NaN where neither has it."""

    sensitivity: float | None = None
    """As STAPLE estimates it; ``None`` with another method, NaN where not defined."""

    specificity: float | None = None


@dataclass(frozen=True)
class CaseRecord:
    """What became of one case."""

    case: str

    inputs: Mapping[str, Mapping[str, str]]
    """Source to the name of each of its files to a hash of its content (blake2b)."""

    outputs: Mapping[str, str]
    """File, from the folder of the record, to its hash."""

    missing: Mapping[str, Sequence[str]]
    """Structure, or ``""`` for the whole case, to the sources that lacked it."""

    agreement: Mapping[str, Mapping[str, Agreement]]
    """Source to structure (or value of a label map) to how it compares."""

    def mean_dice(self, source: str) -> float:
        """Of a source with the fusion, over structures; NaN if there are none."""
        return _mean(one.dice for one in self.agreement.get(source, {}).values())


@dataclass(frozen=True)
class Fusion:
    """What was fused."""

    method: str

    sources: Mapping[str, str]
    """Name to path, in the order given."""

    weights: Mapping[str, float | Mapping[str, float]]
    """Of each source; empty unless votes are weighted."""

    weights_from: Sequence[str]
    """Files or runs that the weights were read from."""

    cases: tuple[CaseRecord, ...]

    def mean_dice(self, source: str) -> float:
        """Of a source with the fusions, over cases; NaN if there are none."""
        return _mean(case.mean_dice(source) for case in self.cases)

    def mean_performance(self, source: str) -> tuple[float, float]:
        """STAPLE's sensitivity and specificity, over structures and cases."""
        every = [
            one
            for case in self.cases
            for one in case.agreement.get(source, {}).values()
        ]
        nan = float("nan")
        return (
            _mean(nan if one.sensitivity is None else one.sensitivity for one in every),
            _mean(nan if one.specificity is None else one.specificity for one in every),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should look at."""
        return (*self._identical(), *self._doubtful(), *self._lone(), *self._missing())

    def _identical(self) -> list[str]:
        contents: dict[object, list[str]] = {}
        for source in self.sources:
            hashes = [
                (case.case, sorted(case.inputs[source].values()))
                for case in self.cases
                if source in case.inputs
            ]
            contents.setdefault(str(hashes), []).append(source)
        return [
            f"{' and '.join(same)} have the same files, so these votes count more than "
            "once."
            for same in contents.values()
            if len(same) > 1
        ]

    def _doubtful(self) -> list[str]:
        return [
            f"Case {case.case}: {source} hardly overlaps with the others (Dice "
            f"{case.mean_dice(source):.2f} with the fusion); is it the same case?"
            for case in self.cases
            for source in case.agreement
            if case.mean_dice(source) < DOUBTFUL_DICE
        ]

    def _lone(self) -> list[str]:
        """Labels that a source never uses: perhaps it calls them otherwise."""
        users: dict[str, set[str]] = {}
        for case in self.cases:
            for source, structures in case.agreement.items():
                for structure, one in structures.items():
                    users.setdefault(structure, set())
                    if one.voxels:
                        users[structure].add(source)
        return [
            f"{structure} is never found by {', '.join(without)}; is it called so "
            "there?"
            for structure, used in sorted(users.items())
            if used and (without := [one for one in self.sources if one not in used])
        ]

    def _missing(self) -> list[str]:
        lacking = [case.case for case in self.cases if case.missing]
        if not lacking:
            return []
        named = ", ".join(lacking[:CASES_NAMED])
        if len(lacking) > CASES_NAMED:
            named += f" and {len(lacking) - CASES_NAMED} more"
        masks = f"{len(lacking)} case(s), or masks of theirs"
        return [f"{masks}, are fused from fewer sources: {named}."]

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON; NaN is ``None``."""
        record = {
            "format_version": FORMAT_VERSION,
            "foveal": __version__,
            "method": self.method,
            "sources": dict(self.sources),
            "weights": self.weights,
            "weights_from": list(self.weights_from),
            "notes": list(self.notes),
            "cases": [_without_unset(asdict(case)) for case in self.cases],
        }
        plain: dict[str, Any] = without_nan(record)
        return plain

    def to_json(self) -> str:
        """Everything, as a file holds it."""
        return json.dumps(self.as_record(), indent=2, allow_nan=False) + "\n"


def _without_unset(record: dict[str, Any]) -> dict[str, Any]:
    """Without the entries that only STAPLE fills, where another method was used."""
    for structures in record["agreement"].values():
        for one in structures.values():
            for name in [name for name, value in one.items() if value is None]:
                del one[name]
    return record


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return fmean(defined) if defined else float("nan")
