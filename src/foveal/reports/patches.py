"""Picture of training patches, and of where in the cases patches are drawn."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from scipy import ndimage

from foveal.geometry import Grid, reorientation
from foveal.reports.slices import (
    Slice,
    draw_outlines,
    draw_slice,
    fullest_slice,
    outline_colour,
    structure_legend,
)
from foveal.reports.views import PLANES, laid_out, planes_of

PANEL_INCHES = 2.3

SMOOTHING_FRACTION = 0.03
"""Of the longer side of a projection: how far a patch centre spreads its colour."""

INK, FAINT, FRAME = "#1f2933", "#9aa5b1", "#ffffff"


@dataclass(frozen=True, eq=False)
class ShownPatch:
    """One augmented patch."""

    caption: str

    slices: Sequence[tuple[Slice, tuple[float, float]]]
    """With the intensities shown black and white; as many in every patch."""

    predicted: Mapping[str, NDArray[np.bool_]]
    """Plane to the pixels in which the network predicts, framed; empty: it predicts the
    whole patch."""


@dataclass(frozen=True, eq=False)
class Projection:
    """Where patches lie in a case, seen through the whole case."""

    shown: Slice
    """The fullest slice, without labels."""

    structures: Mapping[int, NDArray[np.bool_]]
    """Inside label to the pixels in front of or behind which the structure lies."""

    centres: NDArray[np.float64]
    """Patch centres per pixel."""


@dataclass(frozen=True, eq=False)
class DrawnCase:
    """Where patches of one case are drawn."""

    case: str
    num_draws: int
    projections: Sequence[tuple[Projection, tuple[float, float]]]
    """With the intensities shown black and white; as many in every case."""

    shares: Mapping[str, float]
    """Structure to the share of the patches that hold a voxel of it; structures that
    the case lacks are left out."""


def projection(
    shown: Slice,
    labels: NDArray[np.uint8],
    centres: Sequence[Sequence[int]],
    grid: Grid,
) -> Projection:
    """Look through a case at its structures and at the centres of patches.

    Args:
        shown: Slice of the case, which says the plane.
        labels: Inside labels ``(i, j, k)`` of the whole case.
        centres: Voxels of patches; those beyond the border count as on it.
        grid: Of ``labels``.
    """
    change = reorientation(grid, "LPS")
    axis = PLANES.index(shown.plane)
    counts = np.zeros(labels.shape, np.float32)
    for centre in centres:
        # A centre may lie beyond the border along an axis shorter than the patch.
        i, j, k = np.clip(centre, 0, np.array(labels.shape) - 1)
        counts[i, j, k] += 1
    turned = change.apply(labels)
    present = [label for label in np.unique(labels).tolist() if 0 < label < 255]
    return Projection(
        shown=shown,
        structures={
            label: laid_out((turned == label).any(axis=axis, keepdims=True), axis, 0)
            for label in present
        },
        centres=laid_out(change.apply(counts).sum(axis=axis, keepdims=True), axis, 0),
    )


def projections(
    channel: NDArray[np.float32],
    labels: NDArray[np.uint8],
    centres: Sequence[Sequence[int]],
    grid: Grid,
) -> list[Projection]:
    """See `projection`, in the axial and the coronal plane, or that of a single slice.

    Args:
        channel: One channel ``(i, j, k)`` of the whole case.
        labels: Inside labels.
        centres: Voxels of patches.
        grid: Of the case.
    """
    planes = planes_of(grid)
    return [
        projection(
            replace(fullest_slice(channel, labels, grid, plane=plane), labels=None),
            labels,
            centres,
            grid,
        )
        for plane in (planes if len(planes) == 1 else ("axial", "coronal"))
    ]


def seen_through(window: Sequence[slice], grid: Grid, plane: str) -> NDArray[np.bool_]:
    """Pixels of the slices in a plane that a window of the volume covers.

    Args:
        window: Of the volume.
        grid: Of the volume.
        plane: One of `PLANES`.
    """
    axis = PLANES.index(plane)
    covered = np.zeros(grid.shape, bool)
    covered[tuple(window)] = True
    turned = reorientation(grid, "LPS").apply(covered)
    return laid_out(np.any(turned, axis=axis, keepdims=True), axis, 0)


def patches_picture(
    title: str,
    patches: Sequence[ShownPatch],
    cases: Sequence[DrawnCase],
    labels: Mapping[int, str],
    structures: Mapping[str, Sequence[int]],
) -> bytes:
    """PNG with a row per patch, and below a row per case in which patches are drawn.

    Only of cases that are outlined it can be said what their patches hold.

    Args:
        title: What the picture shows.
        patches: At least one.
        cases: None: the lower part is left out.
        labels: Inside label to name; the outlines.
        structures: Structure to its inside labels; the bars. One of several labels has
            no outline of its own, and a grey bar.
    """
    columns = max(
        [len(patches[0].slices), *(len(case.projections) + 1 for case in cases)]
    )
    heights = [len(patches) * PANEL_INCHES + 0.4]
    if cases:
        heights.append(len(cases) * PANEL_INCHES + 0.6)
    with rc_context({"font.family": "sans-serif", "font.size": 9, "text.color": INK}):
        figure = Figure(
            figsize=(columns * (PANEL_INCHES + 0.3), sum(heights) + 0.4),
            layout="constrained",
        )
        upper, *lower = figure.subfigures(
            len(heights), 1, height_ratios=heights, squeeze=False
        ).flat
        _draw_patches(upper, title, patches, columns)
        for part in lower:
            _draw_cases(part, cases, structures, columns)
        figure.legend(
            handles=structure_legend(labels),
            loc="outside lower center",
            ncols=min(len(labels), 5),
            frameon=False,
        )
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()


def _draw_patches(
    part: SubFigure, title: str, patches: Sequence[ShownPatch], columns: int
) -> None:
    part.suptitle(title, fontsize=11, fontweight="bold")
    for row, patch in zip(
        part.subplots(len(patches), columns, squeeze=False), patches, strict=True
    ):
        for axes in row:
            axes.set_axis_off()
        for axes, (shown, display_range) in zip(row, patch.slices, strict=False):
            draw_slice(axes, shown, display_range)
            if patch.predicted:
                frame = patch.predicted[shown.plane].astype(np.uint8)
                draw_outlines(axes, frame, width=0.8, colour=FRAME)
            axes.set_anchor("N")
        _caption(row[0], patch.caption)


def _draw_cases(
    part: SubFigure,
    cases: Sequence[DrawnCase],
    structures: Mapping[str, Sequence[int]],
    columns: int,
) -> None:
    part.suptitle("Where patches are drawn", fontsize=11, fontweight="bold")
    rows = part.subplots(len(cases), columns, squeeze=False)
    for row, case in zip(rows, cases, strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, (seen, display_range) in zip(row, case.projections, strict=False):
            draw_projection(axes, seen, display_range)
            axes.set_anchor("N")
        # Beside a single projection the bars have their title on the second line.
        gap = " " if len(case.projections) > 1 else "\n"
        _caption(row[0], f"{case.case}:{gap}centres of {case.num_draws} patches")
        _draw_shares(row[len(case.projections)], case.shares, structures)


def _caption(first: Axes, words: str) -> None:
    """Words above a row, which may reach beyond its first picture."""
    first.set_title(words, fontsize=8, loc="left").set_in_layout(False)
    first.set_zorder(1)


def draw_projection(
    axes: Axes, seen: Projection, display_range: tuple[float, float]
) -> None:
    """Draw a slice, the outlines of what lies before and behind it, and the centres.

    Args:
        axes: To draw in; their frame is taken away.
        seen: May be without any patch.
        display_range: Intensities shown black and white.
    """
    draw_slice(axes, seen.shown, display_range)
    if seen.centres.any():
        _draw_density(axes, seen)
    for label, mask in seen.structures.items():
        draw_outlines(axes, mask * label, width=1.1)


def _draw_density(axes: Axes, seen: Projection) -> None:
    """Where patches lie, spread a little and relative to where most lie."""
    rows_mm, columns_mm = seen.shown.pixel_mm
    lengths_mm = np.multiply(seen.centres.shape, (rows_mm, columns_mm))
    spread_mm = SMOOTHING_FRACTION * float(lengths_mm.max())
    density = ndimage.gaussian_filter(
        seen.centres, (spread_mm / rows_mm, spread_mm / columns_mm), mode="constant"
    )
    density = density / density.max()
    axes.imshow(
        density,
        cmap="inferno",
        vmin=0,
        vmax=1,
        # The root lets the few patches far from any structure be seen.
        alpha=0.75 * np.sqrt(density),
        aspect=rows_mm / columns_mm,
        interpolation="bilinear",
    )


def _draw_shares(
    axes: Axes, shares: Mapping[str, float], structures: Mapping[str, Sequence[int]]
) -> None:
    """Bars: how many of the patches show each structure."""
    axes.set_axis_on()
    axes.set_title("patches that show it", fontsize=8, loc="left")
    places = list(range(len(shares)))
    values = [100 * share for share in shares.values()]
    colours = [_bar_colour(structures[name]) for name in shares]
    axes.barh(places, values, height=0.6, color=colours)
    for place, value in zip(places, values, strict=True):
        axes.text(value + 2, place, f"{value:.0f} %", va="center", fontsize=8)
    axes.set_yticks(places, list(shares), fontsize=8)
    axes.set(xlim=(0, 125), xticks=[], ylim=(max(len(shares), 5) - 0.5, -0.5))
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(FAINT)


def _bar_colour(labels: Sequence[int]) -> str:
    return outline_colour(labels[0]) if len(labels) == 1 else FAINT
