"""Arrays on disk in compressed tiles: a window is read without the rest.

The file is the tiles one after the other, each compressed by blosc2, the last axis
fastest, then the byte offset of every tile and of the end (little-endian uint64), the
CRC-32 of every tile and that of these two tables (little-endian uint32). Tiles at the
far borders are as short as the array.

Slicing a `blosc2.NDArray` would do the same but keeps Python's lock while it reads and
decompresses, so loader threads would wait for one another; here both run without it.
"""

import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import blosc2
import numpy as np
from numpy.typing import NDArray

from foveal.errors import CaseError

blosc2.set_releasegil(True)

OFFSET = np.dtype("<u8")
CHECKSUM = np.dtype("<u4")


def write_tiles(
    path: Path,
    array: NDArray[Any],
    tile_shape: Sequence[int],
    *,
    codec: blosc2.Codec,
    level: int,
) -> None:
    """Write an array; the file must not be in use.

    Args:
        path: Of the file.
        array: Little-endian, any number of axes.
        tile_shape: Of a tile away from the far borders.
        codec: How tiles are compressed after a byte shuffle.
        level: From 1, fast, to 9, small.
    """
    offsets = [0]
    checksums = []
    with path.open("wb") as file:
        for window in _tile_windows(array.shape, tile_shape):
            tile = np.ascontiguousarray(array[window])
            compressed = blosc2.compress2(
                tile,
                codec=codec,
                clevel=level,
                filters=[blosc2.Filter.SHUFFLE],
                typesize=array.itemsize,
                nthreads=1,
            )
            file.write(compressed)
            offsets.append(offsets[-1] + len(compressed))
            checksums.append(zlib.crc32(compressed))
        tables = np.array(offsets, OFFSET).tobytes()
        tables += np.array(checksums, CHECKSUM).tobytes()
        file.write(tables + np.array(zlib.crc32(tables), CHECKSUM).tobytes())


class _Span(NamedTuple):
    """Overlap of a tile and a window along one axis."""

    tile: int

    length: int
    """Of the tile."""

    wanted: slice
    """Of the tile."""

    place: slice
    """In the window."""


