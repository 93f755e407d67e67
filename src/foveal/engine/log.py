"""What a run writes down as it goes: `log.jsonl` for programs, TensorBoard for eyes."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from foveal.io.files import atomic_write_text


class RunLog:
    """Appends one JSON object per line; a resumed run cuts what it repeats.

    Args:
        run_dir: The file is ``log.jsonl`` in it, TensorBoard's are in ``tensorboard``.
        first_step: Rows of this step and later are dropped.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        path = run_dir / "log.jsonl"
        kept = [row for row in read_log(path) if row["step"] < first_step]
        atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(run_dir / "tensorboard"), purge_step=first_step or None
        )

    def write(self, kind: str, step: int, **values: object) -> None:
        """Add a row; numbers also become TensorBoard curves named ``kind/name``."""
        row = {"kind": kind, "step": step, **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in _numbers(values):
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Finish both."""
        self._file.close()
        self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _numbers(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found
