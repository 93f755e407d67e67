"""``foveal calibrate``: make probabilities as sure as they are right."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from foveal.cli.options import PluginFiles
from foveal.cli.screen import console, errors_for_people, print_json, progress

if TYPE_CHECKING:
    from foveal.commands.calibration_record import CalibrationRecord, Measured


def calibrate(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder that foveal train wrote, a cross-validation or an ensemble.",
            metavar="RUN",
        ),
    ],
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
    """Choose a temperature on validation cases; predict uses it if it helps."""
    with errors_for_people():
        from foveal.commands.calibrate import calibrate as command
        from foveal.commands.calibrate import gain_in_words

        with progress("looking at validation cases") as on_progress:
            record = command(
                run,
                device=device,
                threads=threads,
                plugins=plugin or (),
                on_progress=on_progress,
            )
        if as_json:
            print_json(record.as_record())
            return
        _print_measures(f"Within {record.band_mm:g} mm of foreground", record.near)
        _print_measures("Everywhere", record.everywhere)
        _print_meanings()
        _print_expected_dice(record)
        console.print(gain_in_words(record), markup=False, highlight=False)
        written = run / "validation" / "calibration.json"
        console.print(f"All values: {written}", markup=False, soft_wrap=True)


def _print_measures(title: str, measured: "Measured") -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("probability of", overflow="fold")
    for name in ("ECE", "after", "Brier", "after", "NLL", "after"):
        table.add_column(name, justify="right")
    for name, before in measured.before.items():
        after = measured.after[name]
        table.add_row(
            escape(name),
            *(
                f"{getattr(one, measure):.4f}"
                for measure in ("ece", "brier", "nll")
                for one in (before, after)
            ),
        )
    console.print(table)


def _print_meanings() -> None:
    from foveal.metrics.calibration import ALL_CLASSES, DEFINITIONS

    for measure, meaning in DEFINITIONS.items():
        console.print(f"{measure.upper()}: {meaning}", markup=False, highlight=False)
    console.print(
        f'"{ALL_CLASSES}": the most probable class. "after": at temperatures that were '
        "chosen on other patients.",
        markup=False,
        highlight=False,
    )


def _print_expected_dice(record: "CalibrationRecord") -> None:
    for when in ("before", "after"):
        found = record.correlation(when)
        if found.mean_error is not None:
            console.print(
                f"Expected Dice {when}: {found.mean_error:+.3f} off true Dice in the "
                f"mean of {found.pairs} pairs of case and structure; Pearson "
                f"{_number(found.pearson)}, Spearman {_number(found.spearman)}.",
                markup=False,
                highlight=False,
            )


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"
