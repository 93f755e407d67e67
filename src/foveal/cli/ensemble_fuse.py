"""``foveal ensemble fuse``: label maps of several people or programs in one."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from foveal.cli.screen import console, errors_for_people, print_json, progress

if TYPE_CHECKING:
    from foveal.commands.fusion_record import Fusion


def fuse(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more folders of label maps, or of a folder per case with a "
            "mask per structure; or label maps of one case. Then the folder, or file, "
            "for the result.",
            metavar="A B [C ...] OUTPUT",
        ),
    ],
    *,
    method: Annotated[
        Literal["majority", "weighted", "staple"],
        typer.Option(help="How votes are put together."),
    ] = "majority",
    weights: Annotated[
        str | None,
        typer.Option(
            help="For weighted: a number per source, in their order, e.g. 0.9,0.8."
        ),
    ] = None,
    weights_from: Annotated[
        list[Path] | None,
        typer.Option(
            help="In place of --weights: a metrics.json of foveal evaluate, or a run, "
            "for each source, in their order; its mean Dice are the weights. Repeat "
            "it once per source."
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Fuse a case, or a mask, that some sources lack from the others.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record, fusion.json.")
    ] = False,
) -> None:
    """Fuse label maps or masks made elsewhere: cases are matched by name."""
    if len(paths) < 3:
        raise typer.BadParameter("needs at least two sources and an OUTPUT")
    *sources, output = paths
    numbers = None if weights is None else _numbers(weights)
    with errors_for_people():
        from foveal.commands import ensemble_fuse as command

        with progress("fusing") as on_progress:
            fusion = command.fuse(
                sources,
                output,
                method=method,
                weights=numbers,
                weights_from=weights_from or None,
                allow_missing=allow_missing,
                on_progress=on_progress,
            )
        if as_json:
            print_json(fusion.as_record())
            return
        _print_sources(fusion)
        for note in fusion.notes:
            console.print(f"[yellow]note:[/] {escape(note)}", highlight=False)
        console.print(
            f"{len(fusion.cases)} case(s) fused in {output}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _numbers(text: str) -> list[float]:
    """Parse ``0.9,0.8``."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f'"{text}" must be numbers with commas between, for example 0.9,0.8',
            param_hint="--weights",
        ) from None


def _print_sources(fusion: "Fusion") -> None:
    """Every source, what it weighs and how it compares with the fusion."""
    is_staple = fusion.method == "staple"
    table = Table("source", title=f"Fused: {fusion.method}")
    columns = ["cases", "Dice with the fusion", "lowest case"]
    columns += ["weight"] if fusion.weights else []
    columns += ["sensitivity", "specificity"] if is_staple else []
    for column in columns:
        table.add_column(column, justify="right")
    for source in fusion.sources:
        own = [case.mean_dice(source) for case in fusion.cases]
        defined = [dice for dice in own if not math.isnan(dice)]
        cells = [
            str(sum(source in case.inputs for case in fusion.cases)),
            _figure(fusion.mean_dice(source)),
            _figure(min(defined, default=float("nan"))),
        ]
        if fusion.weights:
            cells.append(_weight(fusion.weights[source]))
        if is_staple:
            cells += [_figure(value) for value in fusion.mean_performance(source)]
        table.add_row(escape(source), *cells)
    console.print(table)


def _weight(weight: object) -> str:
    return f"{weight:g}" if isinstance(weight, int | float) else "per structure"


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
