"""Which cases the other process has predicted, one line of JSON each, as it goes.

The process that predicts appends to the file, every process of the training reads what
is new. Whoever is killed leaves half a line at most, which no reader takes for one.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from foveal.io.files import atomic_write_text

Kind = Literal["training", "validation"]


class FinishedCase(NamedTuple):
    """A case and what its prediction says; a map of a training case is on disk."""

    kind: Kind
    case: str
    step: int
    """Updates behind the weights that predicted it."""

    found: Mapping[str, Any]
    """For the log; empty for what was known when training began."""

    seconds: float = 0.0
    """That the prediction took."""


class FinishedCases:
    """Reads or continues such a file.

    Args:
        path: Need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0

    def begin(self, versions: Mapping[str, int]) -> None:
        """Make the file anew.

        Args:
            versions: Step of the error map in use, of every case that has one.
        """
        rows = [FinishedCase("training", *version, {}) for version in versions.items()]
        atomic_write_text(self._path, "".join(map(_line, rows)))
        self._read_bytes = 0

    def end_broken_line(self) -> None:
        """Keep what a killed process left from spoiling the line that comes next."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n")

    def append(self, finished: FinishedCase) -> None:
        """Add a case; its map, if it has one, is on disk."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(finished))

    def new(self) -> list[FinishedCase]:
        """Cases since the last time; costs a look at the file's size if there is none.

        Empty as long as there is no file.
        """
        try:
            size = os.stat(self._path).st_size  # noqa: PTH116 - after every step
        except FileNotFoundError:
            return []
        if size <= self._read_bytes:
            return []
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        rows = map(_finished_case, whole.splitlines())
        return [row for row in rows if row is not None]


def _line(finished: FinishedCase) -> str:
    return json.dumps(finished._asdict()) + "\n"


def _finished_case(line: bytes) -> FinishedCase | None:
    """The case of a line; ``None`` if a killed process wrote only a part of it."""
    try:
        return FinishedCase(**json.loads(line))
    except (ValueError, TypeError):
        return None
