"""``foveal compare``: is one system better than another, and by how much?"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from foveal.cli.screen import console, errors_for_people, print_json

if TYPE_CHECKING:
    from foveal.metrics.comparison import Comparison, Difference

AGAINST = "vs"

WIDEST_NAME = 16
"""Characters of a structure's name that stay on one line in a narrow terminal."""


def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Files that foveal evaluate -o wrote, runs, or folders of runs; the "
            "others are compared with the first. For several seeds per system: "
            "A1.json A2.json vs B1.json B2.json",
            metavar="A.json B.json ...",
        ),
    ],
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="dice, hd95_mm and assd_mm if unset. Repeatable."
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="Of each system, in their order. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Picture (.png, .svg) or all values (.json)."
        ),
    ] = None,
    as_json: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--json", help="Print all values as JSON.")
    ] = False,
) -> None:
    """Compare evaluations of the same cases: paired tests, intervals and effects."""
    with errors_for_people():
        from foveal.commands import compare as command
        from foveal.metrics.comparison import COMPARED

        comparison = command.compare(
            *_systems(sources),
            metrics=metrics or COMPARED,
            names=names,
            output=output,
        )
        if as_json:
            print_json(comparison.as_record())
            return
        _print_tables(comparison)
        for note in comparison.notes:
            console.print(f"[yellow]note:[/] {escape(note)}", highlight=False)
        if output is not None:
            console.print(f"Written to {output}.", markup=False, soft_wrap=True)


def _systems(sources: list[str]) -> list[list[str]]:
    """Each source by itself, or the groups between the words ``vs``."""
    if AGAINST not in sources:
        return [[source] for source in sources]
    groups: list[list[str]] = [[]]
    for source in sources:
        if source == AGAINST:
            groups.append([])
        else:
            groups[-1].append(source)
    return groups


def _print_tables(comparison: "Comparison") -> None:
    """Print one table per system and metric, and what the columns mean."""
    from foveal.metrics.comparison import DEFINITIONS
    from foveal.metrics.evaluation import COLUMN_TITLES

    first = comparison.systems[0]
    for system in comparison.systems[1:]:
        for metric in comparison.metrics:
            table = Table(
                title=f"{COLUMN_TITLES.get(metric, metric)}: {escape(system)} less "
                f"{escape(first)}",
                box=box.SIMPLE_HEAD,
                padding=(0, 1, 0, 0),
                pad_edge=False,
            )
            longest = max(map(len, comparison.structures), default=0)
            table.add_column(
                "structure", overflow="fold", min_width=min(longest, WIDEST_NAME)
            )
            for title in (first, system, "change"):
                table.add_column(escape(title), justify="right", overflow="fold")
            for title in ("95 % interval", "better", "effect", "rank p", "t p"):
                table.add_column(title, justify="right", no_wrap=True)
            for structure in comparison.structures:
                entry = comparison.find(structure, metric, system)
                table.add_row(escape(structure), *_cells(entry))
            console.print(table)
            _print_spread(comparison, metric, system)
    num_tests = len(comparison.differences)
    console.print(
        f"[bold]change[/]: {DEFINITIONS['difference']}\n"
        f"[bold]95 % interval[/]: {DEFINITIONS['interval']}\n"
        f"[bold]better[/]: {DEFINITIONS['better']}\n"
        f"[bold]effect[/]: {DEFINITIONS['effect']}\n"
        f"[bold]rank p[/]: of Wilcoxon's {DEFINITIONS['wilcoxon_p']}; [bold]t p[/]: of "
        f"a {DEFINITIONS['t_test_p']}; both adjusted by Holm's method for the "
        f"{num_tests} test(s) of each kind that are made here",
        highlight=False,
    )
    if max(comparison.num_seeds) > 1:
        console.print(
            f"[bold]several seeds[/] ({_seeds(comparison)}): {DEFINITIONS['seeds']} "
            "over cases",
            highlight=False,
        )


def _seeds(comparison: "Comparison") -> str:
    return ", ".join(
        f"{escape(name)} {count}"
        for name, count in zip(comparison.systems, comparison.num_seeds, strict=True)
    )


def _print_spread(comparison: "Comparison", metric: str, system: str) -> None:
    """Print how far the seeds of both systems lie apart, where there are several."""
    entries = [
        comparison.find(structure, metric, system)
        for structure in comparison.structures
    ]
    for name, means in (
        (comparison.systems[0], [entry.first for entry in entries]),
        (system, [entry.second for entry in entries]),
    ):
        spread = ", ".join(
            f"{structure} {mean.seed_deviation:.3f}"
            for structure, mean in zip(comparison.structures, means, strict=True)
            if not math.isnan(mean.seed_deviation)
        )
        if spread:
            console.print(
                f"Deviation between the seeds of {name}: {spread}",
                markup=False,
                highlight=False,
            )


def _cells(entry: "Difference") -> list[str]:
    digits = 2 if entry.metric.endswith("_mm") else 3
    low, high = entry.interval
    count = len(entry.differences)
    return [
        _number(entry.first.mean, f".{digits}f"),
        _number(entry.second.mean, f".{digits}f"),
        _number(entry.mean_difference, f"+.{digits}f"),
        "-" if math.isnan(low) else f"{low:+.{digits}f} {high:+.{digits}f}",
        "-" if entry.num_better is None else f"{entry.num_better}/{count}",
        _number(entry.effect, "+.2f"),
        _p(entry.wilcoxon_p_holm),
        _p(entry.t_test_p_holm),
    ]


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else _number(value, ".3f")


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
