"""``foveal plan``: the plan of a data set, explained and written as TOML."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from foveal.cli.screen import console, errors_for_people, print_json, progress


def plan(
    dataset: Annotated[
        Path, typer.Argument(help="Folder or table of the data set.", metavar="DATASET")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the plan (TOML).")
    ] = Path("plan.toml"),
    memory_gb: Annotated[
        float | None,
        typer.Option(help="Memory for a training step; half of what is left if unset."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; all if unset.", min=1)
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="To train on.")
    ] = "auto",
    resample_channels: Annotated[  # noqa: FBT002 - a flag of the command line
        bool,
        typer.Option(
            "--resample-channels", help="Bring all channels onto the grid of the first."
        ),
    ] = False,
    missing_channel_value: Annotated[
        float | None,
        typer.Option(
            help="Fill channels that cases lack with it after normalisation, as -4."
        ),
    ] = None,
    as_json: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--json", help="Print the plan as JSON.")
    ] = False,
) -> None:
    """Look at a data set and decide how to train on it; says what and why."""
    with errors_for_people():
        from foveal.commands import plan as command
        from foveal.io.datasets import read_dataset

        listed = read_dataset(dataset)
        with progress("looking at the cases") as on_progress:
            planned = command.plan(
                listed,
                memory_gb=memory_gb,
                threads=threads,
                device=device,
                output=output,
                resample_channels=resample_channels,
                missing_channel_value=missing_channel_value,
                on_progress=on_progress,
            )
        if as_json:
            print_json(planned.plan.model_dump(mode="json"))
            return
        if listed.left_out:
            console.print(listed.left_out, markup=False, highlight=False)
        for reason in planned.reasons:
            topic, _, text = reason.partition(": ")
            style = "bold yellow" if topic == "Warning" else "bold"
            console.print(f"[{style}]{topic}[/]: ", end="")
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        console.print(
            f"Plan written to {output}; edit it as you like.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
