"""Folders in the layout of the Medical Segmentation Decathlon.

``dataset.json`` lists the cases under "training" and "test", the channels under
"modality" and the labels as value to name; several channels are one 4D file.
http://medicaldecathlon.com
"""

from pathlib import Path
from typing import Any

from foveal.errors import DatasetError
from foveal.io.description import FILE_NAME, numbered_names
from foveal.io.listing import Labels, ListedCase, Listing, read_labels
from foveal.io.volumes import case_stem

MORE_ENTRIES = ("patient", "domain", "exclude")


def list_decathlon(root: Path, description: dict[str, Any]) -> Listing:
    """List the cases of a Decathlon folder.

    An entry of "training" may hold ``annotated_labels``, the structures (names or
    values) that were contoured in the case, and any entry `MORE_ENTRIES`.

    Raises:
        DatasetError: ``dataset.json`` is not as the layout wants it.
        CaseError: An image is of an unknown format.
    """
    source = root / FILE_NAME
    modality = description.get("modality")
    labels = Labels()
    if "labels" in description:
        labels = read_labels(description["labels"], source)
    cases = [
        *(_training_case(root, entry) for entry in description["training"]),
        *(_test_case(root, entry) for entry in description.get("test", [])),
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


def _test_case(root: Path, entry: object) -> ListedCase:
    entries = entry if isinstance(entry, dict) else {"image": entry}
    if "image" not in entries:
        raise DatasetError(
            f'{root / FILE_NAME}: an entry of "test" must hold "image"; found {entry!r}'
        )
    image = root / str(entries["image"])
    more = _more_entries(root, entries)
    return ListedCase(
        name=case_stem(image),
        images=(image,),
        patient=more.get("patient"),
        split="test",
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
