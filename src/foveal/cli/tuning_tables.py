"""What the verbs that tune print of a choice and its worth."""

import math
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from foveal.cli.screen import console

if TYPE_CHECKING:
    from foveal.commands.choosing import Verdict
    from foveal.metrics.comparison import Difference


def print_verdict(title: str, verdict: "Verdict") -> None:
    """Print Dice per structure: before, with the choice, and as others chose."""
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Dice of", overflow="fold")
    for name in ("before", "after", "left out", "change", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    comparison = verdict.comparison()
    for entry in comparison.differences:
        after = [
            case[entry.structure] for case in verdict.after if entry.structure in case
        ]
        table.add_row(escape(entry.structure), *_cells(entry, after))
    if len(comparison.structures) > 1:
        change = verdict.score_left_out - verdict.score_before
        table.add_row(
            "mean",
            f"{verdict.score_before:.4f}",
            f"{verdict.score_after:.4f}",
            f"{verdict.score_left_out:.4f}",
            f"{change:+.4f}",
            p_in_words(verdict.p_value),
        )
    console.print(table)


def print_meanings(num_cases: int) -> None:
    """Print what the columns of `print_verdict` mean."""
    console.print(
        f"[bold]after[/]: chosen and measured on the same {num_cases} cases, so too "
        "good\n"
        "[bold]left out[/]: each patient with what the other patients chose, to be "
        "expected in other cases; [bold]change[/] and [bold]p[/] (Wilcoxon's signed "
        "ranks; of structures adjusted by Holm's method) are of this column\n"
        "A structure that is absent from prediction and reference counts as 1.",
        highlight=False,
    )


def p_in_words(p_value: float | None) -> str:
    """In three digits, or a dash where there is none."""
    if p_value is None or math.isnan(p_value):
        return "-"
    return "<.001" if p_value < 0.001 else f"{p_value:.3f}"


def _cells(entry: "Difference", after: list[float]) -> tuple[str, ...]:
    return (
        f"{entry.first.mean:.4f}",
        f"{sum(after) / len(after):.4f}",
        f"{entry.second.mean:.4f}",
        f"{entry.mean_difference:+.4f}",
        p_in_words(entry.wilcoxon_p_holm),
    )
