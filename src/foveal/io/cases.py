"""One case in memory: its channels on one grid, its label map and its mask."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.case import Case, CaseFiles, ChannelFile, Volume
from foveal.errors import CaseError
from foveal.geometry import Grid, corner_distance_voxels, same_grid
from foveal.io.volumes import case_stem, read_channels, read_grid, read_volume

INTEGER_TOLERANCE = 1e-3
"""Label values stored as scaled or floating numbers may be off by this."""


def read_case(
    files: CaseFiles | Path | str | Sequence[Path | str],
    *,
    name: str | None = None,
    resample_channels: bool = False,
) -> Case:
    """Read a case and check that it can be used.

    Args:
        files: As a data set lists them; or one file (every channel of a 4D file is
            taken), or one file per channel.
        name: Of the case, in messages and outputs; by default that of ``files`` or of
            the first file.

    Raises:
        CaseError: A file is missing or damaged, the grids differ, an image has NaN or
            infinite voxels, or a label map has other than integers.
    """
    if not isinstance(files, CaseFiles):
        files = case_files(files)
    name = name or files.name
    try:
        image, first = _read_image(files)
        label_map = mask = None
        if files.label_map is not None:
            stored = read_volume(files.label_map)
            require_same_grid("image", first.grid, "label map", stored.grid)
            label_map = integer_label_map(stored.array)
        if files.mask is not None:
            stored = read_volume(files.mask)
            require_same_grid("image", first.grid, "mask", stored.grid)
            mask = stored.array > 0.5
    except CaseError as error:
        raise CaseError(f"case {name}: {error}") from error
    return Case(
        name=name,
        image=image,
        grid=first.grid,
        label_map=label_map,
        mask=mask,
        header=first.header,
        path=files.channels[0].path,
    )


def case_files(paths: Path | str | Sequence[Path | str]) -> CaseFiles:
    """List an unlabelled case from one file, 3D or 4D, or from one file per channel.

    Raises:
        CaseError: No path is given, or the single file cannot be read.
    """
    listed = [paths] if isinstance(paths, Path | str) else paths
    channel_paths = [Path(path) for path in listed]
    if not channel_paths:
        raise CaseError("a case needs at least one image file, none was given")
    name = case_stem(channel_paths[0])
    channels = [ChannelFile(path) for path in channel_paths]
    if len(channel_paths) == 1:
        num_channels = read_grid(channel_paths[0])[1]
        if num_channels > 1:
            channels = [
                ChannelFile(channel_paths[0], index) for index in range(num_channels)
            ]
    return CaseFiles(name=name, patient=name, channels=tuple(channels))


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


def present_labels(label_map: NDArray[np.int32]) -> tuple[int, ...]:
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
    if same_grid(first, second):
        return
    if first.shape != second.shape:
        difference = (
            f"{first_name} is {shape_text(first.shape)} "
            f"but {second_name} is {shape_text(second.shape)}"
        )
    else:
        distance = corner_distance_voxels(first, second)
        difference = (
            f"{first_name} and {second_name} lie up to {distance:.2f} voxels apart"
        )
    raise CaseError(
        f"{difference}; both must share one grid: "
        f"resample the {second_name} onto the grid of the {first_name}"
    )


def require_finite(name: str, values: NDArray[Any]) -> None:
    """Refuse intensities that would spread through every convolution.

    Raises:
        CaseError: Says how many voxels are NaN or infinite.
    """
    num_wrong = values.size - int(np.isfinite(values).sum())
    if num_wrong:
        raise CaseError(
            f"{name} has {num_wrong} voxels that are NaN or infinite; "
            "replace them, for example by the value of air"
        )


def shape_text(shape: Sequence[int]) -> str:
    """Lengths as people write them, multiplication signs between."""
    return "×".join(str(length) for length in shape)  # noqa: RUF001 - a sign, no letter


def _read_image(files: CaseFiles) -> tuple[NDArray[np.float32], Volume]:
    """Channels ``(channel, i, j, k)`` and the first one's volume."""
    volumes = read_channels(files.channels)
    first = next(volumes)
    image = np.empty((len(files.channels), *first.grid.shape), dtype=np.float32)
    image[0] = first.array
    for channel, volume in enumerate(volumes, start=1):
        require_same_grid("channel 0", first.grid, f"channel {channel}", volume.grid)
        image[channel] = volume.array
    for channel, values in enumerate(image):
        require_finite(f"channel {channel}", values)
    return image, first
