"""Raw data folders in the layout of nnU-Net v2.

``dataset.json`` holds "channel_names", "labels" (name to value) and "file_ending".
Images are ``imagesTr/case_0000.ext``, one file per channel, label maps
``labelsTr/case.ext``.
https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

from pathlib import Path
from typing import Any

from foveal.errors import DatasetError
from foveal.io.description import FILE_NAME, numbered_names
from foveal.io.folder_names import CHANNEL_SUFFIX
from foveal.io.listing import ListedCase, Listing, read_labels
from foveal.io.volumes import VOLUME_ENDINGS


def list_nnunet(root: Path, description: dict[str, Any]) -> Listing:
    """List the cases of an nnU-Net folder; those of ``imagesTs`` are for testing.

    Raises:
        DatasetError: ``dataset.json`` lacks an entry, labels are regions, or a label
            map has no image.
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
    labels, ignore_value = read_labels(description["labels"], source)
    cases = [
        *_cases(root, "Tr", ending, len(channel_names), split=None),
        *_cases(root, "Ts", ending, len(channel_names), split="test"),
    ]
    return Listing(
        name=str(description.get("name", root.name)),
        cases=tuple(cases),
        channel_names=channel_names,
        label_values=labels,
        ignore_value=ignore_value,
    )


def _cases(
    root: Path, part: str, ending: str, num_channels: int, *, split: str | None
) -> list[ListedCase]:
    """Cases of ``images<part>`` with their label maps in ``labels<part>``.

    Every channel is listed where the layout wants it, so that a missing file is named
    when the case is read or checked.
    """
    images, labels = root / f"images{part}", root / f"labels{part}"
    label_maps = {stem: labels / f"{stem}{ending}" for stem in _stems(labels, ending)}
    matches = map(CHANNEL_SUFFIX.fullmatch, _stems(images, ending))
    names = {match["case"] for match in matches if match}
    orphans = sorted(label_maps.keys() - names)
    if orphans:
        raise DatasetError(
            f"{labels}: {orphans[0]}{ending} has no image "
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


def _stems(folder: Path, ending: str) -> list[str]:
    """Names without ending; empty if there is no such folder."""
    return [
        path.name.removesuffix(ending)
        for path in folder.glob(f"*{ending}")
        if not path.name.startswith(".")
    ]
