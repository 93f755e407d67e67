"""Labels of whole cases that a predictor made in the course of a run, in its folder.

`made_labels/step_0000500/CASE.tiles` holds those by the weights after 500 updates, in
bytes: a label map, or probabilities times 255. `labels.json` beside them says what they
are of; it is written last, so a version is there when it is. All cases are labelled at
a time, and a version is deleted once no checkpoint needs it.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import blosc2
import numpy as np
from numpy.typing import NDArray

from foveal.case import IGNORED
from foveal.errors import CaseError, RunError
from foveal.io.files import atomic_path, atomic_write_text
from foveal.store.store import StoredCase
from foveal.store.tiles import TiledArray, write_tiles

FORMAT_VERSION = 1

TILE_LENGTH = 32
"""Voxels per axis of a tile, which holds all classes."""


class MadeLabels:
    """Labels of the cases of a stream, one version of which is in use.

    Until there is one, nothing is known of any voxel. Any thread may read at any time.

    Args:
        path: ``made_labels`` of a run; made when labels are written.
        cases: That are labelled.
        num_classes: Including background.
        are_soft: Whether probabilities are kept, and not label maps.
    """

    def __init__(
        self,
        path: Path,
        cases: Sequence[StoredCase],
        num_classes: int,
        *,
        are_soft: bool,
    ) -> None:
        self.path = path
        self.cases = tuple(cases)
        self.num_classes = num_classes
        self.are_soft = are_soft
        self._version: int | None = None
        self._tiles: Mapping[str, TiledArray] = {}

    @property
    def version(self) -> int | None:
        """Updates behind the weights that made the labels in use."""
        return self._version

    def read(self, name: str, window: Sequence[slice]) -> NDArray[np.uint8]:
        """Labels of a window inside a case's volume.

        Returns:
            A label map ``(i, j, k)``, ignored where nothing is known; or
            ``(class, i, j, k)``, probabilities times 255, all 0 there.

        Raises:
            RunError: The file was damaged or deleted since.
        """
        channels = [slice(0, self.num_classes)] if self.are_soft else []
        whole = [*channels, *window]
        tiles = self._tiles.get(name)
        if tiles is None:
            shape = [axis.stop - axis.start for axis in whole]
            return np.full(shape, 0 if self.are_soft else IGNORED, np.uint8)
        try:
            labels: NDArray[np.uint8] = tiles.read(whole)
        except CaseError as error:
            raise _unsound(tiles.path) from error
        return labels

    def write(
        self, step: int, labels: Iterable[tuple[StoredCase, NDArray[np.uint8]]]
    ) -> None:
        """Add a version without using it yet; it is there once it is whole.

        Args:
            step: Updates behind the weights that made it.
            labels: Of every case, in any order.
        """
        self.delete(step)
        folder = self._folder(step)
        for case, labels_of_case in labels:
            expected = self._shape(case)
            if labels_of_case.shape != expected:
                raise ValueError(
                    f"labels of {labels_of_case.shape} for a case of {expected}"
                )
            with atomic_path(folder / f"{case.name}.tiles") as temporary:
                write_tiles(
                    temporary,
                    labels_of_case,
                    self._tile_shape,
                    codec=blosc2.Codec.LZ4,
                    level=5,
                )
        record = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "num_classes": self.num_classes,
            "are_soft": self.are_soft,
            "contents": {case.name: _content(case) for case in self.cases},
        }
        atomic_write_text(folder / "labels.json", json.dumps(record, indent=2))

    def use(self, step: int | None) -> None:
        """Label by a version; ``None``: nothing is known again.

        Raises:
            RunError: It is missing, damaged or of another format, or of other data.
        """
        if step == self._version:
            return
        found: dict[str, TiledArray] = {}
        if step is not None:
            self._require_fitting(step)
            for case in self.cases:
                path = self._folder(step) / f"{case.name}.tiles"
                shape = self._shape(case)
                try:
                    found[case.name] = TiledArray(
                        path, shape, np.dtype(np.uint8), self._tile_shape
                    )
                except CaseError as error:
                    raise _unsound(path) from error
        self._tiles = found
        self._version = step

    def delete(self, step: int) -> None:
        """Delete a version that nothing needs, if it is there."""
        folder = self._folder(step)
        # What is half deleted is no version.
        (folder / "labels.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def forget(self, kept: Iterable[int | None]) -> None:
        """Delete versions before the one in use, but for those in ``kept``."""
        for folder in self.path.glob("step_*"):
            step = int(folder.name.removeprefix("step_"))
            if step not in kept and self._version is not None and step < self._version:
                self.delete(step)

    def _require_fitting(self, step: int) -> None:
        path = self._folder(step) / "labels.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            is_known = record["format_version"] == FORMAT_VERSION
            found = (record["num_classes"], record["are_soft"], record["contents"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unsound(path) from error
        if not is_known:
            raise _unsound(path)
        contents = {case.name: _content(case) for case in self.cases}
        if found != (self.num_classes, self.are_soft, contents):
            raise RunError(
                f"{path.parent} holds labels of other scans, another plan or another "
                "method than those of this run; were unlabelled cases added or taken "
                "away? Bring them back, or begin the run again in another folder"
            )

    def _shape(self, case: StoredCase) -> tuple[int, ...]:
        return (self.num_classes, *case.shape) if self.are_soft else case.shape

    @property
    def _tile_shape(self) -> tuple[int, ...]:
        cube = (TILE_LENGTH,) * 3
        return (self.num_classes, *cube) if self.are_soft else cube

    def _folder(self, step: int) -> Path:
        return self.path / f"step_{step:07d}"


def _unsound(path: Path) -> RunError:
    return RunError(
        f"{path} is missing, damaged or of another format, and the run cannot go on as "
        "it would have without it; bring the folder made_labels back from a copy, or "
        "begin the run again in another folder"
    )


def _content(case: StoredCase) -> str:
    """What the store calls the case's preprocessed content."""
    return case.image.path.parent.name
