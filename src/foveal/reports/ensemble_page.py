"""The report of an ensemble as one HTML file: members, ensembles, errors."""

from collections.abc import Sequence
from dataclasses import dataclass

from foveal.reports.members_figure import CONSISTENT_COLOUR, CORRECTED_COLOUR
from foveal.reports.page import Picture, Trust, page_template


@dataclass(frozen=True)
class MemberLine:
    """A member in the first table."""

    name: str
    network: str

    steps: int | None
    """``None``: not trained to the end."""

    dice: float | None
    """Of the entry region; ``None``: not measured."""

    entered: bool
    reason: str
    """Why it did not enter."""


@dataclass(frozen=True)
class SystemLine:
    """A member, or several together, in the second table."""

    name: str
    entered: bool

    values: Sequence[tuple[float | None, float | None]]
    """Mean and deviation over cases, for each of the columns."""


@dataclass(frozen=True)
class ComparisonLine:
    """The ensemble against its best member, for one structure."""

    structure: str
    best: float | None
    ensemble: float | None
    change: float | None
    interval: tuple[float | None, float | None]
    num_better: int | None
    num_cases: int
    p: float | None


@dataclass(frozen=True)
class EnsemblePage:
    """Everything that the report of an ensemble says."""

    title: str
    subtitle: str
    headlines: Sequence[tuple[str, str, str]]
    """A few numbers: what, the number, and a remark."""

    rule: str
    """Who enters, in words."""

    members: Sequence[MemberLine]

    columns: Sequence[str]
    """Of `systems`: structure and metric."""

    systems: Sequence[SystemLine]
    best_member: str
    comparison: Sequence[ComparisonLine]

    trust: Trust | None
    """``None`` before ``foveal calibrate``."""

    pictures: Sequence[Picture]
    """Worst case first."""

    notes: Sequence[str]
    """Why pictures are absent."""

    facts: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    files: Sequence[tuple[str, str]]
    """What, and the path to open."""

    footer: str


def render_ensemble(page: EnsemblePage) -> str:
    """HTML of the report; names from the data are escaped."""
    return page_template("ensemble.html").render(
        page=page,
        corrected_colour=CORRECTED_COLOUR,
        consistent_colour=CONSISTENT_COLOUR,
    )
