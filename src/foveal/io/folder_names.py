"""Volumes in folders, matched by name; channels told apart by ``_0000`` suffixes."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from foveal.errors import DatasetError
from foveal.io.pictures import WHY_NOT_LOSSY, is_lossy_picture, is_picture
from foveal.io.volumes import case_stem, is_slicer_segmentation, only_volumes

CHANNEL_SUFFIX = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def images_by_name(folder: Path) -> dict[str, Path]:
    """Every volume under a folder but segmentations of 3D Slicer, as `volumes_by_name`.

    Raises:
        DatasetError: As `volumes_by_name`.
    """
    return _by_name(
        folder, (path for path in _volumes(folder) if not is_slicer_segmentation(path))
    )


def volumes_by_name(folder: Path | None) -> dict[str, Path]:
    """Every volume under a folder, nested ones included.

    Returns:
        Path below the folder without ending, with ``/`` between folders, to the file;
        in order of name. Empty if there is no such folder.

    Raises:
        DatasetError: Two files differ by their endings only.
    """
    return {} if folder is None else _by_name(folder, _volumes(folder))


def has_numbered_channels(images: Iterable[str], label_names: Iterable[str]) -> bool:
    """Whether a suffix of images is a channel's number, as label maps lack it.

    Args:
        images: Names of files, as from `volumes_by_name`.
        label_names: Names of the label maps, or of the folders of masks.
    """
    labelled = set(label_names)
    return any(
        match["case"] in labelled
        for name in images
        if name not in labelled and (match := CHANNEL_SUFFIX.fullmatch(name))
    )


def channels_by_case(
    images: Mapping[str, Path], label_names: Iterable[str], *, are_numbered: bool
) -> dict[str, dict[int, Path]]:
    """Group image files into cases.

    Where channels are numbered, ``scan_0001`` is channel 1 of ``scan`` unless a label
    map has that very name; elsewhere the suffix belongs to the name.

    Args:
        images: Name to file, as from `volumes_by_name`.
        label_names: Names of the label maps, or of the folders of masks.
        are_numbered: See `has_numbered_channels`.

    Returns:
        Case name to its files by channel.
    """
    labelled = set(label_names)
    cases: dict[str, dict[int, Path]] = {}
    for name, path in images.items():
        match = None if name in labelled else CHANNEL_SUFFIX.fullmatch(name)
        if match and are_numbered:
            cases.setdefault(match["case"], {})[int(match["channel"])] = path
        else:
            cases.setdefault(name, {})[0] = path
    return cases


def complete_channels(channels: Mapping[int, Path], count: int) -> tuple[Path, ...]:
    """Files of channels 0 to ``count - 1``; a missing one as the path it should have.

    The path that does not exist is named when the case is read or checked.
    """
    some = next(iter(channels.values()))
    ending = some.name[len(case_stem(some)) :]
    match = CHANNEL_SUFFIX.fullmatch(case_stem(some))
    stem = match["case"] if match else case_stem(some)
    return tuple(
        channels.get(index, some.with_name(f"{stem}_{index:04d}{ending}"))
        for index in range(count)
    )


def _volumes(folder: Path) -> list[Path]:
    """Every volume under a folder, in order of path.

    Raises:
        DatasetError: Among its pictures are JPEGs, which would be left out.
    """
    files = sorted(folder.rglob("*"))
    volumes = only_volumes(files)
    if not volumes or is_picture(volumes[0]):
        lossy = [path for path in files if is_lossy_picture(path)]
        if lossy:
            raise DatasetError(
                f"{lossy[0]} is not read ({len(lossy)} such files): {WHY_NOT_LOSSY}"
            )
    return volumes


def _by_name(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            continue
        name = (path.relative_to(folder).parent / case_stem(path)).as_posix()
        if name in named:
            raise DatasetError(
                f'{named[name]} and {path} are both called "{name}"; keep one of them'
            )
        named[name] = path
    return named
