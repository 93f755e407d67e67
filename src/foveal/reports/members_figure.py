"""Members' errors side by side on one slice: which does the ensemble correct?

In the manner of figure 4.7 of Kamnitsas's thesis (Imperial College London 2019).
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from foveal.geometry import Grid, reorientation
from foveal.reports.figures import INK, STYLE
from foveal.reports.slices import draw_outlines
from foveal.reports.views import PLANES, close_up, laid_out, pixel_mm_of, slice_axis

CORRECTED_COLOUR = "#2fbf4f"
CONSISTENT_COLOUR = "#e5383b"

MOST_IN_ROW = 6
PANEL_INCHES = 2.1


@dataclass(frozen=True, eq=False)
class MembersView:
    """One slice of a case as the reference, the members and the ensemble see it.

    Rows go downwards and columns to the right on the screen, as in
    `foveal.reports.views`.
    """

    image: NDArray[np.float32]

    reference: NDArray[Any]
    """Numbers of structures on the pixels of ``image``, as all label maps here."""

    members: Mapping[str, NDArray[Any]]
    ensemble: NDArray[Any]

    pixel_mm: tuple[float, float]
    """Height and width of a pixel."""

    plane: str
    """One of `PLANES`."""


def members_view(
    image: NDArray[np.float32],
    reference: NDArray[Any],
    members: Mapping[str, NDArray[Any]],
    ensemble: NDArray[Any],
    grid: Grid,
) -> MembersView:
    """Close-up of the slice in which the members together have most errors.

    Where none has any, the slice with most of the reference.

    Args:
        image: One channel, ``(i, j, k)`` in stored order.
        reference: Numbers of structures on the same grid, 0 background.
        members: Name to a label map with the same numbers; at least one.
        ensemble: Likewise.
        grid: Of all of them.
    """
    change = reorientation(grid, "LPS")
    lps = change.apply_to_grid(grid)
    axis = slice_axis(lps)
    others = tuple(other for other in range(3) if other != axis)
    expected = change.apply(reference)
    found = {name: change.apply(label_map) for name, label_map in members.items()}
    together = change.apply(ensemble)
    counts = np.sum(
        [np.count_nonzero(one != expected, axis=others) for one in found.values()],
        axis=0,
    )
    if not counts.any():
        counts = np.count_nonzero(expected, axis=others)
    place = int(counts.argmax())
    pixel_mm = pixel_mm_of(lps.spacing_mm, axis)
    shown = [expected, together, *found.values()]
    seen = laid_out(np.any([one != 0 for one in shown], axis=0), axis, place)
    window = close_up(seen, pixel_mm)

    def cut(volume: NDArray[Any]) -> NDArray[Any]:
        return laid_out(volume, axis, place)[window]

    return MembersView(
        image=cut(change.apply(image)),
        reference=cut(expected),
        members={name: cut(one) for name, one in found.items()},
        ensemble=cut(together),
        pixel_mm=pixel_mm,
        plane=PLANES[axis],
    )


def members_picture(view: MembersView, display_range: tuple[float, float]) -> bytes:
    """PNG of image, reference, every member with its errors, and the ensemble.

    Args:
        view: What to show.
        display_range: Intensities shown black and white.
    """
    panels = [
        ("image", None),
        ("reference", view.reference),
        *view.members.items(),
        ("ensemble", view.ensemble),
    ]
    columns = min(len(panels), MOST_IN_ROW)
    rows = math.ceil(len(panels) / columns)
    with rc_context(STYLE):
        size = (PANEL_INCHES * columns, (PANEL_INCHES + 0.2) * rows)
        figure = Figure(figsize=size)
        all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in all_axes:
            axes.set_axis_off()
        for axes, (title, label_map) in zip(all_axes, panels, strict=False):
            _draw_panel(axes, view, title, label_map, display_range)
        png = io.BytesIO()
        figure.tight_layout(pad=0.3)
        figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()


def _draw_panel(
    axes: Axes,
    view: MembersView,
    title: str,
    label_map: NDArray[Any] | None,
    display_range: tuple[float, float],
) -> None:
    aspect = view.pixel_mm[0] / view.pixel_mm[1]
    axes.imshow(
        view.image,
        cmap="gray",
        vmin=display_range[0],
        vmax=display_range[1],
        aspect=aspect,
        interpolation="bilinear",
    )
    axes.set_title(title, fontsize=9, color=INK)
    if label_map is None:
        return
    draw_outlines(axes, label_map, 1.1)
    colours = error_kinds(view.reference, label_map, view.ensemble)
    axes.imshow(colours, aspect=aspect, interpolation="nearest")


def error_kinds(
    reference: NDArray[Any], prediction: NDArray[Any], ensemble: NDArray[Any]
) -> NDArray[np.float64]:
    """Colour of every pixel's error, ``(row, column, 4)``; transparent where right.

    Green where the ensemble is right nevertheless, red where it is wrong too.
    """
    colours = np.zeros((*reference.shape, 4))
    is_wrong = prediction != reference
    remains = ensemble != reference
    for where, colour in (
        (is_wrong & ~remains, CORRECTED_COLOUR),
        (is_wrong & remains, CONSISTENT_COLOUR),
    ):
        rgb = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        colours[where] = (*rgb, 0.75)
    return colours
