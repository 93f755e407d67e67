"""How much memory a prediction may take, in words and in bytes.

The budget is of the whole process: the program and its libraries, the weights, the
image, what the network holds while it runs, and the logits that wait for their
neighbours. What of these is known only when the program runs is measured, so budgets
decide what waits on disk and never what comes out.
"""

import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from foveal.errors import SettingsError
from foveal.planning.memory import available_memory_bytes

UNITS = {"M": 10**6, "G": 10**9, "T": 10**12}

FREE_SHARE = 0.8
"""Of the memory that is free when nobody states a budget; the rest is for others."""

SHARE_OF_SUMS = 0.25
"""Of a budget, for sums over several passes; larger ones are on disk."""

LOOKS_PER_SECOND = 200
"""At the size of the process, while its peak is watched."""


@dataclass(frozen=True)
class MemoryBudget:
    """What a process may take, and where it keeps what does not fit."""

    bytes_in_all: int
    """Of the resident memory of this process."""

    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    """For temporary files; on a disk, as a folder in memory would save nothing."""

    sums_bytes: int = 0
    """Of what is kept of the passes over a case, before a pass begins and until the
    last one ends."""

    @property
    def has_sums_in_memory(self) -> bool:
        """Whether it is kept in memory, and is a part of what is taken, or on disk."""
        return 0 < self.sums_bytes <= SHARE_OF_SUMS * self.bytes_in_all

    def left_bytes(self, taken_bytes: int) -> int:
        """What may be added to what is taken; below 0 if that is too much already."""
        return self.bytes_in_all - taken_bytes


def machine_budget() -> MemoryBudget:
    """What the machine has free now, less a share for others."""
    free = int(FREE_SHARE * available_memory_bytes())
    return MemoryBudget(taken_bytes() + free)


def memory_bytes(text: str) -> int:
    """Bytes of an amount in words, such as ``4G`` or ``500M``; ``4 GB`` is the same.

    Raises:
        SettingsError: It is no amount.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])B?", text.strip(), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise SettingsError(
            f'memory "{text}" is no amount above 0; give a number and a unit, M, G or '
            "T, such as 4G or 500M"
        )
    return int(float(found[1]) * UNITS[found[2].upper()])


def in_memory_words(count: int) -> str:
    """Bytes as `memory_bytes` reads them, rounded up, so that they are enough."""
    if count < UNITS["G"]:
        return f"{-(-count // UNITS['M'])}M"
    return f"{-(-count // (UNITS['G'] // 10)) / 10:g}G"


def taken_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


class Peak:
    """The largest size that the process was seen to have."""

    def __init__(self) -> None:
        self.bytes = taken_bytes()

    def look(self) -> None:
        """Compare with the size of now."""
        self.bytes = max(self.bytes, taken_bytes())


@contextmanager
def watched_peak() -> Iterator[Peak]:
    """Watch how large the process grows while the block runs."""
    peak, is_over = Peak(), threading.Event()

    def watch() -> None:
        while not is_over.wait(1 / LOOKS_PER_SECOND):
            peak.look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        is_over.set()
        watcher.join()
        peak.look()
