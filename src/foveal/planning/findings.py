"""What is wrong or odd about a data set; what many cases share is told once."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MANY_CASES = 10
"""What more cases than this share is one finding of the data set."""

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd."""

    kind: str
    """The same words for the same thing in every case, for example ``"spacing"``."""

    severity: Severity
    """``"error"``: training would fail, or its test be worthless. ``"warning"``:
    somebody should look. ``"note"``: good to know, nothing to mend."""

    what: str
    why: str
    """What would come of it."""

    remedy: str

    cases: tuple[str, ...] = ()
    """Concerned; none: the data set as a whole."""

    structure: str | None = None
    """Concerned, if it is one."""

    @property
    def case(self) -> str | None:
        """The only case concerned; ``None``: several, or the data set as a whole."""
        return self.cases[0] if len(self.cases) == 1 else None

    def as_table(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "case": self.case,
            "cases": list(self.cases),
            "structure": self.structure,
            "kind": self.kind,
            "severity": self.severity,
            "what": self.what,
            "why": self.why,
            "remedy": self.remedy,
        }


def told_once(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in which what more than `MANY_CASES` cases share stands once.

    Args:
        findings: In any order; those of several cases or none stay as they are.

    Returns:
        In the order in which each kind is first found.
    """
    by_kind: dict[tuple[str, Severity], list[Finding]] = defaultdict(list)
    told: list[Finding] = []
    for finding in findings:
        if finding.case is None:
            told.append(finding)
        else:
            by_kind[finding.kind, finding.severity].append(finding)
    for alike in by_kind.values():
        cases = tuple(dict.fromkeys(case for found in alike for case in found.cases))
        told += alike if len(cases) <= MANY_CASES else [_summary(alike, cases)]
    return told


def in_order(findings: Iterable[Finding], case_names: Sequence[str]) -> list[Finding]:
    """The worst first; among alike those of the data set, then in order of case."""
    places = {name: number for number, name in enumerate(case_names)}

    def place(finding: Finding) -> tuple[int, int]:
        where = -1 if finding.case is None else places[finding.case]
        return SEVERITIES.index(finding.severity), where

    return sorted(findings, key=place)


def listed(entries: Iterable[object]) -> str:
    """Entries as people list them."""
    return ", ".join(str(entry) for entry in entries)


def _summary(alike: Sequence[Finding], cases: tuple[str, ...]) -> Finding:
    first = alike[0]
    return Finding(
        first.kind,
        first.severity,
        f"{first.kind}, in {len(cases)} cases; {cases[0]}: {first.what}",
        first.why,
        first.remedy,
        cases,
    )
