"""``predictions.jsonl``: what became of every case, a JSON object per line.

Lines are only ever added, and the last one of a case counts. A line is on the disk
before the prediction that it announces takes its name, so a file that no line names is
not Foveal's.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from foveal.errors import RunError

if sys.platform != "win32":
    import fcntl

RECORD_FILE = "predictions.jsonl"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class InputFile:
    """One file that a prediction was made from."""

    role: str
    """``"channel 0"``, ``"channel 1"``, … or ``"mask"``."""

    file: str
    """Name without its folder."""

    blake2b: str
    """Of its content, as ``b2sum`` prints it."""


@dataclass(frozen=True)
class OutputFile:
    """One file that was written of a case."""

    file: str
    """Path from the folder of the record, with ``/`` between folders."""

    blake2b: str


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    case: str

    status: Literal["done", "suspect", "failed"]
    """``suspect``: predicted, but unlike the training cases; see ``reasons``."""

    outputs: tuple[OutputFile, ...]
    """Everything that was written of it; nothing if it failed."""

    reasons: tuple[str, ...]
    """Why it is suspect, or why it failed."""

    inputs: tuple[InputFile, ...]
    """Empty if they could not be read."""

    models: tuple[str, ...]
    """Digests of the models whose average this is."""

    options: dict[str, Any]
    """Those that change what is written."""

    device: str
    foveal: str
    """Version."""

    seconds: float
    """Reading, computing and writing this case, which overlap with others."""

    finished: str
    """Time, UTC."""

    structures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name to ``volume_ml``, ``volume_interval_ml`` and ``expected_dice``, see
    `foveal.ensembles.prediction.StructureFacts`; empty if it failed."""

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    def is_of(self, inputs: Sequence[InputFile]) -> bool:
        """Whether it was made from files of this content, whatever their names."""
        return [(one.role, one.blake2b) for one in self.inputs] == [
            (one.role, one.blake2b) for one in inputs
        ]


def read_outcomes(path: Path) -> list[Outcome]:
    """Lines of a record, oldest first; one that a kill cut short is left out.

    Returns:
        Nothing if there is no such file.

    Raises:
        RunError: A line is damaged or of a version that this Foveal does not know.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    outcomes = []
    # What follows the last newline is empty, or was not written to its end.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            outcomes.append(_outcome(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"line {number} of {path} is damaged or of another version of Foveal "
                f"({error}); predict into another folder"
            ) from error
    return outcomes


def _outcome(record: Mapping[str, Any]) -> Outcome:
    entries = dict(record)
    version = entries.pop("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"format version {version}, not {FORMAT_VERSION}")
    entries["inputs"] = tuple(InputFile(**one) for one in entries["inputs"])
    entries["outputs"] = tuple(OutputFile(**one) for one in entries["outputs"])
    for name in ("reasons", "models"):
        entries[name] = tuple(entries[name])
    for facts in entries.get("structures", {}).values():
        if facts["volume_interval_ml"] is not None:
            facts["volume_interval_ml"] = tuple(facts["volume_interval_ml"])
    return Outcome(**entries)


class RecordWriter:
    """Adds lines to a record, see `open_record`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def append(self, outcome: Outcome) -> None:
        """Add a line, and wait until it is on the disk."""
        self._file.write(json.dumps(outcome.as_record()).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def open_record(path: Path) -> Iterator[RecordWriter]:
    """Open a record to add lines to it; one program at a time may.

    Args:
        path: Made if absent; a last line that was cut short is removed.

    Raises:
        RunError: Another program has it open.
    """
    with path.open("ab+") as file:
        try:
            _lock(file)
        except BlockingIOError as error:
            raise RunError(
                f"another program is predicting into {path.parent}; wait for it, or "
                "give another folder"
            ) from error
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        yield RecordWriter(file)


def _lock(file: BinaryIO) -> None:
    """Hold a file until it is closed or the program ends, however it ends.

    Where the system or the file system has no locks, nothing is held.

    Raises:
        BlockingIOError: Another program holds it.
    """
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        # As on some network file systems; then the user must see to it.
        return
