"""What every command prints with: the console, progress bars and errors for people."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from foveal.errors import FovealError

console = Console()
_errors = Console(stderr=True)


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Print an error that the user can mend without a traceback; exit status 1."""
    try:
        yield
    except FovealError as error:
        _errors.print(f"[bold red]error:[/] {_escaped(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _errors.print("[bold]stopped[/]; what was finished is kept")
        raise typer.Exit(130) from None


@contextmanager
def progress(description: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar while the block runs; yields ``on_progress(done, total, what)``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeLeft(),
        TextColumn("[dim]{task.fields[what]}"),
    )
    with Progress(*columns, console=_errors, transient=True) as bar:
        task = bar.add_task(description, total=None, what="")

        def on_progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, what=what)

        yield on_progress


def print_json(value: Any) -> None:  # noqa: ANN401 - anything JSON can hold
    """Print for a program: JSON alone on standard output."""
    console.out(json.dumps(value, indent=2), highlight=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
