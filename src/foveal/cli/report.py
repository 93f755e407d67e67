"""``foveal report``: how a run, or all folds, went; which predictions to look at."""

from pathlib import Path
from typing import Annotated

import typer

from foveal.cli.screen import console, errors_for_people


def report(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder that foveal train wrote, a folder of runs, an ensemble, or a "
            "folder that foveal predict wrote.",
            metavar="RUN|RUNS|ENSEMBLE|PREDICTIONS",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="HTML file; report.html in the folder if unset."
        ),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--beside",
            help="Another run, whose loss and validation scores are drawn with these, "
            "such as one without adaptive sampling. May be repeated.",
            metavar="RUN|RUNS",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Of predictions only: folder that was predicted from, for pictures."
        ),
    ] = None,
) -> None:
    """Make one HTML file of a run, worst cases first, or of predicted cases."""
    with errors_for_people():
        from foveal.commands.report import report as command

        with console.status("drawing the report"):
            path = command(run, output, beside=beside or (), images=images)
        console.print(f"Report: {path}", markup=False, highlight=False, soft_wrap=True)
