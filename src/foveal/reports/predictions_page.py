"""A page on predictions of new cases: which of them a person should look at first."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from foveal.reports.page import Overlay, page_template


@dataclass(frozen=True)
class PredictedStructure:
    """What is known of a structure without a reference."""

    name: str
    expected_dice: float | None
    """``None``: not found, or not known."""

    volume_ml: float
    interval_ml: tuple[float, float] | None
    """``None``: a single pass."""


@dataclass(frozen=True)
class PredictedCase:
    """A case that was predicted."""

    name: str
    structures: tuple[PredictedStructure, ...]
    """Empty for predictions of a Foveal that did not say."""

    remarks: tuple[str, ...]
    """Why it is suspect."""

    @property
    def mean(self) -> float | None:
        """Mean expected Dice of the structures that were found; ``None`` if none."""
        found = [
            one.expected_dice
            for one in self.structures
            if one.expected_dice is not None
        ]
        return fmean(found) if found else None

    @property
    def lowest(self) -> PredictedStructure | None:
        """Structure with the lowest expected Dice; ``None`` if none was found."""
        found = [one for one in self.structures if one.expected_dice is not None]
        return min(found, key=lambda one: one.expected_dice or 0.0, default=None)

    @property
    def not_found(self) -> tuple[str, ...]:
        """Structures of which there is nothing in the prediction."""
        return tuple(one.name for one in self.structures if one.expected_dice is None)


def doubtful_first(cases: Sequence[PredictedCase]) -> list[PredictedCase]:
    """Nothing found first, then by mean expected Dice; what says nothing is last."""

    def doubt(case: PredictedCase) -> tuple[bool, float, str]:
        return not case.structures, case.mean or 0.0, case.name

    return sorted(cases, key=doubt)


@dataclass(frozen=True)
class PredictionsPage:
    """Everything that the page says."""

    title: str
    subtitle: str
    headlines: Sequence[tuple[str, str, str]]
    """A few numbers: what, the number, and a remark."""

    warnings: Sequence[str]
    cases: Sequence[PredictedCase]
    """See `doubtful_first`."""

    overlays: Sequence[Overlay]
    notes: Sequence[str]
    """Why pictures are absent."""

    footer: str


def render_predictions(page: PredictionsPage) -> str:
    """HTML of the page; names from the data are escaped."""
    return page_template("predictions.html").render(page=page)
