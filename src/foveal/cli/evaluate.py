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
            help="Folder of label maps, or of a folder per case with a mask per "
            "structure; one label map; a run, or a folder of runs (every case as the "
            "run predicted it that had left it out).",
            metavar="PREDICTIONS|RUNS",
        ),
    ],
    references: Annotated[
        Path | None,
        typer.Argument(
            help="Likewise, or a data set. For runs their own data set if left out.",
            metavar="REFERENCES",
        ),
    ] = None,
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
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Name a label of the references and measure only those named, e.g. "
            "liver=1. Repeatable.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    prediction_labels: Annotated[
        list[str] | None,
        typer.Option(
            help="What a structure is in the predictions if it is something else "
            "there: values or names of masks, e.g. liver=6 or lung=lung_left,"
            "lung_right. Repeatable.",
            metavar="NAME=VALUES",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all values as JSON.")
    ] = False,
) -> None:
    """Measure segmentations: overlap, surface distances and volumes per case."""
    named_regions = dict(_region(text) for text in regions or ())
    named_labels = dict(_label(text) for text in labels or ())
    of_predictions = dict(_parts(text) for text in prediction_labels or ())
    with errors_for_people():
        from foveal.commands import evaluate as command

        with progress("measuring") as on_progress:
            evaluation = command.evaluate(
                predictions,
                references,
                regions=named_regions,
                labels=named_labels or None,
                prediction_labels=of_predictions or None,
                output=output,
                on_progress=on_progress,
            )
        if as_json:
            print_json(evaluation.as_record())
            return
        _print_means(evaluation)
        _print_class_scores(evaluation)
        _print_worst(evaluation)
        for note in evaluation.notes:
            console.print(f"[yellow]note:[/] {escape(note)}", highlight=False)
        if output is not None:
            console.print(
                f"All values written to {output}.", markup=False, soft_wrap=True
            )


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


def _label(text: str) -> tuple[str, int | str]:
    """Parse ``NAME=VALUE``."""
    name, (part, *others) = _parts(text, option="--labels")
    if others:
        raise typer.BadParameter(
            f'"{text}" must name one value; a union of labels is a region, --regions',
            param_hint="--labels",
        )
    return name, part


def _parts(
    text: str, option: str = "--prediction-labels"
) -> tuple[str, tuple[int | str, ...]]:
    """Parse ``NAME=1,2`` or ``NAME=first_mask,second_mask``."""
    name, _, values = text.partition("=")
    parts = [part.strip() for part in values.split(",")]
    if not name or not all(parts):
        raise typer.BadParameter(
            f'"{text}" must be a name and what it is there, for example liver=1',
            param_hint=option,
        )
    return name, tuple(int(part) if part.isdecimal() else part for part in parts)


def _print_class_scores(evaluation: "Evaluation") -> None:
    """Print what holds for all voxels of all cases together."""
    scores = ", ".join(
        f"{name.replace('_', ' ').replace('iou', 'IoU').replace('dice', 'Dice')} "
        f"{value:.3f}"
        for name, value in evaluation.class_scores.items()
    )
    if scores:
        console.print(
            f"All voxels together, background included: {scores}", highlight=False
        )


def _print_means(evaluation: "Evaluation") -> None:
    """Print the table of means and what its columns mean."""
    from foveal.metrics.evaluation import COLUMN_TITLES

    console.print(evaluation.table())
    for metric, title in COLUMN_TITLES.items():
        console.print(
            f"[bold]{title}[/]: {evaluation.definitions[metric]}", highlight=False
        )
    console.print("NaN is not averaged; cases are those that have a Dice.")


def _print_worst(evaluation: "Evaluation") -> None:
    table = Table("case", "structure", title="Lowest Dice")
    table.add_column("Dice", justify="right")
    for row in evaluation.worst(WORST_SHOWN):
        table.add_row(escape(row.case), escape(row.structure), f"{row.value:.3f}")
    console.print(table)
