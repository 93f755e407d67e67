"""Sums of overlapping tiles, in bricks that wait in memory or in a temporary file.

The voxels of a volume are cut along each axis; a brick holds the sums of all classes
for one part of the volume, each row of it in one piece. It is made when something is
first added to it and given up when its rows were handed out, so only what tiles still
to come may add to is held. Bricks that do not fit in memory are written to a temporary
file, those used longest ago first, and read when they are needed again. They come back
as they were, so the sums do not depend on where they waited.
"""

import itertools
import math
import shutil
import tempfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.errors import CaseError
from foveal.inference.memory import MemoryBudget, in_memory_words

BYTES_PER_NUMBER = 4
"""float32."""

Corner = tuple[int, int, int]


@dataclass(frozen=True)
class Cuts:
    """Where the axes of a volume are cut, each from 0 to its length, ascending."""

    rows: tuple[int, ...]
    along_j: tuple[int, ...]
    along_k: tuple[int, ...]

    @property
    def largest_part(self) -> int:
        """Voxels of the largest brick."""
        return math.prod(
            max(end - start for start, end in itertools.pairwise(cuts))
            for cuts in (self.rows, self.along_j, self.along_k)
        )


@dataclass(eq=False)
class Bricks:
    """Sums per class of the voxels of a volume, from the first row to the last.

    Use it as a context: the temporary file is gone when the context ends.
    """

    num_classes: int
    cuts: Cuts
    held_bytes: float
    """Of bricks in memory; at least one brick is held, whatever it says."""

    budget: MemoryBudget
    """Where the temporary file is, and what the message of a full disk names."""

    _held: OrderedDict[Corner, Tensor] = field(default_factory=OrderedDict)
    """By the first voxel, the one used longest ago first."""

    _stored: dict[Corner, int] = field(default_factory=dict)
    """Place in the file of the bricks that are not held."""

    _free_places: list[int] = field(default_factory=list)
    _num_places: int = 0
    _file: IO[bytes] | None = None

    def __enter__(self) -> "Bricks":  # noqa: PYI034 - run-time checks refuse Self
        """Nothing is held yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up all sums and the temporary file."""
        self._held.clear()
        if self._file is not None:
            self._file.close()

    @property
    def has_spilled(self) -> bool:
        """Whether anything was ever written to the temporary file."""
        return self._file is not None

    def add(
        self,
        logits: Float[Tensor, "class i j k"],
        weights: Sequence[Float[Tensor, " _"]],
        first: Sequence[int],
    ) -> None:
        """Add what one tile says of the voxels from ``first`` on.

        Args:
            logits: Of any precision; what lies outside the volume is left out.
            weights: Of the tile's voxels along each axis; their product counts.
            first: Voxel of the volume where the tile begins; may be negative.
        """
        along_i, along_j, along_k = weights
        plane = along_j[:, None] * along_k[None, :]
        by_rows = logits.transpose(0, 1)
        parts = [
            _touched(cuts, start, start + length)
            for cuts, start, length in zip(
                (self.cuts.rows, self.cuts.along_j, self.cuts.along_k),
                first,
                by_rows.shape[:1] + by_rows.shape[2:],
                strict=True,
            )
        ]
        # The last parts along k come last: the next tile, further along k, begins
        # with them, while they are held.
        for k, i, j in itertools.product(parts[2], parts[0], parts[1]):
            brick = self._brick((i, j, k))
            in_tile, in_brick = zip(
                *(
                    _overlap(start, length, begin, size)
                    for start, length, begin, size in zip(
                        (i, j, k),
                        (brick.shape[0], *brick.shape[2:]),
                        first,
                        (len(along_i), len(along_j), len(along_k)),
                        strict=True,
                    )
                ),
                strict=True,
            )
            weight = along_i[in_tile[0], None, None] * plane[in_tile[1], in_tile[2]]
            said = by_rows[in_tile[0], :, in_tile[1], in_tile[2]]
            # Not one fused step, whose rounding may depend on how bricks are cut.
            brick[in_brick[0], :, in_brick[1], in_brick[2]] += said * weight[:, None]

    def finished(
        self, start: int, end: int, rows_at_once: int
    ) -> Iterator[Float[Tensor, "class rows j k"]]:
        """Hand out rows and give up their bricks; to these nothing is added any more.

        Args:
            start: First row; a cut.
            end: Row after the last; a cut.
            rows_at_once: The most that one block has.

        Yields:
            Consecutive blocks; where nothing was added they are 0.
        """
        starts = [cut for cut in self.cuts.rows if start <= cut < end]
        for first, last in itertools.pairwise([*starts, end]):
            for row in range(first, last, rows_at_once):
                yield self._rows(first, row, min(row + rows_at_once, last))
            for j, k in itertools.product(self.cuts.along_j, self.cuts.along_k):
                self._give_up((first, j, k))

    def _rows(self, first: int, start: int, end: int) -> Tensor:
        """Rows of the bricks that begin at row ``first``, side by side."""
        width_j, width_k = self.cuts.along_j[-1], self.cuts.along_k[-1]
        if len(self.cuts.along_j) == len(self.cuts.along_k) == 2:
            # Nothing lies side by side, and what is given up is never used again.
            brick = self._brick((first, 0, 0))
            return brick[start - first : end - first].transpose(0, 1)
        block = torch.zeros(end - start, self.num_classes, width_j, width_k)
        for j, j_end in itertools.pairwise(self.cuts.along_j):
            for k, k_end in itertools.pairwise(self.cuts.along_k):
                part = self._part((first, j, k), start - first, end - first)
                if part is not None:
                    block[:, :, j:j_end, k:k_end] = part
        return block.transpose(0, 1)

    def _brick(self, corner: Corner) -> Tensor:
        """A brick in memory: as it was, or zeros."""
        brick = self._held.get(corner)
        if brick is not None:
            self._held.move_to_end(corner)
            return brick
        shape = self._shape(corner)
        self._make_room(_bytes(shape))
        place = self._stored.pop(corner, None)
        if place is None:
            brick = torch.zeros(shape)
        else:
            brick = torch.empty(shape)
            self._read(brick, place, 0)
            self._free_places.append(place)
        self._held[corner] = brick
        return brick

    def _part(self, corner: Corner, start: int, end: int) -> Tensor | None:
        """Rows of a brick, from where it waits; nothing if nothing was added."""
        if corner in self._held:
            return self._held[corner][start:end]
        if corner not in self._stored:
            return None
        shape = self._shape(corner)
        rows = torch.empty(end - start, *shape[1:])
        self._read(rows, self._stored[corner], start * _bytes(shape[1:]))
        return rows

    def _give_up(self, corner: Corner) -> None:
        self._held.pop(corner, None)
        place = self._stored.pop(corner, None)
        if place is not None:
            self._free_places.append(place)

    def _make_room(self, needed: int) -> None:
        held = sum(_bytes(brick.shape) for brick in self._held.values())
        while self._held and held + needed > self.held_bytes:
            corner, brick = self._held.popitem(last=False)
            self._write(corner, brick)
            held -= _bytes(brick.shape)

    def _shape(self, corner: Corner) -> tuple[int, int, int, int]:
        i, j, k = (
            cuts[bisect_right(cuts, start)] - start
            for cuts, start in zip(
                (self.cuts.rows, self.cuts.along_j, self.cuts.along_k),
                corner,
                strict=True,
            )
        )
        return i, self.num_classes, j, k

    @property
    def _place_bytes(self) -> int:
        return BYTES_PER_NUMBER * self.num_classes * self.cuts.largest_part

    def _write(self, corner: Corner, brick: Tensor) -> None:
        """Explicitly, not through mapped pages, which count as the process's own."""
        if self._file is None:
            # Closed when the context ends.
            self._file = tempfile.TemporaryFile(dir=self.budget.folder)  # noqa: SIM115
        if not self._free_places:
            self._require_disk()
            self._free_places.append(self._num_places)
            self._num_places += 1
        place = self._free_places.pop()
        self._file.seek(place * self._place_bytes)
        self._file.write(_content(brick))
        self._stored[corner] = place

    def _read(self, rows: Tensor, place: int, offset: int) -> None:
        if self._file is None:
            raise ValueError("nothing was written that could be read")
        self._file.seek(place * self._place_bytes + offset)
        self._file.readinto(_content(rows))  # type: ignore[attr-defined]

    def _require_disk(self) -> None:
        free = shutil.disk_usage(self.budget.folder).free
        if free < 2 * self._place_bytes:
            raise CaseError(
                f"{self.budget.folder} has {in_memory_words(free)} left, too little "
                "for the logits that do not fit in the memory given; make room on "
                "that disk, or give more memory (--memory)"
            )


def _bytes(shape: Sequence[int]) -> int:
    return BYTES_PER_NUMBER * math.prod(shape)


def _content(rows: Tensor) -> memoryview:
    """The bytes themselves, to be read or written over."""
    content: memoryview = rows.numpy().data.cast("B")
    return content


def _touched(cuts: Sequence[int], start: int, end: int) -> list[int]:
    """First voxels of the parts of an axis that a tile lies over."""
    return [
        first
        for first, last in itertools.pairwise(cuts)
        if first < end and start < last
    ]


def _overlap(start: int, length: int, begin: int, size: int) -> tuple[slice, slice]:
    """What a brick and a tile share, of the tile and of the brick."""
    first, last = max(start, begin), min(start + length, begin + size)
    return slice(first - begin, last - begin), slice(first - start, last - start)
