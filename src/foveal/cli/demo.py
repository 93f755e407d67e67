"""``foveal demo``: the whole chain on made-up scans."""

from pathlib import Path
from typing import Annotated

import typer

from foveal.cli.screen import console, errors_for_people, training_progress


def demo(
    out: Annotated[Path, typer.Option(help="Folder to be made.")] = Path("foveal-demo"),
) -> None:
    """Make scans, check, plan, train, predict, evaluate and report; some minutes."""
    with errors_for_people():
        from foveal.commands.demo import demo as command

        with training_progress() as watcher:
            made = command(out, watcher=watcher)
        for line in (
            "Dice on new scans, which training never saw:",
            *(f"  {structure}: {dice:.3f}" for structure, dice in made.dice.items()),
            f"Done in {made.seconds:.0f} s. Open the report: {made.report}",
            f"Segmentations of the new scans: {made.predictions}",
            "Now with your own scans: foveal train YOUR_DATA --out my-run --budget 10m",
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
