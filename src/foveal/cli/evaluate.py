"""``foveal evaluate``: predictions against references, in numbers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foveal.cli.screen import console, errors_for_people, print_json, progress

if TYPE_CHECKING:
    from foveal.metrics.evaluation import Evaluation

WORST_SHOWN = 5


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="Folder of label maps, or one label map.", metavar="PREDICTIONS"
        ),
    ],
    references: Annotated[
        Path,
        typer.Argument(
            help="Folder of label maps, one label map, or a data set.",
            metavar="REFERENCES",
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for all values (.json or .csv)."),
    ] = None,
    regions: Annotated[
        list[str] | None,
        typer.Option(
            help="Also measure a union of labels, e.g. whole=1,2,3,4. Repeatable.",
            metavar="NAME=VALUES",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all values as JSON.")
    ] = False,
) -> None:
    """Measure segmentations: overlap, surface distances and volumes per case."""
    named_regions = dict(_region(text) for text in regions or ())
    with errors_for_people():
        from foveal.commands import evaluate as command

        with progress("measuring") as on_progress:
            evaluation = command.evaluate(
                predictions,
                references,
                regions=named_regions,
                output=output,
                on_progress=on_progress,
            )
        if as_json:
            print_json(evaluation.as_record())
            return
        _print_means(evaluation)
        _print_worst(evaluation)
        for note in evaluation.notes:
            console.print(f"[yellow]note:[/] {escape(note)}", highlight=False)
        if output is not None:
            console.print(f"All values written to {output}.", markup=False)


def _region(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse ``NAME=1,2,3``."""
    name, _, values = text.partition("=")
    try:
        return name, tuple(int(value) for value in values.split(","))
    except ValueError:
        raise typer.BadParameter(
            f'"{text}" must be a name and label values, for example whole=1,2,3,4',
            param_hint="--regions",
        ) from None


def _print_means(evaluation: "Evaluation") -> None:
    """Print the table of means and what its columns mean."""
    from foveal.metrics.evaluation import COLUMN_TITLES, DEFINITIONS

    console.print(evaluation.table())
    for metric, title in COLUMN_TITLES.items():
        console.print(f"[bold]{title}[/]: {DEFINITIONS[metric]}", highlight=False)
    console.print("NaN is not averaged; cases are those that have a Dice.")


def _print_worst(evaluation: "Evaluation") -> None:
    table = Table("case", "structure", title="Lowest Dice")
    table.add_column("Dice", justify="right")
    for row in evaluation.worst(WORST_SHOWN):
        table.add_row(escape(row.case), escape(row.structure), f"{row.value:.3f}")
    console.print(table)
