"""One study to segment: the files it is made of, and what is read from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.geometry import Grid

IGNORED = 255
"""Inside label of voxels that carry no loss and no score: marked so by the user, or
outside the volume. Inside labels are one byte: 0 background, then 1, 2, … in order."""


@dataclass(frozen=True)
class ChannelFile:
    """Where one channel of a case is stored."""

    path: Path

    index: int | None = None
    """Position along the fourth axis of a 4D file; ``None`` for a 3D file."""


@dataclass(frozen=True)
class CaseFiles:
    """Files and facts of one case as its data set lists them; nothing is read yet."""

    name: str
    """Unique in the data set; names every output of the case."""

    patient: str
    """Splits are by patient, never by case."""

    channels: tuple[ChannelFile, ...]

    label_map: Path | None = None

    mask: Path | None = None
    """Body or brain mask; voxels above 0.5 are inside."""

    annotated_labels: tuple[int, ...] | None = None
    """Label values, as on disk, contoured in this case; ``None``: all of them."""

    split: str | None = None
    """``"train"``, ``"validation"`` or ``"test"`` if the data set says so."""


@dataclass(frozen=True)
class Dataset:
    """Cases of a data set and what its labels and channels are called."""

    name: str
    root: Path
    cases: tuple[CaseFiles, ...]
    """Labelled and unlabelled cases alike, in order of name."""

    channel_names: tuple[str, ...]

    label_values: dict[str, int]
    """Structure name to value on disk, background left out, in order of value."""

    ignore_value: int | None = None
    """Label value whose voxels carry no loss and no score."""

    @property
    def labelled(self) -> tuple[CaseFiles, ...]:
        """Cases with a label map."""
        return tuple(case for case in self.cases if case.label_map is not None)


@dataclass(frozen=True, eq=False)
class Volume:
    """One stored volume: its values, its grid and its file's own header."""

    array: NDArray[Any]
    """``(i, j, k)`` in stored order, in the file's own number type where possible."""

    grid: Grid

    header: Any = None
    """The format's header, kept so that an output can repeat its codes."""


@dataclass(frozen=True, eq=False)
class Case:
    """One case in memory, every channel on one grid, in stored order."""

    name: str

    image: NDArray[np.float32]
    """``(channel, i, j, k)``."""

    grid: Grid

    label_map: NDArray[Any] | None = None
    """``(i, j, k)`` integers with the user's values."""

    mask: NDArray[np.bool_] | None = None

    header: Any = None
    """Header of the first channel's file, for outputs on the same grid."""

    path: Path | None = None
    """File of the first channel: outputs take its format."""
