"""Figures on trust: reliability, expected Dice, sparsification, and doubtful slices."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from foveal.geometry import Grid, reorientation
from foveal.metrics.calibration import near_foreground
from foveal.reports.figures import (
    FAINT,
    INK,
    STRUCTURE_COLOURS,
    STYLE,
    save_svg,
)
from foveal.reports.slices import Slice, draw_slice
from foveal.reports.views import PLANES, laid_out, pixel_mm_of, slice_axis

BEFORE_COLOUR, AFTER_COLOUR = "#d55e00", "#0072b2"

FEWEST_IN_BIN = 20
"""Voxels of a bin that is drawn; the frequency among fewer is chance."""

NEAR_MM = 5.0
"""Around what was found, where doubt counts."""

DOUBT_COLOURS = "inferno"

Bins = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""Voxels, sums of their probabilities, and hits, per bin."""


def reliability_diagram(before: Bins, after: Bins) -> bytes:
    """SVG of the frequency against the probability, without and with temperature."""
    with _square_axes() as (axes, svg):
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, label="as it should be")
        for bins, colour, name in (
            (before, BEFORE_COLOUR, "before"),
            (after, AFTER_COLOUR, "after"),
        ):
            voxels, probabilities, hits = (np.array(one) for one in bins)
            seen = voxels >= FEWEST_IN_BIN
            axes.plot(
                probabilities[seen] / voxels[seen],
                hits[seen] / voxels[seen],
                color=colour,
                label=name,
                linewidth=1.6,
                marker="o",
                markersize=3,
            )
        axes.set_xlabel("probability")
        axes.set_ylabel("frequency")
        axes.legend(loc="upper left", fontsize=8)
    return svg.getvalue()


def expected_dice_scatter(
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> bytes:
    """SVG of true against expected Dice, a dot per case.

    Args:
        pairs: Structure to expected and true Dice of the cases; with more structures
            than colours, all are grey.
    """
    is_coloured = len(pairs) <= len(STRUCTURE_COLOURS)
    with _square_axes() as (axes, svg):
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        for number, (structure, (expected, true)) in enumerate(pairs.items()):
            axes.plot(
                expected,
                true,
                "o",
                markersize=4,
                alpha=0.75,
                color=STRUCTURE_COLOURS[number] if is_coloured else FAINT,
                label=structure if is_coloured else "_",
            )
        axes.set_xlabel("expected Dice")
        axes.set_ylabel("true Dice")
        if is_coloured:
            axes.legend(loc="lower right", fontsize=8)
    return svg.getvalue()


def sparsification_curve(
    removed: Sequence[float],
    by_uncertainty: Sequence[float],
    by_oracle: Sequence[float],
    random: float,
) -> bytes:
    """SVG of the share of wrong voxels among those that are left."""
    svg = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6, 3.4))
        axes = figure.add_subplot()
        axes.plot(removed, [random] * len(removed), color=FAINT, label="at random")
        axes.plot(removed, by_uncertainty, color=AFTER_COLOUR, label="most uncertain")
        axes.plot(removed, by_oracle, color=INK, linestyle=":", label="wrong ones")
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("share of voxels removed")
        axes.set_ylabel("wrong among the rest")
        axes.legend(title="removed first", fontsize=8, title_fontsize=8)
        save_svg(figure, svg)
    return svg.getvalue()


@contextmanager
def _square_axes() -> Iterator[tuple[Axes, io.BytesIO]]:
    """Axes from 0 to 1; the SVG is in the buffer when the block ends."""
    svg = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(3.4, 3.4))
        axes = figure.add_subplot()
        yield axes, svg
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        save_svg(figure, svg)


@dataclass(frozen=True, eq=False)
class DoubtfulSlice:
    """The slice of a case that a person should look at first."""

    shown: Slice
    doubt: NDArray[np.float32] | None
    """Predictive entropy on the pixels, nats; ``None``: not made."""

    axis: str
    """``"i"``, ``"j"`` or ``"k"``: axis of the file that the slice is across."""

    index: int
    """Along ``axis``, from 0."""


def most_doubtful_slice(
    image: NDArray[Any],
    labels: NDArray[Any],
    doubt: NDArray[Any] | None,
    grid: Grid,
) -> DoubtfulSlice:
    """Slice with most entropy near what was found, or anywhere if nothing was.

    Without entropy, with most of any structure.

    Args:
        image: One channel, ``(i, j, k)`` in stored order, as are the others.
        labels: Numbers of structures, 0 background.
        doubt: Predictive entropy, not negative.
        grid: Of all of them.
    """
    change = reorientation(grid, "LPS")
    lps = change.apply_to_grid(grid)
    axis = slice_axis(lps)
    others = tuple(other for other in range(3) if other != axis)
    turned = change.apply(labels)
    weight = turned != 0
    if doubt is not None:
        near = near_foreground(turned, turned, lps.spacing_mm, NEAR_MM)
        # A network that is nowhere sure would show a slice of background.
        weight = change.apply(doubt) * (near if near.any() else 1)
    sums = weight.sum(axis=others)
    place = int(sums.argmax()) if sums.any() else lps.shape[axis] // 2
    return DoubtfulSlice(
        Slice(
            image=laid_out(change.apply(image), axis, place),
            labels=laid_out(turned, axis, place),
            pixel_mm=pixel_mm_of(lps.spacing_mm, axis),
            plane=PLANES[axis],
        ),
        None if doubt is None else laid_out(change.apply(doubt), axis, place),
        "ijk"[change.permutation[axis]],
        lps.shape[axis] - 1 - place if axis in change.reversed_axes else place,
    )


def doubtful_picture(found: DoubtfulSlice, display_range: tuple[float, float]) -> bytes:
    """PNG of a slice, plain, with its outlines and, if there is any, with its doubt."""
    with rc_context(STYLE):
        columns = 2 if found.doubt is None else 3
        figure = Figure(figsize=(3.6 * columns, 3.6))
        every_axes = figure.subplots(1, columns)
        plain = Slice(found.shown.image, None, found.shown.pixel_mm, found.shown.plane)
        draw_slice(every_axes[0], plain, display_range)
        draw_slice(every_axes[1], found.shown, display_range)
        every_axes[1].set_title("prediction", fontsize=9, color=INK)
        if found.doubt is not None:
            draw_slice(every_axes[2], plain, display_range)
            rows_mm, columns_mm = found.shown.pixel_mm
            most = float(found.doubt.max())
            drawn = every_axes[2].imshow(
                np.ma.masked_less(found.doubt, 0.05 * most) if most else found.doubt,
                cmap=DOUBT_COLOURS,
                vmin=0,
                vmax=most or 1,
                alpha=0.8,
                aspect=rows_mm / columns_mm,
                interpolation="nearest",
            )
            figure.colorbar(drawn, ax=every_axes[2], fraction=0.046, label="nats")
            every_axes[2].set_title("predictive entropy", fontsize=9, color=INK)
        png = io.BytesIO()
        figure.tight_layout(pad=0.4)
        figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()
