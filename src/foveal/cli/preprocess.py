"""``foveal preprocess``: fill the store from which training reads."""

from pathlib import Path
from typing import Annotated

import typer

from foveal.cli.screen import console, errors_for_people, progress


def preprocess(
    dataset: Annotated[
        Path, typer.Argument(help="Folder or table of the data set.", metavar="DATASET")
    ],
    plan: Annotated[
        Path | None,
        typer.Option(help="Plan file (TOML); the data set is planned now if unset."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder for the results; one of the user's cache if unset."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Cases at once; all CPU threads if unset.", min=1)
    ] = None,
) -> None:
    """Preprocess every case; stopped at any moment, it goes on when called again."""
    with errors_for_people():
        from foveal.commands import preprocess as command
        from foveal.io.datasets import read_dataset
        from foveal.store.store import default_store_root

        folder = store or default_store_root()
        console.print(f"store: {folder}", markup=False, highlight=False)
        listed = read_dataset(dataset)
        if listed.left_out:
            console.print(listed.left_out, markup=False, highlight=False)
        with progress("preprocessing") as on_progress:
            stored = command.preprocess(
                listed, plan, store=folder, threads=threads, on_progress=on_progress
            )
        console.print(f"{len(stored)} cases are ready.", highlight=False)
