"""Picture of the cases of a data set that are odd, with what is odd about each."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveal.reports.slices import Slice, draw_slice, structure_legend

COLUMNS = 4
PANEL_INCHES = 3.2
TEXT_INCHES = 1.0
"""Height of the words below a panel."""

LETTERS_PER_LINE = 46
MOST_LINES = 5

SEVERITY_COLOURS = {"error": "#b3261e", "warning": "#8a5a00", "note": "#2a6f97"}

INK, FAINT = "#1f2933", "#7b8794"


@dataclass(frozen=True, eq=False)
class Panel:
    """One odd case."""

    case: str

    severity: str
    """``"error"``, ``"warning"`` or ``"note"``: the worst that was found."""

    words: Sequence[str]
    """What was found, the worst first."""

    shown: Slice | None
    """``None``: the case cannot be shown."""

    display_range: tuple[float, float]


def odd_cases_picture(panels: Sequence[Panel], structures: Mapping[int, str]) -> bytes:
    """PNG with a panel per case.

    Args:
        panels: At least one.
        structures: Inside label to name.
    """
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with rc_context({"font.family": "sans-serif", "font.size": 9}):
        figure = Figure(
            figsize=(columns * PANEL_INCHES, rows * (PANEL_INCHES + TEXT_INCHES) + 0.4),
            layout="constrained",
        )
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw(axes, panel)
        figure.legend(
            handles=structure_legend(structures),
            loc="outside lower center",
            ncols=min(len(structures), 6) or 1,
            frameon=False,
        )
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()


def _draw(axes: Axes, panel: Panel) -> None:
    title = textwrap.shorten(panel.case, LETTERS_PER_LINE, placeholder="…")
    axes.set_title(title, fontsize=10, fontweight="bold", color=INK)
    if panel.shown is None:
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.text(0.5, 0.5, "cannot be shown", ha="center", va="center", color=FAINT)
    else:
        draw_slice(axes, panel.shown, panel.display_range)
    lines = [
        line for words in panel.words for line in textwrap.wrap(words, LETTERS_PER_LINE)
    ]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], "…"]
    axes.text(
        0.5,
        -0.03,
        "\n".join(lines),
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=8,
        color=SEVERITY_COLOURS[panel.severity],
    )
