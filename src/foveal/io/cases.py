"""One case in memory: its channels on one grid, its label map and its mask."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.case import Case, CaseFiles, ChannelFile, Volume
from foveal.errors import CaseError
from foveal.geometry import Grid, same_grid
from foveal.io.itk import resample_linear
from foveal.io.label_maps import (
    grid_difference,
    read_reference,
    require_same_grid,
)
from foveal.io.pictures import PictureHeader, is_picture
from foveal.io.volumes import (
    case_stem,
    channels_of_pictures,
    read_channels,
    read_grid,
    read_volume,
)

LARGEST_WEIGHT = 1e20
"""Of a voxel. Sums of far more voxels than a patch has, times weights of classes and
losses, stay within 32-bit floating point, which ends at 3.4e38."""


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
        resample_channels: Interpolate channels on another grid linearly at the voxels
            of the first one; where such a channel does not reach, it gets its lowest
            value. Otherwise they are refused.

    Raises:
        CaseError: A file is missing or damaged, the grids differ, an image has NaN or
            infinite voxels, a label map has other than integers, a mask of one
            structure more than two values, or a weight map is no weight anywhere.
    """
    if not isinstance(files, CaseFiles):
        files = case_files(files)
    name = name or files.name
    try:
        image, first = _read_image(files, resample_channels=resample_channels)
        label_map = combinations = mask = weight_map = None
        if files.is_labelled:
            label_map, combinations = read_reference(files, first.grid)
        if files.mask is not None:
            stored = read_volume(files.mask)
            require_same_grid("image", first.grid, "mask", stored.grid)
            mask = stored.array > 0.5
        if files.weight_map is not None:
            stored = read_volume(files.weight_map)
            require_same_grid("image", first.grid, "weight map", stored.grid)
            weight_map = voxel_weights(stored)
    except CaseError as error:
        raise CaseError(f"case {name}: {error}") from error
    return Case(
        name=name,
        image=image,
        grid=first.grid,
        label_map=label_map,
        combinations=combinations,
        mask=mask,
        weight_map=weight_map,
        header=first.header,
        path=files.channels[0].path,
        missing_channels=files.missing_channels,
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
        num_channels = (
            channels_of_pictures(channel_paths)
            if is_picture(channel_paths[0])
            else read_grid(channel_paths[0])[1]
        )
        if num_channels > 1:
            channels = [
                ChannelFile(channel_paths[0], index) for index in range(num_channels)
            ]
    return CaseFiles(name=name, patient=name, channels=tuple(channels))


def require_usable_headers(
    files: CaseFiles, channel_names: Sequence[str], *, resample_channels: bool
) -> None:
    """Refuse a case whose images cannot be used together, as far as headers tell.

    Voxels are not read, so that many cases can be looked at before hours of work.

    Args:
        files: Of the case.
        channel_names: That every case must have, in order.
        resample_channels: See `read_case`.

    Raises:
        CaseError: A file is missing or damaged, there are other channels than named,
            or the grids differ.
    """
    try:
        _require_usable_headers(
            files, channel_names, resample_channels=resample_channels
        )
    except CaseError as error:
        raise CaseError(f"case {files.name}: {error}") from error


def _require_usable_headers(
    files: CaseFiles, channel_names: Sequence[str], *, resample_channels: bool
) -> None:
    wanted = f"{len(channel_names)} channel(s), {', '.join(channel_names)}"
    remedy = (
        "give it these in this order, or take it out of the data set, as networks need "
        "the same channels of labelled and of unlabelled cases"
    )
    found = {channel.path: read_grid(channel.path) for channel in files.channels}
    for channel in files.channels:
        num_channels = found[channel.path][1]
        listed = sum(channel.path == other.path for other in files.channels)
        # Grey pictures may be stored in colour, which only their pixels tell.
        is_grey = is_picture(channel.path) and channel.index is None
        if num_channels != listed and not is_grey:
            raise CaseError(
                f"{channel.path} holds {num_channels} channel(s) where {listed} are "
                f"expected; the data set has {wanted}: {remedy}"
            )
    if files.num_channels != len(channel_names):
        raise CaseError(
            f"it has {files.num_channels} channel(s), the data set {wanted}; {remedy}"
        )
    if not resample_channels:
        grids = {
            number: found[channel.path][0]
            for number, channel in files.numbered_channels.items()
        }
        first = min(grids)
        for number, grid in grids.items():
            _require_same_channel_grid(first, grids[first], number, grid)


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


def voxel_weights(volume: Volume) -> NDArray[np.float32]:
    """Weights ``(i, j, k)`` of a weight map, as stored.

    Raises:
        CaseError: A weight is negative, NaN or above `LARGEST_WEIGHT`, or all are 0; or
            the file is a picture with a palette.
    """
    require_intensities(volume)
    num_missing = int(np.isnan(volume.array).sum())
    if num_missing:
        raise CaseError(
            f"weight map has {num_missing} voxels that are NaN; give every voxel a "
            "weight, 0 where none is wanted"
        )
    num_large = int(np.count_nonzero(volume.array > LARGEST_WEIGHT))
    if num_large:
        raise CaseError(
            f"weight map has {num_large} voxels above {LARGEST_WEIGHT:g}, of which "
            "sums are no number any more; divide all weights of the data set by the "
            "same number, as only their ratios count"
        )
    with np.errstate(over="ignore"):  # what is far below 0
        weights = volume.array.astype(np.float32, copy=False)
    num_negative = int(np.count_nonzero(weights < 0))
    if num_negative:
        raise CaseError(
            f"weight map has {num_negative} voxels below 0, the lowest "
            f"{weights.min():g}; weights are 0 or more"
        )
    if not weights.any():
        raise CaseError(
            "weight map is 0 everywhere; give some voxels a weight, or leave the "
            "weight map out: then all count alike"
        )
    return weights


def require_intensities(volume: Volume) -> None:
    """Refuse a picture whose pixels are the numbers of colours in a palette.

    Raises:
        CaseError: It is one.
    """
    if isinstance(volume.header, PictureHeader) and volume.header.has_palette:
        raise CaseError(
            "the image has a palette: its pixels are numbers of colours in a list, "
            "which only label maps may be; save it as grey or RGB"
        )


def _read_image(
    files: CaseFiles, *, resample_channels: bool
) -> tuple[NDArray[np.float32], Volume]:
    """Channels ``(channel, i, j, k)`` and the volume of the first that there is."""
    volumes = zip(files.numbered_channels, read_channels(files.channels), strict=True)
    number, first = next(volumes)
    image = np.empty((files.num_channels, *first.grid.shape), dtype=np.float32)
    image[list(files.missing_channels)] = 0
    image[number] = _finite(f"channel {number}", first)
    for channel, volume in volumes:
        # Before resampling, which would spread a NaN.
        values = _finite(f"channel {channel}", volume)
        if same_grid(first.grid, volume.grid):
            image[channel] = values
        elif resample_channels:
            image[channel] = resample_linear(
                values, volume.grid, first.grid, outside=float(values.min())
            )
        else:
            _require_same_channel_grid(number, first.grid, channel, volume.grid)
    return image, first


def _require_same_channel_grid(
    first_number: int, first: Grid, number: int, grid: Grid
) -> None:
    if same_grid(first, grid):
        return
    difference = grid_difference(
        f"channel {first_number}", first, f"channel {number}", grid
    )
    raise CaseError(
        f"{difference}; all channels must share one grid: resample them onto "
        "the first, or let Foveal do so with "
        '"--set preprocessing.resample_channels=true" '
        '(check and plan: "--resample-channels")'
    )


def _finite(name: str, volume: Volume) -> NDArray[np.float32]:
    """Intensities of a channel ``(i, j, k)``, checked."""
    require_intensities(volume)
    values = volume.array.astype(np.float32, copy=False)
    require_finite(name, values)
    return values
