"""Raw data folders in the layout of nnU-Net v2.

``dataset.json`` holds "channel_names", "labels" (name to value, or to the values of a
region) and "file_ending". Images are ``imagesTr/case_0000.ext``, one file per channel,
label maps ``labelsTr/case.ext``. "regions_class_order" is not needed: label values on
disk are the labels' own. ``splits_final.json`` lists the cases of each fold.
https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from foveal.case import NamedFold
from foveal.errors import DatasetError
from foveal.io.description import FILE_NAME, numbered_names
from foveal.io.folder_names import CHANNEL_SUFFIX
from foveal.io.listing import (
    UNLABELLED_PART,
    ListedCase,
    Listing,
    read_labels,
    refuse_labels_of_unlabelled,
)
from foveal.io.pictures import PICTURE_ENDINGS
from foveal.io.volumes import VOLUME_ENDINGS, case_stem, is_slicer_segmentation


def list_nnunet(root: Path, description: dict[str, Any]) -> Listing:
    """List the cases of an nnU-Net folder; those of ``imagesTs`` are for testing.

    Those of ``imagesUn``, which nnU-Net does not know, are unlabelled ones to train on.

    Raises:
        DatasetError: ``dataset.json`` lacks an entry, an image has no number of a
            channel, a label map has no image, or an unlabelled case has one.
    """
    source = root / FILE_NAME
    for entry in ("labels", "file_ending"):
        if entry not in description:
            raise DatasetError(
                f'{source} has no "{entry}"; nnU-Net v2 folders need channel_names, '
                "labels and file_ending"
            )
    ending = str(description["file_ending"])
    if ending not in VOLUME_ENDINGS:
        raise DatasetError(
            f'{source}: file_ending "{ending}" must be one of '
            f"{', '.join(VOLUME_ENDINGS)}"
        )
    channel_names = numbered_names(description["channel_names"], source)
    refuse_labels_of_unlabelled(root / f"labels{UNLABELLED_PART}")
    cases = [
        *_cases(root, "Tr", ending, len(channel_names), split=None),
        *_cases(root, UNLABELLED_PART, ending, len(channel_names), split="train"),
        *_cases(root, "Ts", ending, len(channel_names), split="test"),
    ]
    return Listing(
        name=str(description.get("name", root.name)),
        cases=tuple(cases),
        channel_names=channel_names,
        labels=read_labels(description["labels"], source),
    )


def read_folds(
    path: Path, cases: Collection[str], excluded: Collection[str]
) -> tuple[NamedFold, ...]:
    """Read which cases each fold trains on and validates on.

    Args:
        path: Of a ``splits_final.json``.
        cases: Names of the data set's cases.
        excluded: Names of those left out, which folds may list all the same.

    Raises:
        DatasetError: The file is no list of folds, or names an unknown case.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise DatasetError(
            f'{path} must be a list of folds, each {{"train": [...], "val": [...]}}'
        )
    return tuple(
        NamedFold(
            _fold_cases(f"{path} fold {number}", entry, "train", cases, excluded),
            _fold_cases(f"{path} fold {number}", entry, "val", cases, excluded),
        )
        for number, entry in enumerate(entries)
    )


def _fold_cases(
    where: str,
    entry: object,
    part: str,
    cases: Collection[str],
    excluded: Collection[str],
) -> tuple[str, ...]:
    """Names of the cases of one part of a fold, without the excluded ones."""
    names = entry.get(part) if isinstance(entry, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f'{where} must hold "{part}", a list of case names')
    unknown = [name for name in names if name not in cases and name not in excluded]
    if unknown:
        raise DatasetError(
            f'{where}: "{part}" names the case "{unknown[0]}", which the data set does '
            f"not have ({len(unknown)} such names); correct or remove the file"
        )
    return tuple(name for name in names if name in cases)


def _cases(
    root: Path, part: str, ending: str, num_channels: int, *, split: str | None
) -> list[ListedCase]:
    """Cases of ``images<part>`` with their label maps in ``labels<part>``.

    Every channel is listed where the layout wants it, so that a missing file is named
    when the case is read or checked.
    """
    images, labels = root / f"images{part}", root / f"labels{part}"
    label_maps = _files_by_name(labels, ending)
    names = set()
    numbers = set()
    for stem, path in _files_by_name(images, ending).items():
        match = CHANNEL_SUFFIX.fullmatch(stem)
        if match:
            names.add(match["case"])
            numbers.add(match["channel"])
        elif not is_slicer_segmentation(path):
            raise DatasetError(
                f"{path} has no number of a channel at the end of its name, as "
                f"{stem}_0000{ending} has, so it would be left out; rename it or take "
                "it out"
            )
    if ending in PICTURE_ENDINGS and numbers == {"0000"}:
        num_channels = 1  # A picture in colour holds all of its channels.
    orphans = sorted(label_maps.keys() - names)
    if orphans:
        raise DatasetError(
            f"{label_maps[orphans[0]]} has no image "
            f"{images / orphans[0]}_0000{ending}; add it or remove the label map "
            f"({len(orphans)} such label maps)"
        )
    return [
        ListedCase(
            name=name,
            images=tuple(
                images / f"{name}_{channel:04d}{ending}"
                for channel in range(num_channels)
            ),
            label_map=label_maps.get(name),
            split=split,
        )
        for name in sorted(names)
    ]


def _files_by_name(folder: Path, ending: str) -> dict[str, Path]:
    """Files by name without ending; none if there is no such folder."""
    named: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*{ending}")):
        if path.name.startswith("."):
            continue
        other = named.setdefault(case_stem(path), path)
        if other != path:
            raise DatasetError(f"{other} and {path} are of one case; keep one of them")
    return named
