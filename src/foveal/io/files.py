"""Writing files so that a reader sees the old content or the new, never half of it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foveal.errors import SettingsError
from foveal.unfinished import naming, remove_abandoned, unfinished

REPLACE_ATTEMPTS = 8
"""On Windows a virus scanner or reader may hold a file for a moment; the waits between
the attempts double from 10 ms, about a second in all."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path that takes the place of ``path`` when the block ends well.

    It lies in the same folder (made if absent) and has the same ending, so that writers
    which choose a format by the ending work. If the block raises, it is deleted and
    ``path`` stays as it was. What killed writers left in the folder is deleted too.

    Raises:
        OSError: The disk is full, or the folder may not be written; names ``path``.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        with unfinished(path, Path.touch) as temporary:
            try:
                yield temporary
                flush_to_disk(temporary)
                replace_file(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


def require_ending(path: Path, *endings: str) -> None:
    """Refuse a file to be written whose name says another format.

    Raises:
        SettingsError: Names the endings that there are.
    """
    if path.suffix.lower() not in endings:
        raise SettingsError(
            f"{path} must end in {' or '.join(endings)}, which says its format"
        )


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


def flush_to_disk(path: Path) -> None:
    """Make sure that the content reaches the disk before the name does."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
