"""Folders in the layout of the Medical Segmentation Decathlon.

``dataset.json`` lists the cases under "training" and "test", the channels under
"modality" and the labels as value to name; several channels are one 4D file. Beyond
that layout, unlabelled cases to train on are in ``imagesUn``, listed under "unlabelled"
or not.
http://medicaldecathlon.com
"""

from pathlib import Path
from typing import Any

from foveal.errors import DatasetError
from foveal.io.description import FILE_NAME, numbered_names
from foveal.io.folder_names import images_by_name
from foveal.io.listing import (
    UNLABELLED_PART,
    Labels,
    ListedCase,
    Listing,
    read_labels,
    refuse_labels_of_unlabelled,
)
from foveal.io.volumes import case_stem

MORE_ENTRIES = ("patient", "domain", "exclude")


def list_decathlon(root: Path, description: dict[str, Any]) -> Listing:
    """List the cases of a Decathlon folder.

    An entry of "training" may hold ``annotated_labels``, the structures (names or
    values) that were contoured in the case, and any entry `MORE_ENTRIES`.

    Raises:
        DatasetError: ``dataset.json`` is not as the layout wants it, or an unlabelled
            case has a label.
        CaseError: An image is of an unknown format.
    """
    source = root / FILE_NAME
    modality = description.get("modality")
    labels = Labels()
    if "labels" in description:
        labels = read_labels(description["labels"], source)
    cases = [
        *(_training_case(root, entry) for entry in description["training"]),
        *_unlabelled_cases(root, description.get("unlabelled")),
        *(
            _case_of_image(root, entry, "test", split="test")
            for entry in description.get("test", [])
        ),
    ]
    return Listing(
        name=str(description.get("name", root.name)),
        cases=tuple(cases),
        channel_names=None if modality is None else numbered_names(modality, source),
        labels=labels,
    )


def _training_case(root: Path, entry: object) -> ListedCase:
    if not isinstance(entry, dict) or "image" not in entry:
        raise DatasetError(
            f'{root / FILE_NAME}: an entry of "training" must hold "image" '
            f'and "label"; found {entry!r}'
        )
    image = root / str(entry["image"])
    annotated = entry.get("annotated_labels")
    if annotated is not None and not isinstance(annotated, list):
        raise DatasetError(
            f"{root / FILE_NAME}: annotated_labels {annotated!r} of {image.name} must "
            "be a list of label names or values"
        )
    more = _more_entries(root, entry)
    return ListedCase(
        name=case_stem(image),
        images=(image,),
        patient=more.get("patient"),
        label_map=root / str(entry["label"]) if "label" in entry else None,
        annotated=None if annotated is None else tuple(annotated),
        domain=more.get("domain"),
        exclude=more.get("exclude"),
    )


def _unlabelled_cases(root: Path, entries: object) -> list[ListedCase]:
    """Cases of the list of unlabelled ones; without one, of the folder."""
    refuse_labels_of_unlabelled(root / f"labels{UNLABELLED_PART}")
    folder = root / f"images{UNLABELLED_PART}"
    if entries is None:
        images = images_by_name(folder) if folder.is_dir() else {}
        return [
            ListedCase(name=name.replace("/", "_"), images=(image,), split="train")
            for name, image in images.items()
        ]
    if not isinstance(entries, list):
        raise DatasetError(
            f'{root / FILE_NAME}: "unlabelled" must be a list of images; found '
            f"{entries!r}"
        )
    cases = []
    for entry in entries:
        if isinstance(entry, dict) and "label" in entry:
            raise DatasetError(
                f"{root / FILE_NAME}: {entry.get('image')} is listed under "
                f'"unlabelled" with the label {entry["label"]}; list it under '
                '"training", or take the label out'
            )
        cases.append(_case_of_image(root, entry, "unlabelled", split="train"))
    return cases


def _case_of_image(root: Path, entry: object, part: str, *, split: str) -> ListedCase:
    """A case of an image alone, listed as its path or with more entries."""
    entries = entry if isinstance(entry, dict) else {"image": entry}
    if "image" not in entries:
        raise DatasetError(
            f'{root / FILE_NAME}: an entry of "{part}" must hold "image"; found '
            f"{entry!r}"
        )
    image = root / str(entries["image"])
    more = _more_entries(root, entries)
    return ListedCase(
        name=case_stem(image),
        images=(image,),
        patient=more.get("patient"),
        split=split,
        domain=more.get("domain"),
        exclude=more.get("exclude"),
    )


def _more_entries(root: Path, entry: dict[str, Any]) -> dict[str, str]:
    """What Foveal reads beyond the layout of the Decathlon, checked."""
    more = {name: entry[name] for name in MORE_ENTRIES if entry.get(name) is not None}
    for name, text in more.items():
        if not isinstance(text, str) or not text.strip():
            raise DatasetError(
                f"{root / FILE_NAME}: {name} {text!r} of {entry['image']} must be a "
                "text in quotes" + (", the reason" if name == "exclude" else "")
            )
    return more
