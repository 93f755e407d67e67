"""Errors of a plugin's own code, told with its file and line."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from foveal.errors import PluginError


@contextmanager
def blaming(paths: Sequence[Path]) -> Iterator[None]:
    """Whatever goes wrong in the block is a plugin's fault, told with file and line.

    Raises:
        PluginError: In place of any other error.
    """
    try:
        yield
    # Foreign code may raise anything, even the end of the program.
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plugin {_place(error, paths)}: {_in_words(error)}"
        ) from error


def _place(error: BaseException, paths: Sequence[Path]) -> str:
    """File and line of a plugin that an error came from, else its first file."""
    names = [str(path) for path in paths]
    if isinstance(error, SyntaxError) and error.filename in names:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename in names]
    if own:
        return f"{own[-1].filename}, line {own[-1].lineno}"
    return ", ".join(names)


def _in_words(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}: {error}"
