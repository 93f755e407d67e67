"""What a run writes down as it goes: `log.jsonl` for programs, TensorBoard for eyes."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from foveal.io.files import atomic_write_text
from foveal.unfinished import naming

_LOGGER = logging.getLogger(__name__)


class RunLog:
    """Appends one JSON object per line; a resumed run cuts what it repeats.

    Args:
        run_dir: The file is ``log.jsonl`` in it, TensorBoard's are in ``tensorboard``.
        done_steps: Updates made before; rows of later ones are dropped.
    """

    def __init__(self, run_dir: Path, done_steps: int) -> None:
        self._path = run_dir / "log.jsonl"
        kept = [row for row in read_log(self._path) if _is_before(row, done_steps)]
        atomic_write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        with naming(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        board = run_dir / "tensorboard"
        with naming(board):
            self._board = SummaryWriter(str(board), purge_step=done_steps or None)

    def write(
        self,
        kind: str,
        step: int,
        curves: Mapping[str, Any] | None = None,
        **values: object,
    ) -> None:
        """Add a row; numbers also become TensorBoard curves named ``kind/name``.

        Args:
            kind: Of the row.
            step: Updates made before it.
            curves: What becomes curves in place of the row's own numbers.
            values: The row.
        """
        row = {"kind": kind, "step": step, **values}
        with naming(self._path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            for name, value in _numbers(values if curves is None else curves):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def flush_to_disk(self) -> None:
        """Make sure that no row is lost that a checkpoint takes for written."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Finish both."""
        with naming(self._path):
            self._file.close()
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log.

    A last line that a kill cut off is left out; so are damaged lines before it, with a
    warning, as the rows around them are still worth having.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = [_row(line) for line in lines]
    # What follows the last line end is nothing, or a row that was cut off.
    damaged = [number for number, row in enumerate(rows[:-1], start=1) if row is None]
    if damaged:
        _LOGGER.warning("%s is damaged; left out: lines %s", path, damaged)
    return [row for row in rows if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    """The row of a line; ``None`` if it is none."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    is_row = (
        isinstance(row, dict)
        and isinstance(row.get("kind"), str)
        and isinstance(row.get("step"), int)
    )
    return row if is_row else None


def _is_before(row: dict[str, Any], done_steps: int) -> bool:
    """Whether a run that made so many updates will not write a row again.

    A validation's step counts the updates before it, and it comes before the checkpoint
    of that step; all other rows are of the update that follows.
    """
    if row["kind"] == "validation":
        return row["step"] <= done_steps
    return row["step"] < done_steps


def _numbers(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found
