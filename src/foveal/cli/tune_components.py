"""``foveal tune-components``: which components of a prediction stay."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from foveal.cli.options import PluginFiles
from foveal.cli.screen import console, errors_for_people, print_json, progress
from foveal.cli.tuning_tables import p_in_words, print_meanings, print_verdict

if TYPE_CHECKING:
    from foveal.commands.tune_components import TunedComponents


def tune_components(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder that foveal train wrote, a cross-validation or an ensemble.",
            metavar="RUN",
        ),
    ],
    max_cases: Annotated[
        int | None,
        typer.Option(help="Only the first validation cases; all if unset.", min=2),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or mps.", metavar="DEVICE")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; all if unset.", min=1)
    ] = None,
    plugin: PluginFiles = None,
    as_json: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--json", help="Print all values as JSON.")
    ] = False,
) -> None:
    """Choose on validation cases which components stay; predict follows if it helps."""
    with errors_for_people():
        from foveal.commands.tune_components import tune_components as command

        with progress("trying rules") as on_progress:
            tuned = command(
                run,
                max_cases=max_cases,
                device=device,
                threads=threads,
                plugins=plugin or (),
                on_progress=on_progress,
            )
        if as_json:
            print_json(tuned.as_record())
            return
        _print_tried(tuned)
        if tuned.together is None:
            console.print(
                "No rule helps reliably in patients that it was not chosen on; none is "
                "kept, and foveal predict leaves components as they are.",
                highlight=False,
            )
            return
        print_verdict("All rules that are kept", tuned.together)
        print_meanings(len(tuned.together.cases))
        console.print(
            f"Kept in {run / 'postprocessing.toml'}; foveal predict follows it.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _print_tried(tuned: "TunedComponents") -> None:
    from foveal.commands.tune_components import rule_in_words

    table = Table(
        title="Best rule for the components of each structure",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("structure", "rule"):
        table.add_column(name, overflow="fold")
    for name in ("mean Dice", "after", "left out", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("kept")
    for one in tuned.tried:
        verdict = one.verdict
        table.add_row(
            escape(" + ".join(one.structures)),
            "none" if one.best is None else rule_in_words(one.best),
            f"{verdict.score_before:.4f}",
            f"{verdict.score_after:.4f}",
            f"{verdict.score_left_out:.4f}",
            p_in_words(one.p_value),
            "yes" if one.is_kept else "no",
        )
    console.print(table)
