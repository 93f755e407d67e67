"""Figures of a report: training curves as SVG, overlays on a slice as PNG."""

import io
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from foveal.reports.slices import draw_outlines
from foveal.reports.views import View

REFERENCE_COLOUR = "#56b4e9"
PREDICTION_COLOUR = "#ffb000"
CONFUSED_COLOUR = "#dc267f"
"""Blue, orange and magenta stay apart for colour-blind readers and on grey images."""

INK, FAINT, GRID = "#1f2933", "#9aa5b1", "#e4e7eb"

STRUCTURE_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7b5ea7",
)
"""Lines of the Dice curve; with more structures than colours, all are grey."""

MAX_POINTS = 240
"""Of a curve; longer ones are averaged over equal shares of the steps."""

SMOOTHED_FRACTION = 0.1
"""Of a curve, over which a running mean goes."""

LONGEST_NAME_IN_ROW = 24
"""Letters of a name that stands in a legend beside others."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "svg.fonttype": "none",
    # Without a salt the identifiers inside an SVG differ from call to call.
    "svg.hashsalt": "foveal",
}


def loss_curve(steps: Sequence[int], losses: Sequence[float]) -> bytes:
    """SVG of the training loss, averaged where there are many steps."""
    with curve_axes() as (axes, svg):
        averaged_steps, averaged = averaged_curve(steps, losses)
        axes.plot(averaged_steps, averaged, color=INK, linewidth=1.4)
        axes.set_ylabel("training loss")
    return svg.getvalue()


def learning_rate_curve(steps: Sequence[int], rates: Sequence[float]) -> bytes:
    """SVG of the learning rate."""
    with curve_axes() as (axes, svg):
        averaged_steps, averaged = averaged_curve(steps, rates)
        axes.plot(averaged_steps, averaged, color=INK, linewidth=1.4)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("learning rate")
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    return svg.getvalue()


def score_curve(
    steps: Sequence[int],
    scores: Mapping[str, Sequence[float | None]],
    mean: Sequence[float | None],
    measure: str,
) -> bytes:
    """SVG of the validation score of every structure and of their mean.

    Args:
        steps: Of the validations.
        scores: Structure to one value per validation, 0 to 1; ``None`` leaves a gap.
        mean: Likewise.
        measure: What the scores are called.
    """
    is_coloured = len(scores) <= len(STRUCTURE_COLOURS)
    with curve_axes() as (axes, svg):
        for number, (structure, values) in enumerate(scores.items()):
            axes.plot(
                steps,
                _with_gaps(values),
                color=STRUCTURE_COLOURS[number] if is_coloured else FAINT,
                label=structure if is_coloured else "_",
                linewidth=1.2,
                marker="o",
                markersize=2.5,
            )
        axes.plot(steps, _with_gaps(mean), color=INK, label="mean", linewidth=2.2)
        axes.set_ylim(0, 1)
        axes.set_ylabel(f"validation {measure}")
        columns = min(len(scores) + 1, 3)
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            ncols=columns if is_coloured else 1,
            fontsize=8,
        )
    return svg.getvalue()


def fold_loss_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
) -> bytes:
    """SVG of the training loss of every fold.

    Args:
        curves: Fold to steps and losses.
    """
    averaged = {
        name: averaged_curve(steps, losses) for name, (steps, losses) in curves.items()
    }
    with curve_axes() as (axes, svg):
        _draw_folds(axes, averaged)
        axes.set_ylabel("training loss")
    return svg.getvalue()


def fold_score_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float | None]]], measure: str
) -> bytes:
    """SVG of the mean validation score of every fold.

    Args:
        curves: Fold to steps and values, 0 to 1; ``None`` leaves a gap.
        measure: What the scores are called.
    """
    with curve_axes() as (axes, svg):
        _draw_folds(
            axes,
            {name: (steps, _with_gaps(mean)) for name, (steps, mean) in curves.items()},
            marker="o",
        )
        axes.set_ylim(0, 1)
        axes.set_ylabel(f"mean validation {measure}")
    return svg.getvalue()


def _draw_folds(
    axes: Axes,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    marker: str = "",
    linewidth: float = 1.2,
) -> None:
    """One coloured and named line per fold; with more than colours, all are grey."""
    is_coloured = len(curves) <= len(STRUCTURE_COLOURS)
    for number, (name, (steps, values)) in enumerate(curves.items()):
        axes.plot(
            steps,
            values,
            color=STRUCTURE_COLOURS[number] if is_coloured else FAINT,
            label=name if is_coloured else "_",
            linewidth=linewidth,
            marker=marker,
            markersize=2.5,
        )
    if is_coloured:
        _legend_below(axes, curves)


def _legend_below(axes: Axes, names: Collection[str]) -> None:
    """Long names stand below one another, or they would shrink the figure."""
    is_long = max(len(name) for name in names) > LONGEST_NAME_IN_ROW
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
        ncols=1 if is_long else min(len(names), 3),
        fontsize=6 if is_long else 8,
    )


def smoothed_loss_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
) -> bytes:
    """SVG of the training losses of several runs, thin, and their running means.

    Args:
        curves: Name to steps and losses.
    """
    with curve_axes() as (axes, svg):
        for number, (steps, losses) in enumerate(curves.values()):
            colour = STRUCTURE_COLOURS[number % len(STRUCTURE_COLOURS)]
            averaged = averaged_curve(steps, losses)
            axes.plot(*averaged, color=colour, linewidth=0.7, alpha=0.3)
        _draw_folds(
            axes,
            {name: smoothed_curve(*curve) for name, curve in curves.items()},
            linewidth=1.8,
        )
        axes.set_ylabel("training loss")
    return svg.getvalue()


def plain_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float | None]]],
    quantity: str,
    top: float | None,
) -> bytes:
    """SVG of some curves from 0 up, with a legend if there are several.

    Args:
        curves: Name to steps and values; ``None`` leaves a gap.
        quantity: What they are values of.
        top: Of the axis; ``None``: as the values need.
    """
    with curve_axes() as (axes, svg):
        for (name, (steps, values)), colour in zip(
            curves.items(), (INK, *STRUCTURE_COLOURS), strict=False
        ):
            axes.plot(
                *averaged_curve(steps, _with_gaps(values)),
                color=colour,
                label=name,
                linewidth=1.4,
            )
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0, top=top)
        axes.set_ylabel(quantity)
        if len(curves) > 1:
            _legend_below(axes, curves)
    return svg.getvalue()


def measure_curve(
    steps: Sequence[int],
    values: Sequence[float],
    quantity: str,
    *,
    top: float | None,
    chance: float | None,
) -> bytes:
    """SVG of a number of every step, thin, and of its running mean.

    Args:
        steps: At which it was measured.
        values: Not negative.
        quantity: What it is.
        top: Of the axis; ``None``: as the values need.
        chance: Value of a guess, a dashed line; ``None``: there is none.
    """
    with curve_axes() as (axes, svg):
        averaged = averaged_curve(steps, values)
        axes.plot(*averaged, color=INK, linewidth=0.7, alpha=0.3)
        axes.plot(*smoothed_curve(steps, values), color=INK, linewidth=1.8)
        if chance is not None:
            axes.axhline(chance, color=STRUCTURE_COLOURS[1], linestyle="--")
            axes.annotate(
                "chance",
                (1.0, chance),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
            )
        axes.set_ylim(bottom=0, top=top)
        axes.set_ylabel(quantity)
    return svg.getvalue()


def smoothed_curve(
    steps: Sequence[int], values: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Running means over `SMOOTHED_FRACTION` of the values, fewer at both ends.

    Values that are not finite are left out.
    """
    pairs = _finite_pairs(steps, values)
    half = int(SMOOTHED_FRACTION * len(pairs) / 2)
    sums = np.concatenate([[0.0], pairs[:, 1].cumsum()])
    places = np.arange(len(pairs))
    starts = np.maximum(places - half, 0)
    ends = np.minimum(places + half + 1, len(pairs))
    means = (sums[ends] - sums[starts]) / (ends - starts)
    return averaged_curve(pairs[:, 0].tolist(), means.tolist())


