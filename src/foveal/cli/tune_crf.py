"""``foveal tune-crf``: parameters of the CRF, and whether it helps."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from foveal.cli.options import PluginFiles
from foveal.cli.screen import console, errors_for_people, print_json, progress
from foveal.cli.tuning_tables import print_meanings, print_verdict

if TYPE_CHECKING:
    from foveal.commands.tune_crf import TunedCrf


def tune_crf(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder that foveal train wrote, a cross-validation or an ensemble.",
            metavar="RUN",
        ),
    ],
    trials: Annotated[
        int | None,
        typer.Option(
            help="Parameters to draw at random, 40 if unset, beside the usual ones.",
            min=1,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the draws, 0 if unset.", min=0)
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option(
            help="In place of random draws, so many values of each of the five "
            "parameters: 2 make 32 trials, 3 make 243.",
            min=1,
        ),
    ] = None,
    whole_foreground: Annotated[
        Literal["no", "yes", "both"],
        typer.Option(
            help="Refine foreground against background only (yes), the classes (no), "
            "or try both."
        ),
    ] = "no",
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
    """Choose a CRF on validation cases; predict --crf uses it if it helps."""
    if grid is not None and (trials is not None or seed is not None):
        raise typer.BadParameter(
            "--grid draws nothing at random; leave --trials and --seed out"
        )
    with errors_for_people():
        from foveal.commands.tune_crf import TRIALS
        from foveal.commands.tune_crf import tune_crf as command

        with progress("trying") as on_progress:
            tuned = command(
                run,
                trials=trials or TRIALS,
                seed=seed or 0,
                per_span=grid,
                whole_foreground=whole_foreground,
                max_cases=max_cases,
                device=device,
                threads=threads,
                plugins=plugin or (),
                on_progress=on_progress,
            )
        if as_json:
            print_json(tuned.as_record())
            return
        _print_choice(tuned, run)


def _print_choice(tuned: "TunedCrf", run: Path) -> None:
    from foveal.commands.tune_crf import parameters_of

    count = len(tuned.trials) - 1
    print_verdict(f"The best CRF of {count}", tuned.verdict)
    print_meanings(len(tuned.verdict.cases))
    if tuned.best is not None:
        parameters = parameters_of(tuned.best).items()
        console.print(
            "Best: "
            + escape(", ".join(f"{name} {value}" for name, value in parameters)),
            highlight=False,
        )
    if tuned.kept is None:
        said = (
            "No CRF helps reliably in patients that it was not chosen on; none is kept."
        )
    else:
        said = f"Kept in {run / 'postprocessing.toml'}; foveal predict --crf uses it."
    console.print(said, markup=False, highlight=False, soft_wrap=True)
