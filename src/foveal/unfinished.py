"""What is being written, told from what a killed writer left behind.

Everything is written under a hidden name, `.unfinished-…`, and renamed when it is
whole. A writer locks what it writes; a lock ends with its process, however that ends,
so what nobody locks is abandoned. Where the system or the file system has no locks, or
another machine wrote, age decides.
"""

import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none, so age decides there.
    fcntl = None  # type: ignore[assignment]

ABANDONED_SECONDS = 3600.0
"""What did not change for so long has no writer any more, whatever the machine."""

LONGEST_NAME_BYTES = 255
"""Of a file, on the usual file systems."""

_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=3).hexdigest()
_NAME = re.compile(r"\.unfinished-(?P<machine>[0-9a-f]{6})-[0-9a-f]{8}-.+", re.DOTALL)


def is_unfinished(path: Path) -> bool:
    """Whether a name is one that `unfinished` gives."""
    return _NAME.fullmatch(path.name) is not None


@contextmanager
def unfinished(target: Path, create: Callable[[Path], object]) -> Iterator[Path]:
    """A path beside ``target``, with the same ending, that is held in the block.

    Args:
        target: Where the result is to be in the end.
        create: Makes an empty file or folder of a given path.
    """
    while True:
        path = _hidden_name(target)
        create(path)
        try:
            descriptor = _lock(path)
        except BlockingIOError:
            continue  # Just being deleted, see below.
        try:
            # Before it was locked, another process could take it for abandoned.
            if path.exists():
                yield path
                return
        finally:
            if descriptor is not None:
                os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Delete what killed writers left in a folder, not in those below it."""
    for path in folder.glob(".unfinished-*"):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        try:
            is_own = match["machine"] == _MACHINE
            descriptor = _lock(path) if is_own else None
        except BlockingIOError:
            continue
        try:
            if descriptor is not None or _age_seconds(path) > ABANDONED_SECONDS:
                _delete(path)
        finally:
            if descriptor is not None:
                os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put a path into an `OSError` of the block that names none or a hidden one."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if error.errno and (name is None or is_unfinished(Path(os.fsdecode(name)))):
            error.filename = str(path)
            if error.filename2 is not None:
                del error.filename2
        raise


def _hidden_name(target: Path) -> Path:
    start = f".unfinished-{_MACHINE}-{uuid.uuid4().hex[:8]}-"
    kept = os.fsencode(target.name)[-(LONGEST_NAME_BYTES - len(start)) :]
    # A character that was cut in two is left out.
    return target.with_name(start + kept.decode("utf-8", errors="ignore"))


def _lock(path: Path) -> int | None:
    """Descriptor that holds a lock; ``None`` if there are no locks or no such path.

    Raises:
        BlockingIOError: Another process, or another writer of this one, holds it.
    """
    if fcntl is None:
        return None
    try:
        # Network file systems give an exclusive lock to those who may write.
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _age_seconds(path: Path) -> float:
    """Since the last change; of a folder, of anything in it."""
    try:
        inside = list(path.iterdir()) if path.is_dir() else []
        changed = max(one.stat().st_mtime for one in [path, *inside])
    except FileNotFoundError:
        return 0.0  # Finished at this moment.
    return time.time() - changed


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
