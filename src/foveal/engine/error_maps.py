"""Error maps of the training cases, one version after the other, in a run's folder.

`error_maps/cases/CASE/step_0000500.tiles` holds the errors under the weights after 500
updates, one byte per voxel or block of voxels, 255 for an error of 1; the `.json`
beside it says what they are of. A version is there when its `.tiles` is, which is
written last. A case without any has an error of 1 everywhere.

A map is deleted once no checkpoint needs it. Of a few cases one slice of a version
stays for people, as `.png`; its `.json` says which slice and stays with it. When there
are more than `MOST_PICTURES` of a case, the one that leaves the smallest gap goes.
"""

import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from foveal.case import IGNORED
from foveal.errors import CaseError, RunError
from foveal.inference.errors import CaseErrors
from foveal.io.files import atomic_path, atomic_write_text
from foveal.store.store import StoredCase
from foveal.store.tiles import TiledArray, write_tiles

FORMAT_VERSION = 1

TILE_LENGTH = 32
"""Voxels per axis of a tile, or blocks where a byte stands for several voxels."""

CASES_FOLDER = "cases"
"""In the folder of the maps: a folder for each case, and nothing else."""

MOST_PICTURES = 40
"""Of a case. A report shows a few of them, spread over the training."""

NONE_SHOWN: Mapping[str, int] = MappingProxyType({})


