"""``foveal refresh-error-maps``: what a training runs beside itself, not a person."""

from pathlib import Path
from typing import Annotated

import typer

from foveal.cli.options import PluginFiles
from foveal.cli.screen import errors_for_people


def refresh_error_maps(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", metavar="RUN")],
    device: Annotated[str, typer.Option(help="PyTorch's name of the device.")],
    threads: Annotated[int, typer.Option(help="Of the processor.", min=1)],
    plugin: PluginFiles = None,
) -> None:
    """Predict training cases with the newest weights, for as long as input is open."""
    with errors_for_people():
        from foveal.commands.refresh_error_maps import refresh_error_maps as command

        command(run, device=device, threads=threads, plugins=plugin or ())
