"""Options that mean the same in several verbs."""

from pathlib import Path
from typing import Annotated

import typer

PlanFile = Annotated[
    Path | None, typer.Option(help="Plan file; made from the data if unset.")
]

Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="table.name=value; may be repeated."),
]

PluginFiles = Annotated[
    list[Path] | None,
    typer.Option(
        help="Python file that adds a loss, network, sampler or method; it is run. "
        "May be repeated."
    ),
]