class TiledArray:
    """An array written by `write_tiles`; any number of threads may read at once."""

    def __init__(
        self,
        path: Path,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        tile_shape: Sequence[int],
    ) -> None:
        """Read where the tiles lie.

        Args:
            path: Of the file.
            shape: As written.
            dtype: As written.
            tile_shape: As written.

        Raises:
            CaseError: The file is missing or not whole.
        """
        self.path = path
        self.shape = tuple(shape)
        self.dtype = dtype
        self._tile_shape = tuple(tile_shape)
        self._tiles_along = _tiles_along(shape, tile_shape)
        self._offsets, self._checksums = self._read_tables()
        # Once is enough, and costs a long run nothing.
        self._is_checked = bytearray(len(self._checksums))

    def read(self, window: Sequence[slice]) -> NDArray[Any]:
        """Read a part of the array; only the tiles that it touches are opened.

        Args:
            window: One slice per axis with start and stop, inside the array.

        Raises:
            CaseError: The file was damaged or deleted since.
            ValueError: The window reaches beyond the array.
        """
        self._require_inside(window)
        result = np.empty([axis.stop - axis.start for axis in window], self.dtype)
        if result.size == 0:
            return result
        spans = [
            _spans(axis, length, size)
            for axis, length, size in zip(
                window, self.shape, self._tile_shape, strict=True
            )
        ]
        scratch = np.empty(math.prod(self._tile_shape), self.dtype)
        try:
            with self.path.open("rb", buffering=0) as file:
                for leading in itertools.product(*spans[:-1]):
                    self._fill_row(result, scratch, file, leading, spans[-1])
        except FileNotFoundError as error:
            raise self._damaged() from error
        return result

    def _fill_row(
        self,
        result: NDArray[Any],
        scratch: NDArray[Any],
        file: BinaryIO,
        leading: Sequence[_Span],
        along_last: Sequence[_Span],
    ) -> None:
        row = self._read_row(file, leading, along_last)
        for last, compressed in zip(along_last, row, strict=True):
            position = (*leading, last)
            shape = [span.length for span in position]
            tile = scratch[: math.prod(shape)]
            blosc2.decompress2(compressed, dst=tile, nthreads=1)
            wanted = tuple(span.wanted for span in position)
            place = tuple(span.place for span in position)
            result[place] = tile.reshape(shape)[wanted]

    def _read_row(
        self, file: BinaryIO, leading: Sequence[_Span], last: Sequence[_Span]
    ) -> Iterator[memoryview]:
        """Tiles that follow one another along the last axis, in one read."""
        first = 0
        for span, tiles in zip((*leading, last[0]), self._tiles_along, strict=True):
            first = first * tiles + span.tile
        bounds = self._offsets[first : first + len(last) + 1].tolist()
        file.seek(bounds[0])
        content = memoryview(file.read(bounds[-1] - bounds[0]))
        if len(content) < bounds[-1] - bounds[0]:
            raise self._damaged()
        for number, (start, stop) in enumerate(itertools.pairwise(bounds), first):
            tile = content[start - bounds[0] : stop - bounds[0]]
            if not self._is_checked[number]:
                # blosc2 does not notice a changed byte.
                if zlib.crc32(tile) != self._checksums[number]:
                    raise self._damaged()
                self._is_checked[number] = True
            yield tile

    def _read_tables(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """Offsets and checksums of the tiles."""
        count = math.prod(self._tiles_along)
        offset_bytes = OFFSET.itemsize * (count + 1)
        num_bytes = offset_bytes + CHECKSUM.itemsize * count
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                file.seek(max(size - num_bytes - CHECKSUM.itemsize, 0))
                tables, last = file.read(num_bytes), file.read()
        except OSError as error:
            raise self._damaged() from error
        if last != np.array(zlib.crc32(tables), CHECKSUM).tobytes():
            raise self._damaged()
        offsets = np.frombuffer(tables[:offset_bytes], OFFSET)
        if offsets[-1] + num_bytes + CHECKSUM.itemsize != size:
            raise self._damaged()
        return offsets, np.frombuffer(tables[offset_bytes:], CHECKSUM)

    def _damaged(self) -> CaseError:
        return CaseError(
            f"{self.path} is missing, not whole or damaged; delete the folder "
            f'{self.path.parent} and run "foveal preprocess" again'
        )

    def _require_inside(self, window: Sequence[slice]) -> None:
        is_inside = len(window) == len(self.shape) and all(
            0 <= axis.start <= axis.stop <= length
            for axis, length in zip(window, self.shape, strict=True)
        )
        if not is_inside:
            raise ValueError(f"window {window} is not inside an array of {self.shape}")


def _tiles_along(shape: Sequence[int], tile_shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(
        math.ceil(length / size) for length, size in zip(shape, tile_shape, strict=True)
    )


def _tile_windows(
    shape: Sequence[int], tile_shape: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    """All tiles in the order of the file."""
    for position in np.ndindex(*_tiles_along(shape, tile_shape)):
        yield _tile_window(position, shape, tile_shape)


def _tile_window(
    position: Sequence[int], shape: Sequence[int], tile_shape: Sequence[int]
) -> tuple[slice, ...]:
    return tuple(
        slice(n * size, min((n + 1) * size, length))
        for n, length, size in zip(position, shape, tile_shape, strict=True)
    )


def _spans(axis: slice, length: int, size: int) -> list[_Span]:
    """How the tiles along one axis overlap a part of it, which is not empty."""
    spans = []
    for tile in range(axis.start // size, (axis.stop - 1) // size + 1):
        first, end = tile * size, min((tile + 1) * size, length)
        start, stop = max(axis.start, first), min(axis.stop, end)
        spans.append(
            _Span(
                tile,
                end - first,
                slice(start - first, stop - first),
                slice(start - axis.start, stop - axis.start),
            )
        )
    return spans
