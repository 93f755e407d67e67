"""One volume from or to one file, whatever its format."""

import contextlib
import errno
import itertools
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from foveal.case import ChannelFile, Volume
from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.io import itk, nifti, pictures
from foveal.io.files import atomic_path, replace_file
from foveal.io.pictures import PICTURE_ENDINGS, is_lossy_picture, is_picture
from foveal.unfinished import naming, remove_abandoned, unfinished

NIFTI_ENDINGS = (".nii.gz", ".nii")
SLICER_ENDING = ".seg.nrrd"
"""Of the segmentations that 3D Slicer saves."""

ITK_ENDINGS = (SLICER_ENDING, ".nrrd", ".mha", ".mhd")
VOLUME_ENDINGS = NIFTI_ENDINGS + ITK_ENDINGS + PICTURE_ENDINGS
READ_ERRORS = nifti.READ_ERRORS + itk.READ_ERRORS + pictures.READ_ERRORS

PICTURES_LOOKED_AT = 50
"""To learn whether pictures that are stored in colour are grey all the same."""

ITK_PLACE = re.compile(r".*ERROR: (\w+\(0x[0-9a-f]+\): )?", re.DOTALL)
"""What ITK puts before a reason: its own source lines and addresses."""

LARGEST_AXIS_COSINE = 0.01
"""Axes that are less perpendicular than this (half a degree) are a gantry tilt or a
shear, which no resampling along the axes can undo."""


def volume_ending(path: Path) -> str:
    """Ending that names the format, in lower case, for example ``".nii.gz"``.

    Raises:
        CaseError: The ending is none of `VOLUME_ENDINGS`.
    """
    for ending in VOLUME_ENDINGS:
        if path.name.lower().endswith(ending):
            return ending
    if is_lossy_picture(path):
        raise CaseError(f"{path} is not read: {pictures.WHY_NOT_LOSSY}")
    raise CaseError(
        f"{path} is not a volume: the ending must be one of {', '.join(VOLUME_ENDINGS)}"
    )


def is_volume(path: Path) -> bool:
    """Whether the name ends like a volume; hidden files do not count."""
    name = path.name.lower()
    return name.endswith(VOLUME_ENDINGS) and not name.startswith(".")


def only_volumes(paths: Iterable[Path]) -> list[Path]:
    """Those of some files that are volumes, in their order.

    Pictures count only where nothing else is there: beside scans they are previews.
    """
    volumes = [path for path in paths if is_volume(path)]
    return [path for path in volumes if not is_picture(path)] or volumes


def is_slicer_segmentation(path: Path) -> bool:
    """Whether the name ends as 3D Slicer's segmentations do, which are never images."""
    return path.name.lower().endswith(SLICER_ENDING)


def case_stem(path: Path) -> str:
    """Name of the file without its ending."""
    return path.name[: -len(volume_ending(path))]


def read_volume(path: Path, index: int | None = None) -> Volume:
    """Read one volume.

    Args:
        path: Of a file with one of `VOLUME_ENDINGS`.
        index: Which channel of a 4D file; needed if there is more than one.

    Raises:
        CaseError: The file is missing, damaged, not a volume, has no such channel, or
            its voxels have no sound place in the world.
    """
    return next(read_channels([ChannelFile(path, index)]))


def read_channels(channels: Sequence[ChannelFile]) -> Iterator[Volume]:
    """Read several channels in turn; neighbours in one file are read together.

    Raises:
        CaseError: As `read_volume`.
    """
    for path, group in itertools.groupby(channels, key=lambda channel: channel.path):
        array, grid, header = _read(path)
        for channel in group:
            if channel.index is None and is_picture(path):
                array = pictures.without_colours(path, array)
            index = _channel_index(path, channel.index, array.shape[3])
            yield Volume(array[..., index], grid, header)


def read_grid(path: Path) -> tuple[Grid, int]:
    """Read a volume's grid and number of channels without its voxels.

    Raises:
        CaseError: As `read_volume`, except that damage behind the header goes unseen.
    """
    _require_file(path)
    try:
        if volume_ending(path) in NIFTI_ENDINGS:
            grid, num_channels = nifti.read_nifti_grid(path)
        elif is_picture(path):
            grid, num_channels = pictures.read_picture_grid(path)
        else:
            grid, num_channels = itk.read_itk_grid(path)
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    _require_sound_grid(path, grid)
    return grid, num_channels


