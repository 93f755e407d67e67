"""Two folders, images and labels, whose files are matched by name.

In place of a label map, ``labels`` may hold a folder of the case's name with one mask
per structure.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from foveal.case import StructureFile
from foveal.errors import DatasetError
from foveal.io.description import FILE_NAME
from foveal.io.folder_names import (
    channels_by_case,
    complete_channels,
    has_numbered_channels,
    images_by_name,
    volumes_by_name,
)
from foveal.io.listing import ListedCase, Listing, refuse_labels_of_unlabelled
from foveal.io.pictures import is_picture
from foveal.io.volumes import VOLUME_ENDINGS, only_volumes

FOLDER_NAME = re.compile(
    r"(?P<kind>image|label|mask)s?[-_ ]?"
    r"(?P<part>|tr|train|training|un|unlabelled|unlabeled|val|validation|ts|test|testing)",
    re.IGNORECASE,
)

UNLABELLED = "unlabelled"
PARTS = {"v": "validation", "ts": "test", "te": "test", "u": UNLABELLED}
"""First letters of a folder's part to what it means; the others are for training."""


@dataclass(frozen=True)
class _Part:
    """Files of one part of a data set, by name."""

    folder: Path
    """Of the images."""

    images: dict[str, Path]
    references: dict[str, Path]
    masks: dict[str, Path]

    @property
    def label_names(self) -> set[str]:
        """Names of label maps, and of folders of masks."""
        return {*self.references, *map(_folder_of, self.references)}


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
        DatasetError: The folder of images holds no volumes, a file stands twice, a
            label map or mask has no image, or an unlabelled case has a label map.
    """
    folders = _folders(root)
    if ("label", UNLABELLED) in folders:
        refuse_labels_of_unlabelled(folders["label", UNLABELLED])
    parts = sorted({part for kind, part in folders if kind == "image"})
    # Where the validation cases are given, the others must not be divided again.
    train = "train" if "validation" in parts else None
    listed = {
        part: _Part(
            folders["image", part],
            images_by_name(folders["image", part]),
            volumes_by_name(folders.get(("label", part))),
            volumes_by_name(folders.get(("mask", part))),
        )
        for part in parts
    }
    # Where nothing is labelled, the other parts tell what a suffix means.
    are_numbered = any(
        has_numbered_channels(part.images, part.label_names) for part in listed.values()
    )
    grouped = {
        name: channels_by_case(part.images, part.label_names, are_numbered=are_numbered)
        for name, part in listed.items()
    }
    counts = {name: _num_channels(by_case) for name, by_case in grouped.items()}
    if UNLABELLED in counts:
        # An odd image among them says nothing of the others.
        counts[UNLABELLED] = counts[parts[0]]
    cases = [
        case
        for name, part in listed.items()
        for case in _cases(
            part,
            grouped[name],
            counts[name],
            split="train" if name == UNLABELLED else name or train,
        )
    ]
    if not cases:
        raise DatasetError(
            f"{folders['image', parts[0]]} holds no volumes; "
            f"files must end in {', '.join(VOLUME_ENDINGS)}"
        )
    return Listing(name=root.resolve().name, cases=tuple(cases))


def _folders(root: Path) -> dict[tuple[str, str], Path]:
    """Kind and part (empty for training) to folder."""
    folders: dict[tuple[str, str], Path] = {}
    for path in sorted(root.iterdir()):
        match = FOLDER_NAME.fullmatch(path.name)
        if not match or not path.is_dir():
            continue
        part = match["part"].lower()
        meant = next((PARTS[start] for start in PARTS if part.startswith(start)), "")
        key = match["kind"].lower(), meant
        if key in folders:
            raise DatasetError(
                f'{root}: folders "{folders[key].name}" and "{path.name}" both hold '
                f"{key[0]}s for the same cases; keep one, or write a table"
            )
        folders[key] = path
    return folders


def _num_channels(by_case: Mapping[str, Mapping[int, Path]]) -> int:
    """Files that a case of a part should have: as many as the highest number says."""
    return max((max(channels) + 1 for channels in by_case.values()), default=1)


def _cases(
    part: _Part,
    by_case: Mapping[str, Mapping[int, Path]],
    num_channels: int,
    *,
    split: str | None,
) -> list[ListedCase]:
    """Cases of one part of the data set, of at least so many files."""
    references, masks = part.references, part.masks
    structure_files = _structure_files(references, by_case)
    for files, kind in ((references, "label map"), (masks, "mask")):
        orphans = sorted(
            name
            for name in files.keys() - by_case.keys()
            if kind == "mask" or _folder_of(name) not in structure_files
        )
        if orphans:
            raise DatasetError(
                f"{files[orphans[0]]} has no image of the same name in {part.folder}; "
                f"add or rename the image, or remove it ({len(orphans)} such files)"
            )
    return [
        ListedCase(
            # The name becomes a file name, which cannot hold folders.
            name=name.replace("/", "_"),
            images=complete_channels(channels, max(num_channels, max(channels) + 1))
            if num_channels > 1 or max(channels) > 0
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
