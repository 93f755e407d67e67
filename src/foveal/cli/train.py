"""``foveal train``: from labelled scans to a run that predicts."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from foveal.cli.options import Changes, PlanFile, PluginFiles
from foveal.cli.screen import console, errors_for_people, training_progress

DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def train(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder or table of a data set, or a settings file that names one.",
            metavar="DATASET|SETTINGS.toml",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    budget: Annotated[
        str | None, typer.Option(help="Time to train, for example 90s, 10m or 1h30m.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Or the number of updates.", min=1)
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            help="Part to validate on, from 0; or all: one run for each.",
            metavar="K|all",
        ),
    ] = None,
    plan: PlanFile = None,
    options: Changes = None,
    plugin: PluginFiles = None,
    resume: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--resume", help="Continue the run in --out.")
    ] = False,
) -> None:
    """Train one fold, or all of them, validate, and keep everything in one folder."""
    with errors_for_people():
        from foveal.commands.train import (
            presence_scores,
            trained_classifier,
            validation_scores,
        )
        from foveal.commands.train import train as command

        with training_progress() as watcher:
            run = command(
                source,
                out,
                steps=steps,
                budget_seconds=None if budget is None else seconds(budget),
                fold=None if fold is None else fold_number(fold),
                plan=plan,
                options=options or (),
                plugins=plugin or (),
                resume=resume,
                watcher=watcher,
            )
        scores = validation_scores(run)
        if scores:
            console.print(
                "Validation Dice (the best checkpoints were chosen by these):"
            )
        for structure, dice in scores.items():
            console.print(f"  {escape(structure)}: {dice:.4f}", highlight=False)
        presence = presence_scores(run)
        if presence:
            console.print(
                "Validation balanced accuracy (the best checkpoints were chosen by it):"
            )
        for structure, told in presence.items():
            accuracy = told.balanced_accuracy
            words = "not defined" if accuracy is None else f"{accuracy:.4f}"
            console.print(f"  {escape(structure)}: {words}", highlight=False)
        following = f"foveal predict {run} INPUT OUTPUT"
        if trained_classifier(run):
            following = (
                "start a segmentation network from it with foveal train DATASET "
                f"--out OUT --set transfer.weights={run}"
            )
        console.print(
            f"Kept in {run}. Next: foveal report {run}, or {following}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def fold_number(text: str) -> int | Literal["all"]:
    """Number of a fold, or ``all``."""
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise typer.BadParameter(
            f'"{text}" is no fold; write its number, from 0, or all',
            param_hint="--fold",
        )
    return int(text)


def seconds(duration: str) -> float:
    """Seconds of a duration like ``90s``, ``10m`` or ``1h30m``."""
    match = DURATION.fullmatch(duration.strip())
    if not match or not any(match.groups()):
        raise typer.BadParameter(
            f'"{duration}" is no duration; write for example 90s, 10m or 1h30m',
            param_hint="--budget",
        )
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + rest
    if total == 0:
        raise typer.BadParameter("must be longer than 0 s", param_hint="--budget")
    return float(total)
