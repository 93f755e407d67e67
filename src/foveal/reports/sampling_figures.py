"""Figures of where patches come from: error maps and drawn places through training."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from foveal.reports.figures import STYLE
from foveal.reports.patches import Projection, draw_projection
from foveal.reports.slices import Slice, draw_slice, structure_legend

WIDTH_INCHES = 12.4
"""Of every figure, so that their words are equally large on a page."""

TALLEST_PANEL_INCHES = 3.0

SHORTEST_ROW_INCHES = 1.2
"""So much is given to flat panels, for the name of the case beside them."""


@dataclass(frozen=True, eq=False)
class ErrorSlice:
    """Errors of one slice under the weights of one moment."""

    step: int
    """Updates behind the weights."""

    errors: NDArray[np.float32]
    """In [0, 1]; rows downwards and columns to the right on the screen."""


@dataclass(frozen=True, eq=False)
class CaseThroughTraining:
    """One slice of a case and its errors, earliest first."""

    case: str

    shown: Slice | None
    """Image and reference; ``None``: they are not there any more."""

    display_range: tuple[float, float]
    """Intensities shown black and white."""

    errors: Sequence[ErrorSlice]
    """At least one."""

    pixel_mm: tuple[float, float]
    """Height and width of a pixel."""


@dataclass(frozen=True, eq=False)
class DrawnPart:
    """Where patches of a case were drawn in a part of the training."""

    when: str
    num_patches: int
    projections: Sequence[Projection]
    """In the planes of the case, the same in every part."""


@dataclass(frozen=True, eq=False)
class DrawnThroughTraining:
    """Where patches of one case were drawn, early and late."""

    case: str
    display_range: tuple[float, float]
    """Intensities shown black and white."""

    parts: Sequence[DrawnPart]
    """Earliest first; as many in every case."""


def error_maps_picture(
    cases: Sequence[CaseThroughTraining], labels: dict[int, str]
) -> bytes:
    """PNG with a numbered row per case: image, reference, then the error maps.

    Args:
        cases: At least one.
        labels: Inside label to name; the outlines.
    """
    has_images = any(case.shown is not None for case in cases)
    first = 2 if has_images else 0
    columns = first + max(len(case.errors) for case in cases)
    shapes = [
        np.multiply(case.errors[0].errors.shape, case.pixel_mm).tolist()
        for case in cases
    ]
    with rc_context(STYLE):
        figure, rows = _panels(shapes, columns)
        for number, (row, case) in enumerate(zip(rows, cases, strict=True), start=1):
            _number_row(row[0], number, len(cases))
            if case.shown is not None:
                plain = Slice(case.shown.image, None, case.pixel_mm, case.shown.plane)
                draw_slice(row[0], plain, case.display_range)
                draw_slice(row[1], case.shown, case.display_range, width=1.1)
                row[0].set_title(f"image, {case.shown.plane}", fontsize=8)
                row[1].set_title("reference", fontsize=8)
            for axes, found in zip(row[first:], case.errors, strict=False):
                drawn = axes.imshow(
                    found.errors,
                    cmap="gray",
                    vmin=0,
                    vmax=1,
                    aspect=case.pixel_mm[0] / case.pixel_mm[1],
                    interpolation="nearest",
                )
                axes.set_title(f"errors after {found.step:,} steps", fontsize=8)
        bar = figure.colorbar(
            drawn, ax=[row[-1] for row in rows], fraction=0.08, pad=0.04, shrink=0.8
        )
        bar.set_ticks([0, 1], labels=["0\nright", "1\nwrong"], fontsize=8)
        bar.outline.set_visible(False)
        if has_images:
            _name_outlines(figure, labels)
        return _png(figure)


def drawn_places_picture(
    cases: Sequence[DrawnThroughTraining], labels: dict[int, str]
) -> bytes:
    """PNG with a numbered row per case: where patches were drawn, early and late.

    Args:
        cases: At least one.
        labels: Inside label to name; the outlines.
    """
    columns = max(len(case.parts) * len(case.parts[0].projections) for case in cases)
    shapes = []
    for case in cases:
        sizes = [
            np.multiply(seen.shown.image.shape, seen.shown.pixel_mm)
            for seen in case.parts[0].projections
        ]
        shapes.append(np.max(sizes, axis=0).tolist())
    with rc_context(STYLE):
        figure, rows = _panels(shapes, columns)
        for number, (row, case) in enumerate(zip(rows, cases, strict=True), start=1):
            _number_row(row[0], number, len(cases))
            panels = [
                (part, seen)
                for seen_in_parts in zip(
                    *(part.projections for part in case.parts), strict=True
                )
                for part, seen in zip(case.parts, seen_in_parts, strict=True)
            ]
            for axes, (part, seen) in zip(row, panels, strict=False):
                draw_projection(axes, seen, case.display_range)
                axes.set_anchor("C")
                axes.set_title(
                    f"{seen.shown.plane}, {part.when}:\n{part.num_patches} patches",
                    fontsize=8,
                )
        _name_outlines(figure, labels)
        return _png(figure)


def _number_row(first: Axes, number: int, count: int) -> None:
    """At the left of a row, if there are several.

    Not the case's name, which may be long, or in letters that the font lacks.
    """
    if count == 1:
        return
    first.text(
        *(-0.06, 0.5, str(number)),
        transform=first.transAxes,
        ha="right",
        va="center",
        fontweight="bold",
    )


def _panels(
    shapes: Sequence[Sequence[float]], columns: int
) -> tuple[Figure, NDArray[Any]]:
    """Axes without frames; rows as high as panels of these shapes need.

    Args:
        shapes: Height and width in mm per row.
        columns: Panels of a row.
    """
    panel_inches = (WIDTH_INCHES - 0.8) / columns
    heights = [
        max(
            min(panel_inches * height / width, TALLEST_PANEL_INCHES) + 0.35,
            SHORTEST_ROW_INCHES,
        )
        for height, width in shapes
    ]
    figure = Figure(
        figsize=(WIDTH_INCHES, sum(heights) + 0.35),
        layout="constrained",
    )
    rows = figure.subplots(len(shapes), columns, squeeze=False, height_ratios=heights)
    for axes in rows.flat:
        axes.set_axis_off()
    return figure, rows


def _name_outlines(figure: Figure, labels: dict[int, str]) -> None:
    figure.legend(
        handles=structure_legend(labels),
        loc="outside lower center",
        ncols=min(len(labels), 6),
        fontsize=8,
    )


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()
