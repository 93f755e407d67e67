"""The folder of preprocessed cases: one entry per content, written whole or not at all.

An entry is named by a hash of everything that decides its content, so it never goes
stale: a changed plan or file leads to another name. Names of cases and patients are not
in it; whoever opens an entry gives them.
"""

import hashlib
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from foveal.case import IGNORED
from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.store.tiles import TiledArray, write_tiles
from foveal.unfinished import naming, remove_abandoned, unfinished

FORMAT_VERSION = 3

TILE_LENGTH = 32
"""Voxels per axis of a tile. Larger tiles are decompressed for little of their content,
smaller ones cost more calls; see ``docs/preprocessing.md``."""

VOXELS_PER_TILE = 16384
"""Of the voxel lists, where single entries are read."""

RENAME_WAITS_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""On Windows a virus scanner may hold a file of a finished entry for a moment."""


def default_store_root() -> Path:
    """Folder of the user's cache in which preprocessed cases are kept."""
    home = Path.home()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = home / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return cache / "foveal" / "store"


def entry_key(content: Mapping[str, Any]) -> str:
    """Name of the entry made from ``content``, JSON values, in this format."""
    text = json.dumps({"format_version": FORMAT_VERSION, **content}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, eq=False)
class StoredCase:
    """A preprocessed case on disk; any number of threads may read at once."""

    name: str
    patient: str
    grid: Grid
    """Of the preprocessed image."""

    num_channels: int

    annotated: tuple[bool, ...] | None
    """Per structure of the plan, whether it was contoured; ``None``: all."""

    class_counts: tuple[int, ...]
    """Voxels per inside class, background first; empty if unlabelled."""

    image: TiledArray
    """``(channel, i, j, k)`` float32."""

    label_map: TiledArray | None
    """Inside labels ``(i, j, k)``."""

    class_voxels: TiledArray | None
    """Flat indices of the voxels of class 1, then of class 2, and so on."""

    present: tuple[bool, ...] | None = None
    """Per structure of the plan, whether the image shows it, of a case that is
    unlabelled; ``None``: not known. Whoever opens the entry adds it."""

    weight_map: TiledArray | None = None
    """The user's weights ``(i, j, k)`` float32; ``None``: all voxels alike."""

    mask: TiledArray | None = None
    """``(i, j, k)`` uint8, 1 inside; ``None``: the case has none."""

    missing_channels: Mapping[int, float] = field(default_factory=dict)
    """Number of a channel that the case lacks to the value that fills it, which also
    lies beyond its borders."""

    domain: str | None = None
    """Scanner, site or sequence. Whoever opens the entry adds it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        return self.grid.shape

    def read_image(self, window: Sequence[slice]) -> NDArray[np.float32]:
        """Read all channels of a window.

        Args:
            window: Three slices with start and stop, inside the volume.

        Returns:
            ``(channel, i, j, k)``.

        Raises:
            CaseError: The entry is damaged, and no longer in the store.
        """
        return self._read(self.image, (slice(0, self.num_channels), *window))

    def read_label_map(self, window: Sequence[slice]) -> NDArray[np.uint8]:
        """Read the inside labels of a window, see `read_image`.

        Raises:
            CaseError: The case is unlabelled, or the entry is damaged.
        """
        if self.label_map is None:
            raise CaseError(
                f"case {self.name} has no label map; add one to train on it"
            )
        return self._read(self.label_map, window)

    def read_weight_map(self, window: Sequence[slice]) -> NDArray[np.float32]:
        """Read the user's weights of a window, see `read_image`.

        Raises:
            CaseError: The case has no weight map, or the entry is damaged.
        """
        if self.weight_map is None:
            raise CaseError(
                f"case {self.name} has no weight map; add one to the column weight_map"
            )
        return self._read(self.weight_map, window)

    def read_mask(self, window: Sequence[slice]) -> NDArray[np.uint8]:
        """Read the case's mask in a window, 1 inside, see `read_image`.

        Raises:
            CaseError: The case has no mask, or the entry is damaged.
        """
        if self.mask is None:
            raise CaseError(f"case {self.name} has no mask; add one to the column mask")
        return self._read(self.mask, window)

    def class_voxel(self, class_index: int, n: int) -> tuple[int, int, int]:
        """Voxel ``n`` of a foreground class, in the order of the array.

        Raises:
            CaseError: The entry is damaged, and no longer in the store.
            IndexError: The class has no such voxel, or is the background.
        """
        counts = self.class_counts
        if (
            self.class_voxels is None
            or not 0 < class_index < len(counts)
            or not 0 <= n < counts[class_index]
        ):
            raise IndexError(
                f"case {self.name} has no voxel {n} of class {class_index}; "
                f"voxels per class: {counts}"
            )
        place = sum(counts[1:class_index]) + n
        (voxel,) = self._read(self.class_voxels, (slice(place, place + 1),))
        i, j, k = np.unravel_index(int(voxel), self.shape)
        return int(i), int(j), int(k)

    def _read(self, tiles: TiledArray, window: Sequence[slice]) -> NDArray[Any]:
        """Read; a damaged entry leaves the store, so that it is made anew."""
        try:
            return tiles.read(window)
        except CaseError as error:
            folder = tiles.path.parent
            try:
                Store(folder.parent).discard(folder.name)
            except OSError:
                raise error from None  # It says to delete the entry by hand.
            raise CaseError(
                f"case {self.name}: its preprocessed copy {tiles.path} was damaged on "
                "disk and has been deleted; give the same command again (foveal train "
                "with --resume) to have it made anew, and check the disk"
            ) from error


class Store:
    """A folder of preprocessed cases."""

    def __init__(self, root: Path) -> None:
        """Use a folder, which is made when the first entry is written."""
        self.root = root

    def contains(self, key: str) -> bool:
        """Whether there is a finished entry of this name."""
        return (self.root / key / "entry.json").is_file()

    def open(self, key: str, *, name: str, patient: str) -> StoredCase:
        """Open an entry for the case it is read for.

        Raises:
            CaseError: The entry is missing, damaged or of another format.
        """
        folder = self.root / key
        entry = _read_entry(folder, name)
        i, j, k = entry["shape"]
        counts = tuple(entry["class_counts"])
        annotated = entry["annotated"]
        is_labelled = bool(counts)
        return StoredCase(
            name=name,
            patient=patient,
            grid=Grid((i, j, k), np.array(entry["affine"])),
            num_channels=entry["num_channels"],
            annotated=None if annotated is None else tuple(annotated),
            class_counts=counts,
            image=_image_tiles(folder, (entry["num_channels"], i, j, k)),
            label_map=_label_tiles(folder, (i, j, k)) if is_labelled else None,
            class_voxels=_voxel_tiles(folder, counts, (i, j, k))
            if is_labelled
            else None,
            weight_map=_weight_tiles(folder, (i, j, k))
            if entry["has_weight_map"]
            else None,
            mask=_mask_tiles(folder, (i, j, k)) if entry["has_mask"] else None,
            missing_channels={
                int(number): value
                for number, value in entry.get("missing_channels", {}).items()
            },
        )

    def write(
        self,
        key: str,
        image: NDArray[np.float32],
        label_map: NDArray[np.uint8] | None,
        grid: Grid,
        *,
        num_classes: int,
        annotated: Sequence[bool] | None,
        weight_map: NDArray[np.float32] | None = None,
        mask: NDArray[np.bool_] | None = None,
        missing_channels: Mapping[int, float] | None = None,
    ) -> None:
        """Add an entry; if another process adds the same meanwhile, its entry stays.

        Args:
            key: See `entry_key`.
            image: ``(channel, i, j, k)``.
            label_map: Inside labels ``(i, j, k)``; ``None`` if unlabelled.
            grid: Of all.
            num_classes: Including background.
            annotated: Per structure whether it was contoured; ``None``: all.
            weight_map: The user's weights ``(i, j, k)``, if the case has any.
            mask: ``(i, j, k)``, if the case has one.
            missing_channels: See `StoredCase.missing_channels`.
        """
        with naming(self.root / key):
            self.root.mkdir(parents=True, exist_ok=True)
            with unfinished(self.root / key, Path.mkdir) as folder:
                try:
                    counts: list[int] = []
                    _write_image(folder, image)
                    if label_map is not None:
                        counts, voxels = class_voxels(label_map, num_classes)
                        _write_labels(folder, label_map, voxels)
                    if weight_map is not None:
                        _write_weights(folder, weight_map)
                    if mask is not None:
                        _write_mask(folder, mask)
                    entry = {
                        "format_version": FORMAT_VERSION,
                        "shape": list(grid.shape),
                        "affine": grid.affine.tolist(),
                        "num_channels": len(image),
                        "annotated": None if annotated is None else list(annotated),
                        "class_counts": counts,
                        "has_weight_map": weight_map is not None,
                        "has_mask": mask is not None,
                    }
                    if missing_channels:
                        entry["missing_channels"] = {
                            str(number): value
                            for number, value in missing_channels.items()
                        }
                    entry["checksum"] = _checksum(entry)
                    text = json.dumps(entry, indent=2)
                    (folder / "entry.json").write_text(text, encoding="utf-8")
                    self._publish(folder, key)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)

    def discard(self, key: str) -> None:
        """Delete an entry that is damaged, in one step for those who look on.

        Raises:
            OSError: The store may not be written.
        """
        with unfinished(self.root / key, Path.mkdir) as folder:
            with suppress(FileNotFoundError):
                (self.root / key).rename(folder / key)
            shutil.rmtree(folder, ignore_errors=True)

    def remove_unfinished(self) -> None:
        """Delete what killed writers left behind."""
        remove_abandoned(self.root)

    def _publish(self, folder: Path, key: str) -> None:
        """Give a written entry its name."""
        for path in folder.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        for wait in (*RENAME_WAITS_SECONDS, None):
            if self.contains(key):
                return
            if (self.root / key).exists() and not self.contains(key):
                self.discard(key)
            try:
                folder.rename(self.root / key)
            except OSError:
                if wait is None:
                    raise
                time.sleep(wait)
            else:
                return


def _read_entry(folder: Path, name: str) -> dict[str, Any]:
    """The record of an entry, verified."""
    try:
        entry = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        version = entry["format_version"]
        is_sound = version != FORMAT_VERSION or entry["checksum"] == _checksum(entry)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unsound(folder, name) from error
    if not is_sound:
        raise _unsound(folder, name)
    if version != FORMAT_VERSION:
        raise CaseError(
            f"case {name}: {folder} has format {version}, this version needs "
            f'{FORMAT_VERSION}; run "foveal preprocess" again'
        )
    return entry


def _unsound(folder: Path, name: str) -> CaseError:
    return CaseError(
        f"case {name}: the store has no sound entry {folder}; "
        'delete it and run "foveal preprocess" again'
    )


def _checksum(entry: Mapping[str, Any]) -> int:
    """Of all but itself."""
    rest = {name: value for name, value in entry.items() if name != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def class_voxels(
    label_map: NDArray[np.uint8], num_classes: int
) -> tuple[list[int], NDArray[np.unsignedinteger[Any]]]:
    """List the voxels of every foreground class.

    Args:
        label_map: Inside labels ``(i, j, k)``.
        num_classes: Including background.

    Returns:
        Voxels per class, background first, and the flat indices of the voxels of class
        1, then of class 2, and so on, each in ascending order.
    """
    flat = label_map.ravel()
    foreground = np.flatnonzero((flat != 0) & (flat != IGNORED))
    labels = flat[foreground]
    counts = np.bincount(labels, minlength=num_classes)
    counts[0] = np.count_nonzero(flat == 0)
    voxels = foreground[np.argsort(labels, kind="stable")]
    return counts.tolist(), voxels.astype(_voxel_dtype(label_map.shape))


def _voxel_dtype(shape: Sequence[int]) -> np.dtype[Any]:
    return np.min_scalar_type(int(np.prod(shape, dtype=np.uint64))).newbyteorder("<")


def _write_image(folder: Path, image: NDArray[np.float32]) -> None:
    # Intensities hardly compress, so the fastest codec reads most patches per second.
    write_tiles(
        folder / "image.tiles",
        image.astype("<f4", copy=False),
        (1, *(TILE_LENGTH,) * 3),
        codec=blosc2.Codec.LZ4,
        level=5,
    )


def _write_labels(
    folder: Path,
    label_map: NDArray[np.uint8],
    voxels: NDArray[np.unsignedinteger[Any]],
) -> None:
    write_tiles(
        folder / "label_map.tiles",
        label_map,
        (TILE_LENGTH,) * 3,
        codec=blosc2.Codec.LZ4,
        level=5,
    )
    write_tiles(
        folder / "class_voxels.tiles",
        voxels,
        (VOXELS_PER_TILE,),
        codec=blosc2.Codec.LZ4,
        level=5,
    )


def _write_weights(folder: Path, weight_map: NDArray[np.float32]) -> None:
    write_tiles(
        folder / "weight_map.tiles",
        weight_map.astype("<f4", copy=False),
        (TILE_LENGTH,) * 3,
        codec=blosc2.Codec.LZ4,
        level=5,
    )


def _write_mask(folder: Path, mask: NDArray[np.bool_]) -> None:
    write_tiles(
        folder / "mask.tiles",
        mask.astype(np.uint8),
        (TILE_LENGTH,) * 3,
        codec=blosc2.Codec.LZ4,
        level=5,
    )


def _image_tiles(folder: Path, shape: Sequence[int]) -> TiledArray:
    return TiledArray(
        folder / "image.tiles", shape, np.dtype("<f4"), (1, *(TILE_LENGTH,) * 3)
    )


def _label_tiles(folder: Path, shape: Sequence[int]) -> TiledArray:
    return TiledArray(
        folder / "label_map.tiles", shape, np.dtype(np.uint8), (TILE_LENGTH,) * 3
    )


def _weight_tiles(folder: Path, shape: Sequence[int]) -> TiledArray:
    return TiledArray(
        folder / "weight_map.tiles", shape, np.dtype("<f4"), (TILE_LENGTH,) * 3
    )


def _mask_tiles(folder: Path, shape: Sequence[int]) -> TiledArray:
    return TiledArray(
        folder / "mask.tiles", shape, np.dtype(np.uint8), (TILE_LENGTH,) * 3
    )


def _voxel_tiles(
    folder: Path, counts: Sequence[int], shape: Sequence[int]
) -> TiledArray:
    return TiledArray(
        folder / "class_voxels.tiles",
        (sum(counts[1:]),),
        _voxel_dtype(shape),
        (VOXELS_PER_TILE,),
    )
