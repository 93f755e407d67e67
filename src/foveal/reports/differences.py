"""The picture of a comparison: each case's difference, and the interval of the mean."""

import io
import math

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveal.metrics.comparison import HIGHER_IS_BETTER, Comparison, Difference
from foveal.metrics.evaluation import COLUMN_TITLES
from foveal.reports.figures import FAINT, INK, STRUCTURE_COLOURS, STYLE

ROW_INCHES = 0.42
"""Height of one structure and system."""

CAPTION = (
    "dot: a case; diamond and bar: their mean and its 95 % interval;\n"
    "p: Wilcoxon's signed-rank test, adjusted by Holm's method"
)

SPREAD = 0.26
"""Dots of a row lie within this part of it, above and below its middle."""


def draw_differences(comparison: Comparison, kind: str) -> bytes:
    """One column per metric, one row per structure and system.

    A dot is a case, the diamond the mean and the bar its bootstrap interval; right of
    the line at zero the system has the higher value.

    Args:
        comparison: See `foveal.compare`.
        kind: ``"png"`` or ``"svg"``.
    """
    rows = [
        (structure, system)
        for structure in comparison.structures
        for system in comparison.systems[1:]
    ]
    num_metrics = len(comparison.metrics)
    height = ROW_INCHES * len(rows) + 1.6
    picture = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(2.4 + 3.4 * num_metrics, height), layout="constrained")
        columns = figure.subplots(1, num_metrics, sharey=True, squeeze=False)[0]
        for axes, metric in zip(columns, comparison.metrics, strict=True):
            _draw_metric(axes, comparison, metric, rows)
        columns[0].set_yticks(range(len(rows)))
        columns[0].set_yticklabels([_row_title(comparison, *row) for row in rows])
        columns[0].set_ylim(len(rows) - 0.5, -0.5)
        first, *others = comparison.systems
        figure.suptitle(
            f"{' and '.join(others)} less {first}, case by case", fontsize=10
        )
        figure.supxlabel(CAPTION, fontsize=7, color=INK)
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(picture, format=kind, dpi=150, metadata=metadata)
    return picture.getvalue()


def _draw_metric(
    axes: Axes, comparison: Comparison, metric: str, rows: list[tuple[str, str]]
) -> None:
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, (structure, system) in enumerate(rows):
        number = comparison.systems.index(system) - 1
        colour = STRUCTURE_COLOURS[number % len(STRUCTURE_COLOURS)]
        _draw_row(axes, place, comparison.find(structure, metric, system), colour)
    better = {True: " (right of 0 is better)", False: " (left of 0 is better)"}
    remark = better[HIGHER_IS_BETTER[metric]] if metric in HIGHER_IS_BETTER else ""
    axes.set_title(COLUMN_TITLES.get(metric, metric), fontsize=9, color=INK)
    axes.set_xlabel(f"difference{remark}", fontsize=8)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.08)


def _draw_row(axes: Axes, place: int, entry: Difference, colour: str) -> None:
    values = list(entry.differences.values())
    # Spread evenly in order of value, back and forth, so that dots lie apart.
    order = np.argsort(np.argsort(values, kind="stable"))
    heights = place + SPREAD * (2 * ((order * 0.618034) % 1.0) - 1)
    axes.scatter(values, heights, s=7, color=colour, alpha=0.45, linewidths=0)
    if not math.isnan(entry.interval[0]):
        axes.plot(entry.interval, [place, place], color=INK, linewidth=2.4)
    if not math.isnan(entry.mean_difference):
        axes.plot(entry.mean_difference, place, "D", color=INK, markersize=4.5)
    p = entry.wilcoxon_p_holm
    if not math.isnan(p):
        axes.annotate(
            "p < 0.001" if p < 0.001 else f"p = {p:.3f}",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="center",
            fontsize=7,
            color=INK if p < 0.05 else FAINT,
        )


def _row_title(comparison: Comparison, structure: str, system: str) -> str:
    return structure if len(comparison.systems) == 2 else f"{structure}: {system}"
