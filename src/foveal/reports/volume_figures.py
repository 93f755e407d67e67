"""Dice and volume of every case, as in Kamnitsas' thesis (2020), Fig. 3.11."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from foveal.reports.figures import STYLE, save_svg

REFERENCE_COLOUR, PREDICTION_COLOUR = "#000000", "#d7191c"

WIDE_RANGE = 100
"""Largest volume over the smallest, above which powers of ten are ticks enough."""

FINE_TICKS = (1, 1.5, 2, 3, 5, 7)

MOST_NAMES = 40
"""Cases that are named under the figure; more are numbered."""


@dataclass(frozen=True)
class CaseVolumes:
    """One structure in one case."""

    case: str
    dice: float | None
    """``None`` where neither reference nor prediction has it."""

    reference: float
    """Volume, 0 if it is not there."""

    prediction: float


def dice_and_volumes(cases: Sequence[CaseVolumes], unit: str) -> bytes:
    """SVG of each case's Dice above its two volumes; lines are means over cases.

    Volumes are on a logarithmic axis. One of 0 is drawn as a triangle on its lower end.

    Args:
        cases: At least one; drawn in the order of their reference's volume.
        unit: Of the volumes.
    """
    ordered = sorted(cases, key=lambda one: (one.reference, one.prediction, one.case))
    places = range(1, len(ordered) + 1)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(4.2, min(0.16 * len(ordered) + 2, 12)), 4.2))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.2))
        dice = [float("nan") if one.dice is None else one.dice for one in ordered]
        _draw(upper, places, dice, REFERENCE_COLOUR, "Dice", "o")
        if any(one.dice is not None for one in ordered):
            upper.axhline(np.nanmean(dice), color=REFERENCE_COLOUR, linewidth=0.9)
        upper.set_ylim(-0.03, 1.03)
        upper.set_ylabel("Dice")
        reference = [one.reference for one in ordered]
        prediction = [one.prediction for one in ordered]
        shown = [one for one in (*reference, *prediction) if one > 0]
        if shown:
            lower.set_yscale("log")
            is_wide = max(shown) > WIDE_RANGE * min(shown)
            ticks = LogLocator(subs=(1,) if is_wide else FINE_TICKS)
            lower.yaxis.set_major_locator(ticks)
            lower.yaxis.set_major_formatter("{x:g}")
            lower.yaxis.set_minor_locator(NullLocator())
        for values, colour, name, marker in (
            (reference, REFERENCE_COLOUR, "reference", "o"),
            (prediction, PREDICTION_COLOUR, "prediction", "x"),
        ):
            positive = [value or float("nan") for value in values]
            _draw(lower, places, positive, colour, name, marker)
            _draw_zeros(lower, values, colour)
            if any(values):
                lower.axhline(fmean(values), color=colour, linewidth=0.9)
        lower.set_ylabel(f"volume [{unit}]")
        lower.legend(loc="upper left", bbox_to_anchor=(0, 1.16), ncols=2, fontsize=8)
        if len(ordered) <= MOST_NAMES:
            names = [one.case for one in ordered]
            lower.set_xticks(places, names, rotation=90, fontsize=6)
        else:
            lower.set_xlabel("cases, by the volume of the reference")
        upper.grid(visible=False, axis="x")
        lower.grid(visible=False, axis="x")
        svg = io.BytesIO()
        save_svg(figure, svg)
    return svg.getvalue()


def _draw(
    axes: Axes,
    places: Sequence[int],
    values: Sequence[float],
    colour: str,
    name: str,
    marker: str,
) -> None:
    """Draw one mark per case; none where a value is not defined."""
    is_filled = marker == "x"
    axes.plot(
        places,
        values,
        linestyle="",
        marker=marker,
        markersize=4.5 if is_filled else 4,
        color=colour,
        markerfacecolor=colour if is_filled else "none",
        label=name,
    )


def _draw_zeros(axes: Axes, values: Sequence[float], colour: str) -> None:
    """Mark cases whose volume a logarithmic axis cannot show."""
    places = [place for place, value in enumerate(values, start=1) if value == 0]
    axes.plot(
        places,
        [0.02] * len(places),
        linestyle="",
        marker="v",
        markersize=4,
        color=colour,
        markerfacecolor="none" if colour == REFERENCE_COLOUR else colour,
        transform=axes.get_xaxis_transform(),
        label="_",
    )
