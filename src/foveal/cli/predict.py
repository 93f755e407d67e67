"""``foveal predict``: label maps for new scans."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from foveal.cli.screen import console, errors_for_people, print_json, progress

if TYPE_CHECKING:
    from foveal.inference.record import Outcome

ROWS_SHOWN = 40
"""Of the table; predictions.jsonl holds all."""


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="One or more runs, folders of runs or model files (averaged), then a "
            "scan, a folder of scans or a data set, then the folder for the label "
            "maps.",
            metavar="MODEL [MODEL ...] INPUT OUTPUT",
        ),
    ],
    *,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Also write a volume per structure."),
    ] = False,
    snapshots: Annotated[
        bool,
        typer.Option(
            "--snapshots", help="Average the snapshots of runs with a cyclic schedule."
        ),
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also write entropies and, of several passes, mutual information and "
            "variances.",
        ),
    ] = False,
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror",
            help="See every scan reversed too, along the axes that the plan allows.",
        ),
    ] = False,
    dropout_passes: Annotated[
        int | None,
        typer.Option(help="See every scan so often with dropout on.", min=2),
    ] = None,
    crf: Annotated[
        bool,
        typer.Option("--crf", help="Refine by the CRF that foveal tune-crf chose."),
    ] = False,
    fusion: Annotated[
        Literal["mean", "majority", "weighted", "staple"],
        typer.Option(
            help="What is made of several models: the mean of their probabilities, a "
            "vote of the majority, a vote weighted by validated Dice, or STAPLE."
        ),
    ] = "mean",
    postprocessing: Annotated[
        str | None,
        typer.Option(
            help="What follows the network, in place of the model's own: a file, or "
            "none.",
            metavar="FILE|none",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="That the program may take, such as 4G or 500M; most of what is free "
            "if unset. What does not fit waits on disk.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on in an OUTPUT that holds predictions already."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record of every case as JSON.")
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="To compute on.")
    ] = "auto",
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            help="Python file of the run's network, if a plugin added it; it is run. "
            "May be repeated."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; all if unset.", min=1)
    ] = None,
) -> None:
    """Segment scans with one model or the average of several.

    Exit status: 0 every case is predicted, 3 some failed, 1 nothing could be predicted.
    """
    if len(paths) < 3:
        raise typer.BadParameter("needs at least one MODEL, an INPUT and an OUTPUT")
    *models, source, output = paths
    with errors_for_people():
        from foveal.commands.predict import predict as command
        from foveal.inference.memory import memory_bytes

        with progress("predicting") as on_progress:
            outcomes = command(
                models,
                source,
                output,
                probabilities=probabilities,
                uncertainty=uncertainty,
                mirror=mirror,
                dropout_passes=dropout_passes,
                crf=crf,
                postprocessing=postprocessing,
                memory_bytes=None if memory is None else memory_bytes(memory),
                snapshots=snapshots,
                fusion=fusion,
                resume=resume,
                device=device,
                threads=threads,
                plugins=plugin or (),
                on_progress=on_progress,
            )
        if as_json:
            print_json([outcome.as_record() for outcome in outcomes])
        else:
            _print_summary(outcomes, output)
        num_failed = sum(outcome.status == "failed" for outcome in outcomes)
        if num_failed:
            raise typer.Exit(1 if num_failed == len(outcomes) else 3)


def _print_summary(outcomes: list["Outcome"], output: Path) -> None:
    """What needs a person's eye, failures first, then the counts."""
    styles = {"failed": "bold red", "suspect": "yellow"}
    shown = [
        outcome for status in styles for outcome in outcomes if outcome.status == status
    ]
    if shown:
        table = Table("case", "", "why", show_lines=True)
        for outcome in shown[:ROWS_SHOWN]:
            table.add_row(
                escape(outcome.case),
                f"[{styles[outcome.status]}]{outcome.status}[/]",
                escape("\n".join(outcome.reasons)),
            )
        console.print(table)
        if len(shown) > ROWS_SHOWN:
            console.print(f"and {len(shown) - ROWS_SHOWN} more: see predictions.jsonl")
    counts = {
        status: sum(outcome.status == status for outcome in outcomes)
        for status in ("done", "suspect", "failed")
    }
    written = f"{counts['done'] + counts['suspect']} label map(s) in {output}"
    if counts["suspect"]:
        written += f", {counts['suspect']} of them suspect: look at these first"
    if counts["failed"]:
        written += f"; {counts['failed']} case(s) failed"
    console.print(written, markup=False, highlight=False, soft_wrap=True)
