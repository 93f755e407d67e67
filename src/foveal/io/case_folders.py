"""A folder per case that holds its images, and beside them what was drawn.

As TotalSegmentator's data: ``s0001/ct.nii.gz`` and, one mask per structure,
``s0001/segmentations/liver.nii.gz``. A ``.seg.nrrd`` of 3D Slicer beside the images
does as well.
https://zenodo.org/records/10047292
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foveal.case import StructureFile
from foveal.errors import DatasetError
from foveal.io.listing import ListedCase, Listing
from foveal.io.volumes import case_stem, is_slicer_segmentation, only_volumes

SEGMENTATION_FOLDERS = ("segmentations", "segmentation")

LARGEST_LISTED = 4
"""Files of an unclear folder that a message names."""


@dataclass(frozen=True)
class _Folder:
    """What one case's folder holds."""

    path: Path
    images: dict[str, Path]
    masks: dict[str, Path]
    segmentation: Path | None


def list_case_folders(root: Path, *, are_labelled: bool) -> Listing:
    """List the cases of a folder with one folder per case; channels in order of name.

    Args:
        root: Folder of the case folders; hidden ones and files are not looked at.
        are_labelled: At least one case must have been drawn: else, nothing tells masks
            among the images.

    Raises:
        DatasetError: Images are not told from labels, a file stands twice, a folder
            has volumes in folders of its own only, or a case lacks a channel that
            others have.
    """
    paths = [
        path
        for path in sorted(root.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    ]
    found = {path: _folder(path) for path in paths}
    folders = [folder for folder in found.values() if folder is not None]
    is_clear = any(folder.masks or folder.segmentation for folder in folders)
    if not folders or (are_labelled and not is_clear):
        raise DatasetError(_unknown_layout(root, paths))
    for path in (path for path, folder in found.items() if folder is None):
        below = _volumes_below(path)
        if below:
            raise DatasetError(
                f"{path} holds no image itself, but {below[0]}, so it would be left "
                "out; put its image right into it, or take it out of the data set"
            )
    counts = Counter(name for folder in folders for name in folder.images)
    for folder in folders:
        missing = sorted(counts.keys() - folder.images.keys())
        if missing:
            raise DatasetError(
                f'{folder.path} has no image "{missing[0]}", which '
                f"{counts[missing[0]]} other case(s) have; every case needs the same "
                "images by name: add it, or take the others out"
            )
    channels = sorted(counts)
    return Listing(
        name=root.resolve().name,
        cases=tuple(_case(folder, channels) for folder in folders),
        channel_names=tuple(channels),
    )


def _folder(path: Path) -> _Folder | None:
    """What a folder holds, ``None`` if nothing of a case."""
    inside = sorted(path.iterdir())
    volumes = only_volumes(file for file in inside if file.is_file())
    drawn = [file for file in volumes if is_slicer_segmentation(file)]
    segmentations = [
        folder
        for folder in inside
        if folder.name.lower() in SEGMENTATION_FOLDERS and folder.is_dir()
    ]
    if len(drawn) + len(segmentations) > 1:
        raise DatasetError(
            f"{path} holds several segmentations: "
            f"{', '.join(found.name for found in drawn + segmentations)}; keep one, or "
            "write a CSV or TOML table"
        )
    masks = [
        file
        for folder in segmentations
        for file in only_volumes(sorted(folder.iterdir()))
    ]
    if not volumes and not masks:
        return None
    images = _by_name([file for file in volumes if file not in drawn])
    if not images:
        raise DatasetError(
            f"{path} holds a segmentation but no image beside it; add the image or "
            "take the folder out"
        )
    return _Folder(path, images, _by_name(masks), drawn[0] if drawn else None)


def _by_name(files: Sequence[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for file in files:
        other = named.setdefault(case_stem(file), file)
        if other != file:
            raise DatasetError(
                f'{other} and {file} are both called "{case_stem(file)}"; '
                "keep one of them"
            )
    return named


def _case(folder: _Folder, channels: Sequence[str]) -> ListedCase:
    return ListedCase(
        name=folder.path.name,
        images=tuple(folder.images[channel] for channel in channels),
        label_map=folder.segmentation,
        structure_files=tuple(
            StructureFile(structure, path) for structure, path in folder.masks.items()
        ),
    )


def _volumes_below(folder: Path) -> list[str]:
    """Paths of the volumes anywhere in a folder, from there."""
    return sorted(
        path.relative_to(folder).as_posix() for path in only_volumes(folder.rglob("*"))
    )


def _unknown_layout(root: Path, folders: Sequence[Path]) -> str:
    """Why a folder is no data set, with what it holds and what to do."""
    problem = f'{root} has no dataset.json and no folders "images" and "labels"'
    for folder in folders:
        files = _volumes_below(folder)
        if files:
            some = ", ".join(files[:LARGEST_LISTED])
            more = ", ..." if len(files) > LARGEST_LISTED else ""
            return (
                f"{problem}, and nothing tells images from labels among {some}{more} "
                f'of the folder "{folder.name}"; write a CSV table with a row per case '
                "and the columns case, channel_<name>, and label_map or "
                "structure_<name> (docs/datasets.md), or put one mask per structure "
                'into a folder "segmentations" of each case'
            )
    return f"{problem}; arrange it as in docs/datasets.md, or write a CSV or TOML table"
