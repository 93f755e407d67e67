"""``foveal ensemble train`` and ``table``: members trained, chosen and measured."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from foveal.cli.options import PluginFiles
from foveal.cli.screen import (
    console,
    errors_for_people,
    print_json,
    training_progress,
)

if TYPE_CHECKING:
    from foveal.commands.ensemble_table import EnsembleTable, SystemScores
    from foveal.engine.ensemble_directory import MemberOutcome

AsJson = Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")]


def train(
    settings: Annotated[
        Path,
        typer.Argument(help="File that names the members.", metavar="SETTINGS.toml"),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the ensemble.")],
    *,
    workers: Annotated[
        int,
        typer.Option(
            help="Members trained at once; the processor's threads are divided.", min=1
        ),
    ] = 1,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on in --out; finished members stay."),
    ] = False,
    plugin: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Train several unlike networks, and let those that are good enough enter.

    Exit status: 0 all members are trained, 3 some failed, 1 there is no ensemble.
    """
    with errors_for_people():
        from foveal.commands.ensemble_train import ensemble_train

        with training_progress() as watcher:
            trained = ensemble_train(
                settings,
                out,
                workers=workers,
                resume=resume,
                plugins=plugin or (),
                watcher=watcher,
            )
        _print(trained.table, as_json=as_json)
        if not as_json:
            console.print(
                f"Kept in {out}. Next: foveal report {out}, or foveal predict {out} "
                "INPUT OUTPUT",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if any(outcome.steps is None for outcome in trained.outcomes):
            raise typer.Exit(3)


def table(
    ensemble: Annotated[
        Path,
        typer.Argument(help="Folder of an ensemble.", metavar="ENSEMBLE"),
    ],
    *,
    plugin: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Measure the members and ensembles of 2, 3, … of them again."""
    with errors_for_people():
        from foveal.commands.ensemble_train import ensemble_measure

        with training_progress() as watcher:
            trained = ensemble_measure(ensemble, plugins=plugin or (), watcher=watcher)
        _print(trained.table, as_json=as_json)


def _print(made: "EnsembleTable", *, as_json: bool) -> None:
    if as_json:
        print_json(made.as_record())
        return
    console.print(_members_table(made))
    for metric, title in (("dice", "Dice"), ("sensitivity", "Sensitivity")):
        console.print(_systems_table(made, metric, title))
    _print_comparison(made)


def _members_table(made: "EnsembleTable") -> Table:
    shown = _table(f"Members: Dice of {escape(made.region)}")
    shown.add_column("member", overflow="fold")
    for title in ("steps", "Dice", "entered"):
        shown.add_column(title, justify="right")
    shown.add_column("why not", overflow="fold")
    for outcome in made.outcomes:
        shown.add_row(*_member_cells(outcome))
    return shown


def _member_cells(outcome: "MemberOutcome") -> tuple[str, ...]:
    return (
        escape(outcome.name),
        "-" if outcome.steps is None else str(outcome.steps),
        "-" if outcome.dice is None else f"{outcome.dice:.4f}",
        "yes" if outcome.entered else "no",
        escape(outcome.reason),
    )


def _systems_table(made: "EnsembleTable", metric: str, title: str) -> Table:
    shown = _table(f"{title}: mean and deviation over validation cases")
    shown.add_column("", overflow="fold")
    for structure in made.structures:
        shown.add_column(escape(structure), justify="right", overflow="fold")
    for system in made.systems:
        name = escape(system.name) + ("" if system.entered else " (not entered)")
        cells = [_score(system, structure, metric) for structure in made.structures]
        shown.add_row(name, *cells)
    return shown


def _score(system: "SystemScores", structure: str, metric: str) -> str:
    score = system.find(structure, metric)
    if math.isnan(score.mean):
        return "-"
    if math.isnan(score.std):
        return f"{score.mean:.4f}"
    return f"{score.mean:.4f} ± {score.std:.3f}"


def _print_comparison(made: "EnsembleTable") -> None:
    for entry in made.against_best:
        if entry.metric != "dice" or math.isnan(entry.mean_difference):
            continue
        low, high = entry.interval
        p = entry.wilcoxon_p_holm
        words = "not defined" if math.isnan(p) else f"{p:.3g}"
        console.print(
            f"{entry.structure}: the ensemble is {entry.mean_difference:+.4f} Dice "
            f"({low:+.4f} to {high:+.4f}) from its best member, {made.best_member}; "
            f"better in {entry.num_better} of {len(entry.differences)} cases, rank p "
            f"{words}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
