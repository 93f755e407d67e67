"""``foveal preview``: training patches with their labels, as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foveal.cli.options import Changes, PlanFile, PluginFiles
from foveal.cli.screen import (
    console,
    errors_for_people,
    print_json,
    training_progress,
)
from foveal.errors import SettingsError

if TYPE_CHECKING:
    from foveal.commands.distribution import Distribution


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
    *,
    plan: PlanFile = None,
    options: Changes = None,
    plugin: PluginFiles = None,
    step: Annotated[
        int, typer.Option(help="Step of the training whose patches to show.", min=0)
    ] = 0,
    distribution: Annotated[
        int | None,
        typer.Option(
            help="Draw so many patches and, in place of the picture, print the classes "
            "of the training cases and of what the patches show the loss.",
            metavar="PATCHES",
            min=1,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the distribution as JSON.")
    ] = False,
) -> None:
    """Show augmented training patches, and where in the cases patches are drawn."""
    with errors_for_people():
        if distribution is not None:
            from foveal.commands.distribution import distribution as measured

            with training_progress() as watcher:
                found = measured(
                    source,
                    plan=plan,
                    options=options or (),
                    plugins=plugin or (),
                    num_patches=distribution,
                    watcher=watcher,
                )
            if as_json:
                print_json(found.as_table())
            else:
                _print_distribution(found)
            return
        if as_json:
            raise SettingsError("--json goes with --distribution PATCHES; add it")
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


def _print_distribution(found: "Distribution") -> None:
    console.print(
        f"{found.num_cases} training cases; {found.num_patches} patches of "
        f"{_times(found.patch_size)} voxels, of which {_times(found.predicted_size)} "
        "are predicted",
        highlight=False,
    )
    table = Table("class")
    for heading in ("in the cases", "in the patches"):
        table.add_column(heading, justify="right")
    for one in found.classes:
        shares = one.real_fraction, one.captured_fraction
        table.add_row(escape(one.name), *(f"{100 * share:.2f} %" for share in shares))
    console.print(table)


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
