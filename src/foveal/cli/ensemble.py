"""``foveal ensemble``: what concerns several models, or label maps of several.

Each verb has a file of its own beside this one, `ensemble_<verb>`, and a line below.
"""

import typer

from foveal.cli.ensemble_fuse import fuse
from foveal.cli.ensemble_train import table, train

ensemble = typer.Typer(
    name="ensemble",
    help="Several models or label maps together.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

for verb in (train, table, fuse):
    ensemble.command()(verb)
