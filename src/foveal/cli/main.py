"""The command ``foveal``: its verbs, each in a file of its own.

Only names and options are imported here; what a verb needs is loaded when it runs.
"""

from typing import Annotated

import typer

from foveal import __version__
from foveal.cli.calibrate import calibrate
from foveal.cli.check import check
from foveal.cli.compare import compare
from foveal.cli.demo import demo
from foveal.cli.ensemble import ensemble
from foveal.cli.evaluate import evaluate
from foveal.cli.export import card, export
from foveal.cli.plan import plan
from foveal.cli.predict import predict
from foveal.cli.preprocess import preprocess
from foveal.cli.preview import preview
from foveal.cli.refresh_error_maps import refresh_error_maps
from foveal.cli.report import report
from foveal.cli.train import train
from foveal.cli.tune_components import tune_components
from foveal.cli.tune_crf import tune_crf

app = typer.Typer(
    name="foveal",
    help="Train and run segmentation networks for medical volumes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer's callback
    if asked:
        typer.echo(f"foveal {__version__}")
        raise typer.Exit


@app.callback()
def main(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print and exit."
        ),
    ] = False,
) -> None:
    """Train and run segmentation networks for medical volumes."""


for verb in (
    *(demo, check, plan, preprocess, preview, train, predict),
    *(calibrate, tune_components, tune_crf),
    *(evaluate, compare, report, export, card),
):
    app.command()(verb)
app.add_typer(ensemble)
# Started by trainings; people have no use for it.
app.command(hidden=True)(refresh_error_maps)
