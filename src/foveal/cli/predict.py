"""``foveal predict``: label maps for new scans."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from foveal.cli.screen import console, errors_for_people, progress


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="One or more folders of runs (averaged), then a scan, a folder of "
            "scans or a data set, then the folder for the label maps.",
            metavar="RUN [RUN ...] INPUT OUTPUT",
        ),
    ],
    probabilities: Annotated[  # noqa: FBT002 - a flag of the command line
        bool,
        typer.Option("--probabilities", help="Also write a volume per structure."),
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
    """Segment scans with one run or the average of several."""
    if len(paths) < 3:
        raise typer.BadParameter("needs at least one RUN, an INPUT and an OUTPUT")
    *runs, source, output = paths
    with errors_for_people():
        from foveal.commands.predict import predict as command

        with progress("predicting") as on_progress:
            written = command(
                runs,
                source,
                output,
                probabilities=probabilities,
                device=device,
                threads=threads,
                plugins=plugin or (),
                on_progress=on_progress,
            )
        console.print(
            f"{len(written)} label map(s) written to {output}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
