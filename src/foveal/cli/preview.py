"""``foveal preview``: training patches with their labels, as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from foveal.cli.options import Changes, PlanFile, PluginFiles
from foveal.cli.screen import console, errors_for_people, training_progress


def preview(
    source: Annotated[
        Path,
        typer.Argument(
            help="A data set, a settings file that names one, or a run.",
            metavar="DATASET|SETTINGS.toml|RUN",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Picture (PNG).")
    ] = Path("preview.png"),
    plan: PlanFile = None,
    options: Changes = None,
    plugin: PluginFiles = None,
    step: Annotated[
        int, typer.Option(help="Step of the training whose patches to show.", min=0)
    ] = 0,
) -> None:
    """Show augmented training patches, and where in the cases patches are drawn."""
    with errors_for_people():
        from foveal.commands.preview import preview as command

        with training_progress() as watcher:
            path = command(
                source,
                output,
                plan=plan,
                options=options or (),
                plugins=plugin or (),
                step=step,
                watcher=watcher,
            )
        console.print(f"Picture: {path}", markup=False, highlight=False, soft_wrap=True)
