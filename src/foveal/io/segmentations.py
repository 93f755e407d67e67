"""Segmentations as they lie on disk: label maps, or folders of one mask per structure.

TotalSegmentator and many exports of contours write the latter: a folder per case that
holds ``liver.nii.gz``, ``spleen.nii.gz``, ….
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foveal.case import CaseFiles
from foveal.errors import CaseError, DatasetError
from foveal.geometry import Grid
from foveal.io.label_maps import (
    integer_label_map,
    present_labels,
    read_reference,
    require_same_grid,
    with_background_zero,
)
from foveal.io.volumes import (
    VOLUME_ENDINGS,
    case_stem,
    is_slicer_segmentation,
    is_volume,
    only_volumes,
    read_grid,
    read_volume,
)

Parts = tuple[int | str, ...]
"""What a structure is the union of: values of a label map, or names of masks."""

NAMES_SHOWN = 8
"""Masks listed in an error message."""


class Segmentation(Protocol):
    """One case as a person or a program has drawn it."""

    @property
    def grid(self) -> Grid:
        """Of every mask."""

    def mask(self, parts: Parts) -> NDArray[np.bool_]:
        """Union of some parts, ``(i, j, k)``."""

    def others(self, parts: Iterable[int | str]) -> frozenset[int | str]:
        """Parts that are there besides some."""


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Structures as values; 0 is background."""

    label_map: NDArray[np.int32]
    grid: Grid

    def mask(self, parts: Parts) -> NDArray[np.bool_]:
        """Where the label map has one of some values."""
        mask: NDArray[np.bool_] = self.label_map == parts[0]
        for value in parts[1:]:
            mask |= self.label_map == value
        return mask

    def others(self, parts: Iterable[int | str]) -> frozenset[int | str]:
        """Values that occur besides some and background."""
        # The foreground is small, so picking it first saves counting all voxels.
        found = present_labels(self.label_map[self.label_map != 0])
        return frozenset(found) - set(parts)


@dataclass(frozen=True, eq=False)
class Combinations:
    """Structures that may overlap, as `read_reference` puts them in one label map."""

    label_map: NDArray[np.int32]
    grid: Grid

    combinations: tuple[frozenset[str], ...]
    """Structures by number in the label map."""

    values: Mapping[str, int]
    """Structure to the value that its data set gives it."""

    def mask(self, parts: Parts) -> NDArray[np.bool_]:
        """Where one of some values is, whatever lies over it."""
        names = {name for name, value in self.values.items() if value in parts}
        is_inside = np.array([bool(names & here) for here in self.combinations])
        mask: NDArray[np.bool_] = is_inside[self.label_map]
        return mask

    def others(self, parts: Iterable[int | str]) -> frozenset[int | str]:
        """Values that occur besides some."""
        names = frozenset[str]().union(*self.combinations)
        return frozenset(self.values[name] for name in names) - set(parts)


@dataclass(frozen=True, eq=False)
class Masks:
    """Structures as files, which may overlap; read when they are wanted."""

    folder: Path
    files: Mapping[str, Path]
    grid: Grid

    def mask(self, parts: Parts) -> NDArray[np.bool_]:
        """Union of the masks of some names; voxels above 0.5 are inside.

        Raises:
            CaseError: There is no such mask, it cannot be read, or it does not lie on
                the grid of the others.
        """
        union: NDArray[np.bool_] = np.zeros(self.grid.shape, np.bool_)
        for name in map(str, parts):
            if name not in self.files:
                names = list(self.files)
                more = f" and {len(names) - NAMES_SHOWN} more"
                raise CaseError(
                    f'{self.folder} has no mask "{name}" but '
                    f"{', '.join(names[:NAMES_SHOWN])}"
                    f"{more if len(names) > NAMES_SHOWN else ''}; add it, empty if "
                    "nothing was found, or say which mask is meant "
                    f"(--prediction-labels {name}=NAME)"
                )
            volume = read_volume(self.files[name])
            require_same_grid("other masks", self.grid, f"mask {name}", volume.grid)
            union |= volume.array > 0.5
        return union

    def others(self, parts: Iterable[int | str]) -> frozenset[int | str]:
        """Names of masks besides some."""
        return frozenset(self.files) - set(map(str, parts))


def read_segmentation(path: Path, background_value: int = 0) -> Segmentation:
    """Read a label map, or look at a folder of masks.

    Args:
        path: Of either.
        background_value: See `Dataset.background_value`.

    Raises:
        CaseError: A file cannot be read, or a label map has other than integers.
    """
    if path.is_dir():
        files = {case_stem(file): file for file in only_volumes(sorted(path.iterdir()))}
        return Masks(path, files, read_grid(next(iter(files.values())))[0])
    volume = read_volume(path)
    label_map = integer_label_map(volume.array)
    return LabelMap(with_background_zero(label_map, background_value), volume.grid)


def read_listed_segmentation(
    files: CaseFiles, values: Mapping[str, int]
) -> Segmentation:
    """Read the reference of a case that a data set lists, on the grid of its image.

    Args:
        files: Of a labelled case.
        values: Label name to value, as in its data set.

    Raises:
        CaseError: A file is missing or damaged, or does not lie on the image's grid.
    """
    if files.label_map is not None and not is_slicer_segmentation(files.label_map):
        return read_segmentation(files.label_map, files.background_value)
    grid, _ = read_grid(files.channels[0].path)
    label_map, combinations = read_reference(files, grid)
    if combinations is None:
        return LabelMap(label_map, grid)
    return Combinations(label_map, grid, combinations, values)


def segmentations_in(path: Path) -> dict[str, Path]:
    """Case to its label map or, if there are none, to its folder of masks.

    Args:
        path: One label map, or a folder of either form.

    Raises:
        DatasetError: The folder holds neither, or two label maps of one case.
    """
    found = {case_stem(path): path} if path.is_file() else found_segmentations(path)
    if not found:
        raise DatasetError(
            f"{path} holds no label maps and no folders of masks; files must end in "
            f"{', '.join(VOLUME_ENDINGS)}"
        )
    return found


def found_segmentations(folder: Path) -> dict[str, Path]:
    """As `segmentations_in`; empty if the folder holds neither.

    Raises:
        DatasetError: The folder holds two label maps of one case.
    """
    by_case: dict[str, Path] = {}
    inside = sorted(folder.iterdir())
    for file in only_volumes(inside):
        case = case_stem(file)
        if case in by_case:
            raise DatasetError(
                f"{by_case[case]} and {file} both belong to case {case}; remove one"
            )
        by_case[case] = file
    return by_case or {
        path.name: path
        for path in inside
        if path.is_dir()
        and not path.name.startswith(".")
        and any(map(is_volume, path.iterdir()))
    }
