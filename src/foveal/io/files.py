"""Writing files so that a reader sees the old content or the new, never half of it."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPLACE_ATTEMPTS = 8
"""On Windows a virus scanner or reader may hold a file for a moment; the waits between
the attempts double from 10 ms, about a second in all."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path that takes the place of ``path`` when the block ends well.

    It lies in the same folder (made if absent) and has the same ending, so that writers
    which choose a format by the ending work. If the block raises, it is deleted and
    ``path`` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with plain newlines, replacing ``path`` in one step."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write bytes, replacing ``path`` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def replace_file(source: Path, target: Path) -> None:
    """Rename over an existing file, trying again while another program holds it.

    Raises:
        PermissionError: The target is still held, or may not be written at all.
    """
    for attempt in range(REPLACE_ATTEMPTS - 1):
        try:
            os.replace(source, target)  # noqa: PTH105 - the atomic one on Windows too
        except PermissionError:
            time.sleep(0.01 * 2**attempt)
        else:
            return
    source.replace(target)


def _flush_to_disk(path: Path) -> None:
    """Make sure that the content reaches the disk before the name does."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