def averaged_curve(
    steps: Sequence[int], values: Sequence[float]
) -> tuple[list[float], list[float]]:
    """At most `MAX_POINTS` points: means over equal shares of the values.

    Values that are not finite are left out.
    """
    pairs = _finite_pairs(steps, values)
    shares = np.array_split(pairs, min(MAX_POINTS, max(len(pairs), 1)))
    means = np.array([share.mean(axis=0) for share in shares if len(share)])
    return means.reshape(-1, 2)[:, 0].tolist(), means.reshape(-1, 2)[:, 1].tolist()


def _finite_pairs(steps: Sequence[int], values: Sequence[float]) -> NDArray[np.float64]:
    pairs = np.column_stack([steps, values]).astype(np.float64).reshape(-1, 2)
    return pairs[np.isfinite(pairs[:, 1])]


@contextmanager
def curve_axes() -> Iterator[tuple[Axes, io.BytesIO]]:
    """Axes over training steps; the SVG is in the buffer when the block ends."""
    svg = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.8))
        axes = figure.add_subplot()
        yield axes, svg
        axes.set_xlabel("step")
        axes.margins(x=0.02)
        save_svg(figure, svg)


def save_svg(figure: Figure, svg: io.BytesIO) -> None:
    """Write a figure as SVG, the same each time, with nothing around it.

    Names of cases and structures may be in any script: the text stays text, so that
    the browser has the characters that Matplotlib's font lacks.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(svg, format="svg", bbox_inches="tight", metadata={"Date": None})


def _with_gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def overlay(view: View, display_range: tuple[float, float]) -> bytes:
    """PNG of a slice: whole and close up, with both outlines and with the errors.

    Args:
        view: What to show.
        display_range: Intensities shown black and white.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 3.25))
        whole, plain, outlined, wrong = figure.subplots(1, 4)
        everything = (slice(None), slice(None))
        for axes, window, title in (
            (whole, everything, "whole slice"),
            (plain, view.close_up, "close-up"),
            (outlined, view.close_up, "outlines"),
            (wrong, view.close_up, "errors"),
        ):
            axes.imshow(
                view.image[window],
                cmap="gray",
                vmin=display_range[0],
                vmax=display_range[1],
                aspect=view.pixel_mm[0] / view.pixel_mm[1],
                interpolation="bilinear",
            )
            axes.set_title(title, fontsize=9, color=INK)
            axes.set_axis_off()
            axes.set_anchor("N")
        _draw_frame(whole, view.close_up)
        # The reference is wider and below, so that it shows where both agree.
        for label_map, colour, width in (
            (view.reference, REFERENCE_COLOUR, 3.0),
            (view.prediction, PREDICTION_COLOUR, 1.3),
        ):
            draw_outlines(outlined, label_map[view.close_up], width, colour)
        errors = error_colours(
            view.reference[view.close_up], view.prediction[view.close_up]
        )
        wrong.imshow(
            errors,
            aspect=view.pixel_mm[0] / view.pixel_mm[1],
            interpolation="nearest",
        )
        png = io.BytesIO()
        figure.tight_layout(pad=0.3)
        figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()


def error_colours(
    reference: NDArray[Any], prediction: NDArray[Any]
) -> NDArray[np.float64]:
    """Colour of every pixel's error, ``(row, column, 4)``; transparent where right.

    Missed pixels take the reference's colour, pixels too many the prediction's, and
    those of a wrong structure the third.
    """
    colours = np.zeros((*reference.shape, 4))
    is_wrong = reference != prediction
    for where, colour in (
        (is_wrong & (prediction == 0), REFERENCE_COLOUR),
        (is_wrong & (reference == 0), PREDICTION_COLOUR),
        (is_wrong & (reference != 0) & (prediction != 0), CONFUSED_COLOUR),
    ):
        rgb = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        colours[where] = (*rgb, 0.8)
    return colours


def _draw_frame(axes: Axes, window: tuple[slice, slice]) -> None:
    """Mark the close-up in the whole slice."""
    top, bottom = window[0].start - 0.5, window[0].stop - 0.5
    left, right = window[1].start - 0.5, window[1].stop - 0.5
    axes.plot(
        [left, right, right, left, left],
        [top, top, bottom, bottom, top],
        color="white",
        linewidth=0.9,
        linestyle=(0, (4, 3)),
    )
