"""Two folders, images and labels, whose files are matched by name.

In place of a label map, ``labels`` may hold a folder of the case's name with one mask
per structure.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from foveal.case import StructureFile
from foveal.errors import DatasetError
from foveal.io.description import FILE_NAME
from foveal.io.folder_names import (
    channels_by_case,
    complete_channels,
    images_by_name,
    volumes_by_name,
)
from foveal.io.listing import ListedCase, Listing
from foveal.io.pictures import is_picture
from foveal.io.volumes import VOLUME_ENDINGS, only_volumes

FOLDER_NAME = re.compile(
    r"(?P<kind>image|label|mask)s?[-_ ]?"
    r"(?P<part>|tr|train|training|val|validation|ts|test|testing)",
    re.IGNORECASE,
)

SPLITS = {"v": "validation", "ts": "test", "te": "test"}
"""First letters of a folder's part to split; the others are for training."""


def has_image_folder(root: Path) -> bool:
    """Whether a folder is of this layout."""
    return any(
        match["kind"].lower() == "image" and path.is_dir()
        for path in root.iterdir()
        if (match := FOLDER_NAME.fullmatch(path.name))
    )


def holds_volumes(folder: Path) -> bool:
    """Whether a folder holds volumes itself.

    Pictures that lie beside the folders of a data set are none of its cases.
    """
    volumes = only_volumes(folder.iterdir())
    if not volumes:
        return False
    is_dataset = has_image_folder(folder) or (folder / FILE_NAME).is_file()
    return not is_picture(volumes[0]) or not is_dataset


def list_folders(root: Path) -> Listing:
    """List the cases of a folder with subfolders of images, labels and maybe masks.

    Raises:
        DatasetError: The folder of images holds no volumes, a file stands twice, or a
            label map or mask has no image.
    """
    folders = _folders(root)
    parts = sorted({part for kind, part in folders if kind == "image"})
    # Where the validation cases are given, the others must not be divided again.
    train = "train" if "validation" in parts else None
    cases = [
        case
        for part in parts
        for case in _cases(
            folders["image", part],
            folders.get(("label", part)),
            folders.get(("mask", part)),
            split=part or train,
        )
    ]
    if not cases:
        raise DatasetError(
            f"{folders['image', parts[0]]} holds no volumes; "
            f"files must end in {', '.join(VOLUME_ENDINGS)}"
        )
    return Listing(name=root.resolve().name, cases=tuple(cases))


def _folders(root: Path) -> dict[tuple[str, str], Path]:
    """Kind and split (empty for training) to folder."""
    folders: dict[tuple[str, str], Path] = {}
    for path in sorted(root.iterdir()):
        match = FOLDER_NAME.fullmatch(path.name)
        if not match or not path.is_dir():
            continue
        part = match["part"].lower()
        split = next((SPLITS[start] for start in SPLITS if part.startswith(start)), "")
        key = match["kind"].lower(), split
        if key in folders:
            raise DatasetError(
                f'{root}: folders "{folders[key].name}" and "{path.name}" both hold '
                f"{key[0]}s for the same cases; keep one, or write a table"
            )
        folders[key] = path
    return folders


def _cases(
    image_folder: Path,
    label_folder: Path | None,
    mask_folder: Path | None,
    *,
    split: str | None,
) -> list[ListedCase]:
    """Cases of one part of the data set."""
    references, masks = volumes_by_name(label_folder), volumes_by_name(mask_folder)
    folders = {_folder_of(name) for name in references}
    by_case = channels_by_case(
        images_by_name(image_folder), references.keys() | folders
    )
    structure_files = _structure_files(references, by_case)
    for files, kind in ((references, "label map"), (masks, "mask")):
        orphans = sorted(
            name
            for name in files.keys() - by_case.keys()
            if kind == "mask" or _folder_of(name) not in structure_files
        )
        if orphans:
            raise DatasetError(
                f"{files[orphans[0]]} has no image of the same name in {image_folder}; "
                f"add or rename the image, or remove it ({len(orphans)} such files)"
            )
    num_channels = max((max(channels) + 1 for channels in by_case.values()), default=1)
    return [
        ListedCase(
            # The name becomes a file name, which cannot hold folders.
            name=name.replace("/", "_"),
            images=complete_channels(channels, num_channels)
            if num_channels > 1
            else tuple(channels.values()),
            label_map=references.get(name),
            structure_files=structure_files.get(name, ()),
            mask=masks.get(name),
            split=split,
        )
        for name, channels in by_case.items()
    ]


def _structure_files(
    references: Mapping[str, Path], cases: Collection[str]
) -> dict[str, tuple[StructureFile, ...]]:
    """Case to the masks in the folder of its name."""
    found: dict[str, tuple[StructureFile, ...]] = {}
    for name, path in references.items():
        case = _folder_of(name)
        if name in cases or case not in cases:
            continue
        if case in references:
            raise DatasetError(
                f"{references[case]} and the folder {path.parent} are both labels of "
                f'the case "{case}"; keep one of them'
            )
        found[case] = (
            *found.get(case, ()),
            StructureFile(name.rpartition("/")[2], path),
        )
    return found


def _folder_of(name: str) -> str:
    """Folders of a name, empty if there are none."""
    return name.rpartition("/")[0]