class UnsoundErrorMapError(RunError):
    """A version is missing, damaged or of another format."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"the error map {path} is missing, damaged or of another format, and the "
            "run cannot go on as it would have without it; bring the folder error_maps "
            "back from a copy, or begin the run again in another folder"
        )
        self.path = path

    @property
    def case(self) -> str:
        """Whose map it is."""
        return self.path.parent.name


@dataclass(frozen=True, eq=False)
class StoredErrorMap:
    """One version of a case's errors on disk; any thread may read at any time."""

    step: int
    """Updates behind the weights that made it."""

    difficulty: float
    """Mean error in the structures of the case, in [0, 1]."""

    block_voxels: int
    """Voxels per axis that share one byte, the mean of their errors."""

    tiles: TiledArray

    lost: Callable[["StoredErrorMap"], None] | None = None
    """Told when the file was damaged or deleted since; errors are 1 then."""

    def read(self, window: Sequence[slice]) -> NDArray[np.uint8]:
        """Errors of the voxels of a window inside the volume, 255 for 1.

        Raises:
            UnsoundErrorMapError: The file was damaged or deleted since, and nobody is
                told of it.
        """
        block = self.block_voxels
        coarse = tuple(
            slice(axis.start // block, -(-axis.stop // block)) for axis in window
        )
        try:
            errors: NDArray[np.uint8] = self.tiles.read(coarse)
        except CaseError as error:
            if self.lost is None:
                raise UnsoundErrorMapError(self.tiles.path) from error
            self.lost(self)
            shape = [axis.stop - axis.start for axis in window]
            return np.full(shape, 255, np.uint8)
        if block == 1:
            return errors
        for number, axis in enumerate(window):
            start = axis.start - axis.start // block * block
            along = np.repeat(errors, block, axis=number)
            errors = along[
                (slice(None),) * number
                + (slice(start, start + axis.stop - axis.start),)
            ]
        return errors


class ErrorMapFolder:
    """The error maps of a run, the newest of which is current.

    Args:
        path: ``error_maps`` of a run; made when the first map is written.
        cases: Whose errors are kept, by name.
        block_voxels: Of maps written from now on.
        slice_axes: Cases of which a slice of every version is kept for people, by name,
            and the axis it is across, 0 to 2; the slice is that with most voxels of
            structures.
        goes_on_without: Whether a case whose map turns out to be lost while it is read
            counts as wrong everywhere, see `lost`, and is no error.
    """

    def __init__(
        self,
        path: Path,
        cases: Mapping[str, StoredCase],
        block_voxels: int = 1,
        slice_axes: Mapping[str, int] = NONE_SHOWN,
        *,
        goes_on_without: bool = False,
    ) -> None:
        self.path = path
        self._cases = dict(cases)
        self._block_voxels = block_voxels
        self._slice_axes = dict(slice_axes)
        self._slice_indices: dict[str, int] = {}
        self._current: dict[str, StoredErrorMap] = {}
        self._lost_case = self._drop if goes_on_without else None
        self._lost: list[str] = []
        self._lock = threading.Lock()

    def current(self, case_name: str) -> StoredErrorMap | None:
        """The map in use; ``None`` while the error is 1 everywhere."""
        return self._current.get(case_name)

    @property
    def cases(self) -> tuple[StoredCase, ...]:
        """Whose errors are kept."""
        return tuple(self._cases.values())

    @property
    def steps(self) -> dict[str, int]:
        """Version in use of every case that has one."""
        return {name: found.step for name, found in self._current.items()}

    def lost(self) -> list[str]:
        """Sentences on maps that were found lost since the last time."""
        if not self._lost:
            return []
        with self._lock:
            lost, self._lost = self._lost, []
        return lost

    def drop(self, name: str) -> None:
        """A case counts as wrong everywhere, until another map of it is used."""
        with self._lock:
            self._current.pop(name, None)

    def write(self, name: str, step: int, found: CaseErrors) -> None:
        """Add a version, whole or not at all, without using it yet.

        Args:
            name: Of the case.
            step: Updates behind the weights that made it.
            found: On the case's preprocessed grid.
        """
        error = found.error
        case = self._cases[name]
        if error.shape != case.shape:
            raise ValueError(f"errors of {error.shape} for a case of {case.shape}")
        path = self._tiles_path(name, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "format_version": FORMAT_VERSION,
            "case": name,
            "content": _content(case),
            "step": step,
            "shape": list(case.shape),
            "block_voxels": self._block_voxels,
            "difficulty": found.difficulty,
            "dice": found.dice,
        }
        if name in self._slice_axes:
            record["slice"] = self._write_slice(path.with_suffix(".png"), case, error)
        atomic_write_text(path.with_suffix(".json"), json.dumps(record, indent=2))
        with atomic_path(path) as temporary:
            write_tiles(
                temporary,
                block_means(error, self._block_voxels),
                (TILE_LENGTH,) * 3,
                codec=blosc2.Codec.LZ4,
                level=5,
            )

    def use(self, name: str, step: int) -> None:
        """Make a version current.

        Raises:
            UnsoundErrorMapError: It is missing, damaged or of another format.
            RunError: It is of other data.
        """
        path = self._tiles_path(name, step)
        try:
            record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            version = record["format_version"]
            block = int(record["block_voxels"])
            content = record["content"]
            difficulty = float(record["difficulty"])
            shape = tuple(record["shape"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnsoundErrorMapError(path) from error
        if version != FORMAT_VERSION:
            raise UnsoundErrorMapError(path)
        case = self._cases[name]
        if content != _content(case) or shape != case.shape:
            raise RunError(
                f"{path} is the error map of another scan or another plan than case "
                f"{name} of this run; error maps cannot be carried from run to run. "
                "Begin the run again in another folder"
            )
        coarse = [math.ceil(length / block) for length in shape]
        try:
            tiles = TiledArray(path, coarse, np.dtype(np.uint8), (TILE_LENGTH,) * 3)
        except CaseError as error:
            raise UnsoundErrorMapError(path) from error
        with self._lock:
            self._current[name] = StoredErrorMap(
                step, difficulty, block, tiles, self._lost_case
            )

    def use_versions(self, steps: Mapping[str, int]) -> None:
        """Make these versions current and no others, as `steps` told them.

        Raises:
            RunError: See `use`; or a case is not one of these.
        """
        if unknown := sorted(steps.keys() - self._cases.keys()):
            raise RunError(
                f"the run had error maps of {', '.join(unknown)}, which it no longer "
                "trains on; bring them back into the data set, or begin the run again "
                "in another folder"
            )
        with self._lock:
            for name in self._current.keys() - steps.keys():
                del self._current[name]
        for name, step in steps.items():
            found = self._current.get(name)
            if found is None or found.step != step:
                self.use(name, step)

    def newest(self, name: str) -> int | None:
        """Step of the newest version of a case on disk; ``None`` without any."""
        return max(self._versions(name), default=None)

    def contains(self, name: str, step: int) -> bool:
        """Whether a version of a case is on disk, as far as its name tells."""
        return name in self._cases and self._tiles_path(name, step).is_file()

    def delete(self, name: str, step: int) -> None:
        """Delete the map of a version that nothing needs, but not its picture."""
        path = self._tiles_path(name, step)
        path.unlink(missing_ok=True)
        # Read only together with a map or a picture.
        if not path.with_suffix(".png").exists():
            path.with_suffix(".json").unlink(missing_ok=True)

    def forget(self, kept: Sequence[Mapping[str, int]]) -> None:
        """Delete the maps of versions that are neither in use nor in ``kept``.

        Args:
            kept: Versions as `steps` told them.
        """
        for name in self._cases:
            wanted = {steps[name] for steps in (*kept, self.steps) if name in steps}
            newest_wanted = max(wanted, default=-1)
            for step in self._versions(name):
                if step not in wanted and step < newest_wanted:
                    self.delete(name, step)

    def _drop(self, found: StoredErrorMap) -> None:
        """Go on without a map that cannot be read."""
        path = found.tiles.path
        name = path.parent.name
        with self._lock:
            if self._current.get(name) is found:
                del self._current[name]
                self._lost.append(without(path))

    def _write_slice(
        self, path: Path, case: StoredCase, error: NDArray[np.uint8]
    ) -> dict[str, Any]:
        """Keep a slice of errors as a picture; returns where it lies."""
        from foveal.io.pictures import write_picture  # brings readers of many formats

        axis = self._slice_axes[case.name]
        if case.name not in self._slice_indices:
            self._slice_indices[case.name] = fullest_index(case, axis)
        index = self._slice_indices[case.name]
        with atomic_path(path) as temporary:
            pixels = np.take(error, [index], axis)
            write_picture(temporary, np.moveaxis(pixels, axis, 2))
        _thin_out(path.parent)
        return {"axis": axis, "index": index, "affine": case.grid.affine.tolist()}

    def _versions(self, name: str) -> list[int]:
        folder = self._tiles_path(name, 0).parent
        return [_step_of(path) for path in folder.glob("step_*.tiles")]

    def _tiles_path(self, name: str, step: int) -> Path:
        return self.path / CASES_FOLDER / name / f"step_{step:07d}.tiles"


def without(path: Path) -> str:
    """What is said of a map that is lost, where training goes on without it."""
    return (
        f"the error map {path} is missing, damaged or of another format; case "
        f"{path.parent.name} counts as wrong everywhere until it is predicted again"
    )


def _thin_out(folder: Path) -> None:
    """Delete pictures of a case beyond the most; first and last stay."""
    paths = sorted(folder.glob("step_*.png"), key=_step_of)
    while len(paths) > MOST_PICTURES:
        steps = [_step_of(path) for path in paths]
        _, place = min(
            (after - before, place)
            for place, (before, after) in enumerate(
                zip(steps[:-2], steps[2:], strict=True), start=1
            )
        )
        path = paths.pop(place)
        path.unlink(missing_ok=True)
        if not path.with_suffix(".tiles").exists():
            path.with_suffix(".json").unlink(missing_ok=True)


def _step_of(path: Path) -> int:
    """Updates behind the weights of a version."""
    return int(path.stem.removeprefix("step_"))


def block_means(error: NDArray[np.uint8], block_voxels: int) -> NDArray[np.uint8]:
    """Mean errors of blocks, rounded; those at the far borders may be smaller.

    Args:
        error: ``(i, j, k)``.
        block_voxels: Edge length of a block; 1: the same errors.
    """
    if block_voxels == 1:
        return error
    sums = error.astype(np.float64)
    for axis, length in enumerate(error.shape):
        starts = np.arange(0, length, block_voxels)
        counts = np.diff(np.append(starts, length))
        sums = np.add.reduceat(sums, starts, axis=axis)
        sums /= counts.reshape([-1 if n == axis else 1 for n in range(3)])
    return np.rint(sums).astype(np.uint8)


def fullest_index(case: StoredCase, axis: int) -> int:
    """Place along an axis of the slice with most voxels of structures.

    The middle one in a case without any.
    """
    labels = case.read_label_map([slice(0, length) for length in case.shape])
    others = tuple(other for other in range(3) if other != axis)
    counts = np.count_nonzero((labels != 0) & (labels != IGNORED), axis=others)
    return int(counts.argmax()) if counts.any() else case.shape[axis] // 2


def _content(case: StoredCase) -> str:
    """What the store calls the case's preprocessed content."""
    return case.image.path.parent.name
