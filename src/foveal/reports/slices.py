"""Slices of a volume with the outlines of its structures, laid out as in `views`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from foveal.case import IGNORED
from foveal.geometry import Grid, reorientation
from foveal.reports.views import PLANES, laid_out, pixel_mm_of, slice_axis

OUTLINE_COLOURS = (
    "#56b4e9",
    "#ffb000",
    "#2fd39a",
    "#dc267f",
    "#f5e663",
    "#a98bff",
    "#ff7f50",
)
"""Of structures on grey images; more structures than colours share them."""

IGNORED_SHADE = (0.35, 0.38, 0.42, 0.55)
"""Over voxels that carry no loss."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice, its rows downwards and its columns to the right on the screen."""

    image: NDArray[np.float32]

    labels: NDArray[Any] | None
    """Inside labels on the pixels of ``image``; ``None`` without any."""

    pixel_mm: tuple[float, float]
    """Height and width of a pixel."""

    plane: str
    """One of `PLANES`."""


def fullest_slice(
    image: NDArray[Any],
    labels: NDArray[Any] | None,
    grid: Grid,
    *,
    label: int | None = None,
    plane: str | None = None,
) -> Slice:
    """Slice with most of a structure, or the middle one where there is none of it.

    Args:
        image: One channel, ``(i, j, k)``.
        labels: Inside labels on the same grid.
        grid: Of both.
        label: Of the structure; ``None``: of all together.
        plane: One of `PLANES`; ``None``: that of a single slice, else axial, or across
            the coarsest axis of an anisotropic grid.
    """
    change = reorientation(grid, "LPS")
    lps = change.apply_to_grid(grid)
    axis = slice_axis(lps) if plane is None else PLANES.index(plane)
    place = lps.shape[axis] // 2
    turned = None if labels is None else change.apply(labels)
    if turned is not None:
        wanted = turned == label if label is not None else _is_structure(turned)
        others = tuple(other for other in range(3) if other != axis)
        counts = np.count_nonzero(wanted, axis=others)
        place = int(counts.argmax()) if counts.any() else place
    return Slice(
        image=laid_out(change.apply(image), axis, place),
        labels=None if turned is None else laid_out(turned, axis, place),
        pixel_mm=pixel_mm_of(lps.spacing_mm, axis),
        plane=PLANES[axis],
    )


def slab_slice(
    image: NDArray[np.float32], labels: NDArray[Any] | None, grid: Grid, axis: int
) -> Slice:
    """Lay out a slice that was cut across an axis of the volume as it is stored.

    Args:
        image: ``(i, j, k)``, one voxel thick along ``axis``.
        labels: Inside labels, likewise.
        grid: Of the whole volume.
        axis: 0 to 2.
    """
    change = reorientation(grid, "LPS")
    lps_axis = change.permutation.index(axis)
    return Slice(
        image=laid_out(change.apply(image), lps_axis, 0),
        labels=None if labels is None else laid_out(change.apply(labels), lps_axis, 0),
        pixel_mm=pixel_mm_of(change.apply_to_grid(grid).spacing_mm, lps_axis),
        plane=PLANES[lps_axis],
    )


def draw_slice(
    axes: Axes, shown: Slice, display_range: tuple[float, float], width: float = 1.3
) -> None:
    """Draw a slice with an outline per structure; ignored voxels are shaded.

    Args:
        axes: To draw in; their frame is taken away.
        shown: The slice.
        display_range: Intensities shown black and white.
        width: Of the outlines, in points.
    """
    rows_mm, columns_mm = shown.pixel_mm
    axes.imshow(
        shown.image,
        cmap="gray",
        vmin=display_range[0],
        vmax=display_range[1],
        aspect=rows_mm / columns_mm,
        interpolation="bilinear",
    )
    axes.set_axis_off()
    if shown.labels is None:
        return
    if (shown.labels == IGNORED).any():
        shade = np.zeros((*shown.labels.shape, 4))
        shade[shown.labels == IGNORED] = IGNORED_SHADE
        axes.imshow(shade, aspect=rows_mm / columns_mm, interpolation="nearest")
    structures = np.where(shown.labels == IGNORED, 0, shown.labels)
    draw_outlines(axes, structures, width)


def draw_outlines(
    axes: Axes, labels: NDArray[Any], width: float, colour: str | None = None
) -> None:
    """Outline every structure, so that structures which touch stay apart.

    Args:
        axes: To draw in, over a slice.
        labels: Numbers of structures on the slice's pixels, 0 background.
        width: Of the lines, in points.
        colour: Of all lines; ``None``: each structure has its own.
    """
    # A frame of background closes the outlines of structures that are cut off.
    framed = np.pad(labels, 1)
    rows, columns = (np.arange(-1, length + 1) for length in labels.shape)
    for label in np.unique(labels[labels != 0]).tolist():
        axes.contour(
            columns,
            rows,
            (framed == label).astype(np.float64),
            levels=[0.5],
            colors=colour or outline_colour(label),
            linewidths=width,
        )
    axes.set_xlim(-0.5, labels.shape[1] - 0.5)
    axes.set_ylim(labels.shape[0] - 0.5, -0.5)


def outline_colour(label: int) -> str:
    """Colour of an inside label, from 1."""
    return OUTLINE_COLOURS[(label - 1) % len(OUTLINE_COLOURS)]


def structure_legend(names: Mapping[int, str]) -> list[Line2D]:
    """Handles of a legend that names the outlines, by inside label."""
    return [
        Line2D([], [], color=outline_colour(label), linewidth=2, label=name)
        for label, name in names.items()
    ]


def percentile_range(
    values: NDArray[Any], percentiles: Sequence[float] = (0.5, 99.5)
) -> tuple[float, float]:
    """Intensities to show black and white: percentiles of the voxels that are not 0."""
    inside = values[values != 0]
    low, high = np.percentile(inside if inside.size else values, percentiles).tolist()
    return low, high


def _is_structure(labels: NDArray[Any]) -> NDArray[np.bool_]:
    return (labels != 0) & (labels != IGNORED)
