"""References on the grid of their image: one label map, or one mask per structure."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.case import CaseFiles, ChannelFile, StructureFile, Volume
from foveal.errors import CaseError
from foveal.geometry import (
    Grid,
    corner_distance_voxels,
    cropped_grid,
    reorientation,
    same_grid,
)
from foveal.io.volumes import is_slicer_segmentation, read_channels, read_volume

INTEGER_TOLERANCE = 1e-3
"""Label values stored as scaled or floating numbers may be off by this."""


def read_reference(
    files: CaseFiles, grid: Grid
) -> tuple[NDArray[np.int32], tuple[frozenset[str], ...] | None]:
    """Read what an expert drew, onto the grid of the image.

    In memory are one label map and one file of masks, however many structures there
    are.

    Args:
        files: Of a labelled case.
        grid: Of its image.

    Returns:
        Label map ``(i, j, k)``, and ``None``: its values are the user's. Where every
        structure has a mask of its own, the values are places in the second result:
        which structures lie over one another there; the first is empty, background.

    Raises:
        CaseError: A file is missing or damaged, lies on another grid, or does not hold
            what it should.
        ValueError: The case is not labelled.
    """
    if files.label_map is not None:
        stored = read_volume(files.label_map)
        values = _on_grid("label map", files.label_map, stored, grid)
        label_map = integer_label_map(values)
        return with_background_zero(label_map, files.background_value), None
    if not files.structure_files:
        raise ValueError(f"case {files.name} has no reference")
    combinations = _Combinations(grid.shape)
    for structure, mask in _structure_masks(files.structure_files, grid):
        combinations.add(structure, mask)
    return combinations.without_gaps()


def integer_label_map(array: NDArray[Any]) -> NDArray[np.int32]:
    """Label map as int32; floating values must be integers within `INTEGER_TOLERANCE`.

    Raises:
        CaseError: A value is not an integer, or does not fit 32 bits.
    """
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        with np.errstate(invalid="ignore"):  # infinity less infinity is wrong too
            is_wrong = ~(np.abs(array - rounded) <= INTEGER_TOLERANCE)
        if is_wrong.any():
            raise CaseError(
                f"label map has {int(is_wrong.sum())} voxels that are not integers, "
                f"for example {array[is_wrong][0]:g}; store integers, "
                "and resample label maps without interpolation"
            )
        array = rounded
    limits = np.iinfo(np.int32)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise CaseError(
            f"label map has values from {array.min():g} to {array.max():g}; "
            "values must fit 32-bit integers"
        )
    return array.astype(np.int32)


def with_background_zero(
    label_map: NDArray[np.int32], background_value: int
) -> NDArray[np.int32]:
    """Label map whose background is 0.

    Args:
        label_map: As stored.
        background_value: Of the stored background.

    Raises:
        CaseError: Background is not 0, but 0 occurs beside it.
    """
    if background_value == 0:
        return label_map
    is_background = label_map == background_value
    if is_background.any() and (label_map == 0).any():
        raise CaseError(
            f"label map has 0 beside {background_value}, which is background in the "
            "others; store the same values in all of them"
        )
    return np.where(is_background, np.int32(0), label_map)


def present_labels(label_map: NDArray[np.integer]) -> tuple[int, ...]:
    """Values that occur in a label map, background included, in ascending order."""
    if label_map.size == 0:
        return ()
    lowest, highest = int(label_map.min()), int(label_map.max())
    if highest - lowest >= 65536:
        return tuple(int(value) for value in np.unique(label_map))
    # Counting is many times faster than the sort inside np.unique.
    counts = np.bincount(label_map.ravel(order="K") - lowest)
    return tuple(int(value) + lowest for value in np.flatnonzero(counts))


def require_same_grid(
    first_name: str, first: Grid, second_name: str, second: Grid
) -> None:
    """Refuse two volumes of a case that do not lie voxel on voxel.

    Raises:
        CaseError: Says how far they are apart.
    """
    if not same_grid(first, second):
        raise CaseError(
            f"{grid_difference(first_name, first, second_name, second)}; both must "
            f"share one grid: resample the {second_name} onto the grid of the "
            f"{first_name}"
        )


def grid_difference(
    first_name: str, first: Grid, second_name: str, second: Grid
) -> str:
    """In what two grids differ, in words."""
    if first.shape != second.shape:
        return (
            f"{first_name} is {shape_text(first.shape)} "
            f"but {second_name} is {shape_text(second.shape)}"
        )
    distance = corner_distance_voxels(first, second)
    return f"{first_name} and {second_name} lie up to {distance:.2f} voxels apart"


def shape_text(shape: tuple[int, ...]) -> str:
    """Lengths as people write them, multiplication signs between."""
    return "×".join(str(length) for length in shape)  # noqa: RUF001 - a sign, no letter


def _on_grid(name: str, path: Path, stored: Volume, grid: Grid) -> NDArray[Any]:
    """Values of a file ``(i, j, k)`` on the image's grid."""
    if is_slicer_segmentation(path):
        return _placed(path, stored, grid)
    require_same_grid("image", grid, name, stored.grid)
    return stored.array