def channels_of_pictures(paths: Sequence[Path]) -> int:
    """Channels that a set of pictures has: 1 if all of them turn out to be grey.

    Every header is looked at. Of those that say colour about `PICTURES_LOOKED_AT`,
    evenly spread, are read: if they are grey, the set is, otherwise what most headers
    say is right. A picture of another kind is refused when it is read.
    """
    found = []
    for path in paths:
        # Those that cannot be read are refused, with their reason, with their case.
        with contextlib.suppress(CaseError):
            found.append((path, read_grid(path)[1]))
    if not found:
        return 1
    coloured = [path for path, count in found if count > 1]
    apart = max(1, len(coloured) // PICTURES_LOOKED_AT)
    if all(_is_grey(path) for path in coloured[::apart]):
        return 1
    return Counter(count for _, count in found).most_common(1)[0][0]


def _is_grey(path: Path) -> bool:
    try:
        return pictures.is_grey(_read(path)[0])
    except CaseError:
        return True


def write_volume(
    path: Path, array: NDArray[Any], grid: Grid, header: object = None
) -> None:
    """Write one volume; the format follows the ending, the number type the array.

    Booleans become uint8, half precision float32, and 64-bit integers 32-bit ones where
    they fit, as not every viewer reads the others.

    Args:
        path: Replaced in one step; its folder is made if absent.
        array: ``(i, j, k)``.
        grid: Of the array.
        header: `Volume.header` of the file that the output belongs to. A NIfTI output
            repeats its affine codes and units; other formats have none to repeat.

    Raises:
        CaseError: The ending is none of `VOLUME_ENDINGS`, or a picture cannot hold the
            values.
        ValueError: The array's shape is not the grid's.
    """
    if array.shape != grid.shape:
        raise ValueError(f"array is {array.shape} but its grid is {grid.shape}")
    array = _common_number_type(array)
    ending = volume_ending(path)
    if ending == ".mhd":
        _write_header_and_raw(path, array, grid)
        return
    with atomic_path(path) as temporary:
        if ending in NIFTI_ENDINGS:
            own_header = header if isinstance(header, nib.Nifti1Header) else None
            nifti.write_nifti(temporary, array, grid, own_header)
        elif ending in PICTURE_ENDINGS:
            pictures.write_picture(temporary, array)
        else:
            _write_itk(temporary, array, grid)


def _read(path: Path) -> tuple[NDArray[Any], Grid, Any]:
    """All channels of a file ``(i, j, k, channel)``, their grid and header."""
    # What the header claims is refused before memory is taken for it.
    read_grid(path)
    header: object = None
    try:
        if volume_ending(path) in NIFTI_ENDINGS:
            array, grid, header = nifti.read_nifti(path)
        elif is_picture(path):
            array, grid, header = pictures.read_picture(path)
        else:
            array, grid = itk.read_itk(path)
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    return array, grid, header


def _write_header_and_raw(path: Path, array: NDArray[Any], grid: Grid) -> None:
    """Write an ``.mhd`` header and its raw file, which the header names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    with naming(path), unfinished(path, Path.mkdir) as folder:
        try:
            _write_itk(folder / path.name, array, grid)
            # The header last: until then it is the old one or none.
            for file in sorted(folder.iterdir(), key=lambda one: one.name == path.name):
                replace_file(file, path.parent / file.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _write_itk(path: Path, array: NDArray[Any], grid: Grid) -> None:
    try:
        itk.write_itk(path, array, grid)
    except RuntimeError as error:  # ITK knows no other.
        raise OSError(errno.EIO, _itk_reason(error), str(path)) from error


def _common_number_type(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype in (np.int64, np.uint64):
        limits = np.iinfo(np.int32)
        fits = array.size == 0 or (
            array.min() >= limits.min and array.max() <= limits.max
        )
        return array.astype(np.int32 if fits else np.int64)
    return array


def _channel_index(path: Path, index: int | None, num_channels: int) -> int:
    if index is None and num_channels > 1:
        raise CaseError(
            f"{path} holds {num_channels} channels where one was expected; "
            "split the file, or list it as the only channel file of its case"
        )
    if index is not None and num_channels == 1 < index + 1 and is_picture(path):
        raise CaseError(
            f"{path} is a grey picture where one in colour is expected; a data set is "
            "in colour only if all of its images have three channels: convert the ones "
            "or the others"
        )
    if index is not None and not 0 <= index < num_channels:
        raise CaseError(
            f"{path} holds {num_channels} channel(s), so there is no channel {index} "
            "(the first is 0); add the missing channel or correct the channel names"
        )
    return index or 0


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CaseError(
            f"{path} does not exist or is no file; "
            "correct the path or take the case out of the data set"
        )
    if path.stat().st_size == 0:
        raise CaseError(f"{path} cannot be read (it is empty); copy or export it again")


def _require_sound_grid(path: Path, grid: Grid) -> None:
    """Refuse grids whose voxels lie nowhere, on one another, or askew."""
    matrix = grid.affine[:3, :3]
    is_finite = bool(np.isfinite(grid.affine).all())
    if not is_finite or np.linalg.matrix_rank(matrix) < 3 or min(grid.shape) < 1:
        raise CaseError(
            f"{path} has a singular affine or no voxels: shape {grid.shape}, affine "
            f"{grid.affine[:3].tolist()}; export it again with spacing and orientation"
        )
    directions = matrix / np.linalg.norm(matrix, axis=0)
    cosine = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if cosine > LARGEST_AXIS_COSINE:
        raise CaseError(
            f"{path} has axes that are not perpendicular (cosine {cosine:.3f}), as "
            "after a tilted gantry or an affine registration; "
            "resample it onto a straight grid"
        )


def _unreadable(path: Path, error: Exception) -> CaseError:
    reason = _itk_reason(error) or type(error).__name__
    return CaseError(
        f"{path} cannot be read ({reason}); "
        "the file is damaged or cut short: copy or export it again"
    )


def _itk_reason(error: Exception) -> str:
    """Message of an error; ITK puts its own source lines before the reason."""
    return " ".join(ITK_PLACE.sub("", str(error)).split())
