"""What every command prints with: the console, progress bars and errors for people."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from foveal.errors import FovealError

if TYPE_CHECKING:
    from foveal.commands.fit import Watcher
    from foveal.engine.loop import Progress as TrainingProgress

# A data-parallel process that another one started: only the first speaks.
_IS_HELPER = os.environ.get("LOCAL_RANK", "0") != "0"

console = Console(quiet=_IS_HELPER)
_errors = Console(stderr=True)
_progress = Console(stderr=True, quiet=_IS_HELPER)


_FREE_SPACE = (
    "free some space, or choose a folder on another disk, and give the command again "
    "(foveal train with --resume)"
)
_OTHER_FOLDER = "choose another folder, or ask for the right to write there"

_OF_THE_SYSTEM = {
    errno.ENOSPC: ("the disk is full", _FREE_SPACE),
    errno.EDQUOT: ("your share of the disk is used up", _FREE_SPACE),
    errno.EFBIG: ("the disk takes no file of this size", _FREE_SPACE),
    errno.EROFS: ("the disk is read-only", _OTHER_FOLDER),
    errno.EACCES: ("you may not read or write it", _OTHER_FOLDER),
    errno.EPERM: ("you may not read or write it", _OTHER_FOLDER),
    errno.EIO: ("reading or writing failed", "check the disk and its free space"),
    errno.EMFILE: ("too many files are open", 'raise the limit with "ulimit -n 4096"'),
    errno.ENFILE: ("too many files are open", "close other programs"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
    errno.ENOTDIR: ("part of the path is a file", "choose another folder"),
    errno.EEXIST: ("a file is where a folder should be", "choose another folder"),
    errno.EISDIR: ("a folder is where a file should be", "choose another name"),
}
"""What the system refuses a user: what is wrong and what to do."""


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Print an error that the user can mend without a traceback; exit status 1."""
    try:
        yield
    except FovealError as error:
        _print_error(str(error))
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno not in _OF_THE_SYSTEM:
            raise
        wrong, remedy = _OF_THE_SYSTEM[error.errno]
        what = "a file" if error.filename is None else os.fsdecode(error.filename)
        _print_error(
            f"{what}: {wrong} ({error.strerror}). What was finished is kept; {remedy}"
        )
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _errors.print("[bold]stopped[/]; what was finished is kept")
        raise typer.Exit(130) from None


def _print_error(sentence: str) -> None:
    _errors.print(f"[bold red]error:[/] {_escaped(sentence)}", soft_wrap=True)


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
    with Progress(*columns, console=_progress, transient=True) as bar:
        task = bar.add_task(description, total=None, what="")

        def on_progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, what=what)

        yield on_progress


@contextmanager
def training_progress() -> Iterator["Watcher"]:
    """Show a training run: what was decided, then a live bar of the steps."""
    from foveal.commands.fit import Watcher

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[what]}"),
    )
    with Progress(*columns, console=_progress, transient=True) as bar:
        task = bar.add_task("", total=None, what="")

        def on_stage(sentence: str) -> None:
            bar.console.print(sentence, markup=False, highlight=False, soft_wrap=True)
            bar.reset(task, total=None, description="", what="")

        def on_cases(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, what=f"cases, {what}")

        def on_step(now: "TrainingProgress") -> None:
            if now.note:
                bar.console.print(f"[bold yellow]{_escaped(now.note)}[/]")
            facts = []
            if now.loss is not None:
                facts.append(f"loss {now.loss:.3f}")
            if now.mean_score is not None:
                facts.append(f"validation {now.measure} {now.mean_score:.4f}")
            facts.append(f"{_duration(now.seconds_left)} left")
            bar.update(
                task,
                description="training",
                completed=now.step,
                total=now.total_steps,
                what=", ".join(facts),
            )

        yield Watcher(on_stage, on_cases, on_step)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def print_json(value: Any) -> None:  # noqa: ANN401 - anything JSON can hold
    """Print for a program: JSON alone on standard output."""
    console.out(json.dumps(value, indent=2), highlight=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