def _placed(path: Path, stored: Volume, grid: Grid) -> NDArray[Any]:
    """Values of a crop of the image at their place in it, 0 around them.

    The crop may be stored along other axes than the image, and reach beyond it where it
    is empty.
    """
    if same_grid(grid, stored.grid):
        return stored.array
    turn = reorientation(stored.grid, grid.orientation)
    array, own = turn.apply(stored.array), turn.apply_to_grid(stored.grid)
    start = np.linalg.inv(grid.affine) @ own.affine[:, 3]
    starts = [int(index) for index in np.rint(start[:3])]
    there = [
        slice(index, index + length)
        for index, length in zip(starts, array.shape, strict=True)
    ]
    if not same_grid(cropped_grid(grid, there), own):
        raise CaseError(
            f"the voxels of {path} do not coincide with those of the image; export "
            "the segmentation with the image as its reference geometry"
        )
    inside = tuple(
        slice(max(window.start, 0), max(min(window.stop, length), 0))
        for window, length in zip(there, grid.shape, strict=True)
    )
    kept = array[
        tuple(
            slice(max(window.start - index, 0), max(window.stop - index, 0))
            for window, index in zip(inside, starts, strict=True)
        )
    ]
    num_lost = np.count_nonzero(array) - np.count_nonzero(kept)
    if num_lost:
        raise CaseError(
            f"{path} has {num_lost} segmented voxels outside the image; "
            "is it the segmentation of this image?"
        )
    placed = np.zeros(grid.shape, array.dtype, order="F")
    placed[inside] = kept
    return placed


def _structure_masks(
    files: tuple[StructureFile, ...], grid: Grid
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Every structure and its mask on the image's grid; every file is read once."""
    ordered = sorted(files, key=lambda file: (str(file.path), file.layer or 0))
    together = [
        list(group)
        for _, group in groupby(ordered, key=lambda file: (file.path, file.layer))
    ]
    stored = read_channels(
        [ChannelFile(group[0].path, group[0].layer) for group in together]
    )
    for group, volume in zip(together, stored, strict=True):
        values = _on_grid(f"mask of {group[0].structure}", group[0].path, volume, grid)
        for file in group:
            yield file.structure, _mask(file, values)


def _mask(file: StructureFile, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a structure is."""
    if file.value is None:
        _require_two_values(file.path, values)
        # Integers are not turned to floating numbers first, which takes long.
        return values > 0.5 if values.dtype.kind == "f" else values > 0
    numbers = integer_label_map(values) if values.dtype.kind == "f" else values
    return numbers == file.value


def _require_two_values(path: Path, values: NDArray[Any]) -> None:
    """Refuse a mask that does not say plainly what is inside."""
    lowest, highest = values.min(), values.max()
    if values.dtype.kind == "f":
        is_wrong = ~(
            (values <= lowest + INTEGER_TOLERANCE)
            | (values >= highest - INTEGER_TOLERANCE)
        )
    else:
        is_wrong = (values != lowest) & (values != highest)
    if is_wrong.any():
        raise CaseError(
            f"{path} is listed as the mask of one structure but has more than two "
            f"values: {lowest:g}, {values[is_wrong][0]:g} and {highest:g}; store 0 "
            "outside and 1 inside, or list it as a label map"
        )
    if highest - lowest > INTEGER_TOLERANCE and not lowest <= 0.5 < highest:
        raise CaseError(
            f"{path} is a mask of the values {lowest:g} and {highest:g}, so nothing "
            "tells inside from outside; store 0 outside and 1 inside"
        )


class _Combinations:
    """Label map of numbers of combinations, to which masks are added one by one."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        # As files lie in memory, so that masks and label map are read alike.
        self.label_map = np.zeros(shape, np.int32, order="F")
        self._structures: list[frozenset[str]] = [frozenset()]
        self._num_voxels = [self.label_map.size]

    def add(self, structure: str, mask: NDArray[np.bool_]) -> None:
        """Every combination that occurs under the mask becomes one with the structure.

        Args:
            structure: Not added before.
            mask: ``(i, j, k)``.
        """
        # Many times faster than label_map[mask], which runs along k first.
        voxels = np.flatnonzero(mask.ravel(order="F"))
        flat = self.label_map.ravel(order="F")
        numbers = flat[voxels]
        counts = np.bincount(numbers, minlength=len(self._structures))
        lookup = np.zeros(len(self._structures), np.int32)
        for number in np.flatnonzero(counts):
            lookup[number] = len(self._structures)
            self._structures.append(self._structures[number] | {structure})
            self._num_voxels[number] -= int(counts[number])
            self._num_voxels.append(int(counts[number]))
        flat[voxels] = lookup[numbers]

    def without_gaps(self) -> tuple[NDArray[np.int32], tuple[frozenset[str], ...]]:
        """Label map and combinations, less those that later masks left no voxel of."""
        kept = [
            number
            for number, num_voxels in enumerate(self._num_voxels)
            if num_voxels or number == 0
        ]
        if len(kept) < len(self._structures):
            lookup = np.zeros(len(self._structures), np.int32)
            lookup[kept] = np.arange(len(kept))
            self.label_map = lookup[self.label_map]
        return self.label_map, tuple(self._structures[number] for number in kept)
