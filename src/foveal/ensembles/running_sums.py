"""Sums over passes on a case's own grid, in memory or, where that is short, on disk.

However many members and passes there are, no more is held than one volume of sums.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class RunningSums(Protocol):
    """Numbers per voxel that are added to, a few rows at a time."""

    def add(self, first: int, rows: Float[Tensor, "quantity rows j k"]) -> None:
        """Add to consecutive rows, the first of which is ``first``."""
        ...

    def rows(self, count: int) -> Iterator[Float[Tensor, "quantity _ j k"]]:
        """All rows in order, ``count`` at a time; the last block may have fewer."""
        ...


def running_sums(
    num_quantities: int,
    shape: tuple[int, int, int],
    *,
    most_bytes: int | None = None,
    folder: Path | None = None,
) -> RunningSums:
    """Zeros for every voxel, in memory if they fit.

    Args:
        num_quantities: Numbers per voxel.
        shape: Of the volume.
        most_bytes: That they may take in memory; ``None``: whatever they need.
        folder: For the temporary file in their place; ``None``: the system's.

    Raises:
        OSError: The disk is too full.
    """
    size = num_quantities * int(np.prod(shape)) * np.dtype(np.float32).itemsize
    if most_bytes is None or size <= most_bytes:
        return SumsInMemory(num_quantities, shape)
    return SumsOnDisk(num_quantities, shape, folder)


class SumsInMemory:
    """A volume of sums as a tensor."""

    def __init__(self, num_quantities: int, shape: tuple[int, int, int]) -> None:
        # Written to, so that the memory is taken now and not as a pass goes on.
        self._sums = torch.empty(num_quantities, *shape).zero_()

    def add(self, first: int, rows: Float[Tensor, "quantity rows j k"]) -> None:
        """Add to consecutive rows."""
        self._sums[:, first : first + rows.shape[1]] += rows

    def rows(self, count: int) -> Iterator[Float[Tensor, "quantity _ j k"]]:
        """All rows in order."""
        yield from self._sums.split(count, dim=1)


class SumsOnDisk:
    """The same in a file that goes with it; read and written, never mapped.

    Mapped pages would count as the program's own memory.
    """

    def __init__(
        self, num_quantities: int, shape: tuple[int, int, int], folder: Path | None
    ) -> None:
        length, *plane = shape
        self._length, self._shape = length, (num_quantities, *plane)
        self._file: BinaryIO = tempfile.TemporaryFile(  # noqa: SIM115
            dir=folder, buffering=0
        )
        weakref.finalize(self, self._file.close)
        # A disk that is full is told of now, not at the last case's last row.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), 0, length * self._row_bytes)
        else:
            self._file.truncate(length * self._row_bytes)

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self._shape)) * np.dtype(np.float32).itemsize

    def add(self, first: int, rows: Float[Tensor, "quantity rows j k"]) -> None:
        """Add to consecutive rows."""
        for number, row in enumerate(rows.unbind(dim=1), start=first):
            held = self._read(number, 1)[0]
            held += row
            self._file.seek(number * self._row_bytes)
            self._file.write(held.numpy().data.cast("B"))

    def rows(self, count: int) -> Iterator[Float[Tensor, "quantity _ j k"]]:
        """All rows in order."""
        for first in range(0, self._length, count):
            block = self._read(first, min(count, self._length - first))
            yield block.transpose(0, 1)

    def _read(self, first: int, count: int) -> Float[Tensor, "_ quantity j k"]:
        held = torch.empty(count, *self._shape)
        buffer = held.numpy().data.cast("B")
        self._file.seek(first * self._row_bytes)
        done = 0
        # A read may give less than asked for, as it does beyond 2 GB.
        while done < len(buffer):
            got = self._file.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not got:
                raise OSError(f"{self._file.name} ended early; is the disk full?")
            done += got
        return held
