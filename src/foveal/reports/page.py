"""A report as one HTML file that needs nothing else: no network, no script."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from foveal.metrics.presence import PresenceScores
from foveal.reports import figures
from foveal.reports.scores import FoldScores, RunScores

NOT_DEFINED = "\N{EN DASH}"
"""Stands in tables for a value that there is none of."""


@dataclass(frozen=True)
class Curve:
    """A training curve."""

    title: str
    caption: str
    svg: bytes


@dataclass(frozen=True)
class Overlay:
    """Where a case goes wrong, seen on a slice."""

    case: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Picture:
    """Something to look at, in words too."""

    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Beside:
    """Runs beside one another."""

    curves: Sequence[Curve]
    notes: Sequence[str]


@dataclass(frozen=True)
class Sampling:
    """Where patches came from; all empty for a run that did not write it down."""

    pictures: Sequence[Picture] = ()
    curves: Sequence[Curve] = ()
    notes: Sequence[str] = ()
    """Why pictures are absent, or that there were no error maps."""


@dataclass(frozen=True)
class Trust:
    """Whether probabilities can be trusted."""

    summary: str
    band_mm: float
    """Around foreground; what the numbers are of, but for those called everywhere."""

    rows: Sequence[tuple[str, Sequence[float]]]
    """What a probability is of, and ECE, Brier score, NLL and ECE everywhere, each
    without and with a temperature."""

    figures: Sequence[Curve]


@dataclass(frozen=True)
class Page:
    """Everything that a report says."""

    title: str
    subtitle: str
    headlines: Sequence[tuple[str, str, str]]
    """A few numbers: what, the number, and a remark."""

    scores: RunScores | None
    """``None`` before the validation cases were measured."""

    scores_absent: str
    """Why there are no scores; shown if there are none."""

    presence: Mapping[str, PresenceScores]
    """Structure to how well a classifier told which images show it; empty: the network
    outlines, or nothing was measured yet."""

    folds: Sequence[FoldScores]
    """Of a cross-validation; empty for a single run."""

    overlays: Sequence[Overlay]
    """Worst case first."""

    overlay_notes: Sequence[str]
    """Why pictures are absent."""

    volumes: Sequence[Curve]
    """Dice and volume per case, a figure per structure."""

    trust: Trust | None
    """``None`` before ``foveal calibrate``."""

    curves: Sequence[Curve]

    beside: Beside | None
    """Other runs, if some were given."""

    sampling: Sequence[tuple[str, Sampling]]
    """Run to where its patches came from; those that know it."""

    facts: Sequence[tuple[str, str]]
    """Topic and a sentence or two: data set, plan and training in plain words."""

    warnings: Sequence[str]
    files: Sequence[tuple[str, str]]
    """What, and the path to open."""

    footer: str


def render(page: Page) -> str:
    """HTML of a report; names from the data are escaped."""
    return page_template("page.html").render(
        page=page,
        colours={
            "reference": figures.REFERENCE_COLOUR,
            "prediction": figures.PREDICTION_COLOUR,
            "confused": figures.CONFUSED_COLOUR,
        },
        details=_details(page.scores) if page.scores else (),
        structures=page.scores.structures if page.scores else (),
    )


def page_template(name: str) -> Template:
    """A page of this room; what is put into it is escaped."""
    environment = Environment(
        loader=PackageLoader("foveal", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["data_url"] = data_url
    return environment.get_template(name)


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash where it is not defined."""
    return NOT_DEFINED if value is None else f"{value:,.{digits}f}"


def data_url(content: bytes, kind: str) -> str:
    """A picture as an address that holds the picture itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True)
class _Detail:
    """A line of the table with every value."""

    case: str
    structure: str
    scores: Mapping[str, float | None]


def _details(scores: RunScores) -> list[_Detail]:
    """Lowest Dice first; undefined ones last."""
    lines = [
        _Detail(case.name, structure, values)
        for case in scores.cases
        for structure, values in case.structures.items()
    ]

    def badness(line: _Detail) -> tuple[bool, float]:
        dice = line.scores["dice"]
        return dice is None, dice or 0.0

    return sorted(lines, key=badness)
