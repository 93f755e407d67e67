"""``foveal export`` and ``foveal card``: one file that predicts, and what it is."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from foveal.cli.screen import console, errors_for_people, print_json

METRICS_SHOWN = {"dice": "Dice", "hd95_mm": "HD95 mm", "assd_mm": "ASSD mm"}


def export(
    run: Annotated[
        Path, typer.Argument(help="A run, or a folder of runs.", metavar="RUN")
    ],
    model: Annotated[
        Path,
        typer.Argument(help="File to be made, such as liver.foveal.", metavar="MODEL"),
    ],
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Python file of the run's network, if a plugin added it."),
    ] = None,
) -> None:
    """Put what predict needs into one file: no patient data, no paths."""
    with errors_for_people():
        from foveal.commands.export import export as command

        with console.status("writing the model file"):
            made = command(run, model, plugins=plugin or ())
        _print_card(made)
        console.print(
            f"{model}: {model.stat().st_size / 1e6:.1f} MB. Next: foveal predict "
            f"{model} INPUT OUTPUT",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def card(
    model: Annotated[
        Path,
        typer.Argument(
            help="A model file, a run or a folder of runs.", metavar="MODEL"
        ),
    ],
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all of it as JSON.")
    ] = False,
) -> None:
    """Say what a model segments, what it was trained on and how well it did."""
    with errors_for_people():
        from foveal.commands.export import model_card

        found = model_card(model)
        if as_json:
            print_json(found)
        else:
            _print_card(found)


def _print_card(found: dict[str, Any]) -> None:
    members = found["members"]
    as_masks = found["one_mask_per_structure"]
    structures = [
        name if as_masks else f"{name} ({', '.join(map(str, values))})"
        for name, values in found["structures"].items()
    ]
    meaning = "one mask each" if as_masks else "in brackets the values in label maps"
    lines = [
        f"Segments {', '.join(structures)}; {meaning}.",
        f"Needs {len(found['channels'])} channel(s): {', '.join(found['channels'])}.",
        f"Made by Foveal {found['foveal']}, {found['exported']}.",
    ]
    if len(members) > 1:
        lines.append(f"The average of {len(members)} networks:")
    for number, member in enumerate(members):
        lines.append(
            f"Network {number}: {member['network']}, weights of step {member['steps']} "
            f"of {member['planned_steps']}, trained on "
            f"{_counted(member, 'training')}, validated on "
            f"{_counted(member, 'validation')}."
        )
        if not member["is_finished"]:
            lines.append("Its training was stopped before the end.")
    lines += dict.fromkeys(
        f"Trained on voxels of {_ranges(member['spacing_mm_range'])} mm, scans of "
        f"{_ranges(member['extent_mm_range'])} mm."
        for member in members
        if member["spacing_mm_range"]
    )
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
    if any(member["validation"] for member in members):
        console.print(_validation_table(members))
        console.print("The weights were chosen by these cases: the figures flatter.")


def _ranges(ranges: list[list[float]]) -> str:
    return " x ".join(
        f"{low:g}" if low == high else f"{low:g}-{high:g}" for low, high in ranges
    )


def _counted(member: dict[str, Any], kind: str) -> str:
    patients, cases = member[f"{kind}_patients"], member[f"{kind}_cases"]
    text = f"{patients} patient(s)"
    return text if cases is None else f"{text} with {cases} case(s)"


def _validation_table(members: list[dict[str, Any]]) -> Table:
    table = Table("network", "structure", "cases")
    for title in METRICS_SHOWN.values():
        table.add_column(f"{title}, mean (median)", justify="right")
    for number, member in enumerate(members):
        for structure, metrics in member["validation"].items():
            table.add_row(
                str(number),
                escape(structure),
                str(metrics["dice"]["cases"]),
                *(_figures(metrics[metric]) for metric in METRICS_SHOWN),
            )
    return table


def _figures(figures: dict[str, Any]) -> str:
    if figures["mean"] is None:
        return "-"
    return f"{figures['mean']:.3f} ({figures['median']:.3f})"
