"""What a user gives to `predict`: a file, a folder of images or a data set."""

import logging
from dataclasses import replace
from pathlib import Path

from foveal.case import CaseFiles, ChannelFile
from foveal.errors import CaseError, DatasetError
from foveal.io.cases import case_files
from foveal.io.datasets import read_dataset
from foveal.io.file_names import require_different_names, require_file_name
from foveal.io.folder_names import CHANNEL_SUFFIX, complete_channels, images_by_name
from foveal.io.folders import holds_volumes
from foveal.io.pictures import WHY_NOT_LOSSY, is_lossy_picture, is_picture
from foveal.io.volumes import is_slicer_segmentation, is_volume, read_grid

_LOGGER = logging.getLogger(__name__)


def cases_to_predict(path: Path, num_channels: int) -> tuple[CaseFiles, ...]:
    """List the cases of an input.

    A single volume is one case. A folder of volumes is one case per file, or per group
    of ``name_0000``, ``name_0001``, … where the model wants several channels. Anything
    else is read as a data set, of which every case is taken that it does not exclude.

    Args:
        path: As the user gave it.
        num_channels: That the model was trained with.

    Raises:
        CaseError: ``path`` does not exist or holds no volume.
        DatasetError: It is a data set that cannot be understood, or cases have names
            that outputs cannot have.
    """
    if not path.exists():
        raise CaseError(f"{path} does not exist; give a volume, a folder or a table")
    if path.is_file() and is_lossy_picture(path):
        raise CaseError(f"{path} is not read: {WHY_NOT_LOSSY}")
    if path.is_file() and is_volume(path):
        cases: tuple[CaseFiles, ...] = (case_files(path),)
    elif path.is_dir() and _holds_images(path):
        cases = _cases_of_folder(path, num_channels)
    else:
        return _with_channels(_cases_of_dataset(path), num_channels)
    cases = _with_channels(cases, num_channels)
    for case in cases:
        require_file_name(case.name, "case")
    require_different_names(
        path, [(case.name, case.channels[0].path) for case in cases], "case"
    )
    return cases


def _cases_of_dataset(path: Path) -> tuple[CaseFiles, ...]:
    try:
        dataset = read_dataset(path, find_labels=False)
    except DatasetError as error:
        raise DatasetError(
            f"{error} (an input to predict may also be one volume, or a folder "
            "that holds volumes itself)"
        ) from error
    if dataset.left_out:
        _LOGGER.warning("%s", dataset.left_out)
    return dataset.cases


def _cases_of_folder(path: Path, num_channels: int) -> tuple[CaseFiles, ...]:
    volumes = images_by_name(path)
    if num_channels == 1 or all(map(_is_in_colour, volumes.values())):
        return tuple(
            CaseFiles(_flat(name), _flat(name), (ChannelFile(file),))
            for name, file in volumes.items()
        )
    groups: dict[str, dict[int, Path]] = {}
    alone = []
    for name, file in volumes.items():
        match = CHANNEL_SUFFIX.fullmatch(name)
        if match:
            groups.setdefault(match["case"], {})[int(match["channel"])] = file
        else:
            alone.append(file)
    if groups and alone:
        raise CaseError(
            f"{alone[0]} does not end in a channel number, as _0000, but other images "
            f"of {path} do ({len(alone)} such files); name all of them one way"
        )
    if alone:
        return tuple(_case_of_file(name, file) for name, file in volumes.items())
    return tuple(
        CaseFiles(
            _flat(name),
            _flat(name),
            tuple(
                ChannelFile(file) for file in complete_channels(channels, num_channels)
            ),
        )
        for name, channels in groups.items()
    )


def _holds_images(folder: Path) -> bool:
    if not holds_volumes(folder):
        return False
    return any(
        is_volume(path) and not is_slicer_segmentation(path)
        for path in folder.iterdir()
    )


def _with_channels(
    cases: tuple[CaseFiles, ...], num_channels: int
) -> tuple[CaseFiles, ...]:
    """The cases, whose pictures are read in grey or in colour as the model wants.

    What a few pictures look like does not say which.
    """
    indices = range(num_channels) if num_channels > 1 else (None,)
    return tuple(
        replace(case, channels=tuple(ChannelFile(path, n) for n in indices))
        if not case.missing_channels
        and len(paths := {channel.path for channel in case.channels}) == 1
        and is_picture(path := next(iter(paths)))
        else case
        for case in cases
    )


def _is_in_colour(path: Path) -> bool:
    """Whether a file is a picture that holds all of its channels."""
    try:
        return is_picture(path) and read_grid(path)[1] > 1
    except CaseError:
        return True  # It is damaged, and refused when it is read.


def _case_of_file(name: str, file: Path) -> CaseFiles:
    """A file that should hold several channels; a damaged one fails when it is read."""
    try:
        channels = case_files(file).channels
    except CaseError:
        channels = (ChannelFile(file),)
    return CaseFiles(_flat(name), _flat(name), channels)


def _flat(name: str) -> str:
    """The name becomes a file name, which cannot hold folders."""
    return name.replace("/", "_")
