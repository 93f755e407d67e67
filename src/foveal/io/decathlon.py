"""Folders in the layout of the Medical Segmentation Decathlon.

``dataset.json`` lists the cases under "training" and "test", the channels under
"modality" and the labels as value to name; several channels are one 4D file.
http://medicaldecathlon.com
"""

from pathlib import Path
from typing import Any

from foveal.errors import DatasetError
from foveal.io.description import FILE_NAME, numbered_names
from foveal.io.listing import ListedCase, Listing, read_labels
from foveal.io.volumes import case_stem


def list_decathlon(root: Path, description: dict[str, Any]) -> Listing:
    """List the cases of a Decathlon folder.

    An entry of "training" may hold ``annotated_labels``, the structures (names or
    values) that were contoured in the case.

    Raises:
        DatasetError: ``dataset.json`` is not as the layout wants it.
        CaseError: An image is of an unknown format.
    """
    source = root / FILE_NAME
    modality = description.get("modality")
    labels, ignore_value = None, None
    if "labels" in description:
        labels, ignore_value = read_labels(description["labels"], source)
    cases = [
        *(_training_case(root, entry) for entry in description["training"]),
        *(_test_case(root, entry) for entry in description.get("test", [])),
    ]
    return Listing(
        name=str(description.get("name", root.name)),
        cases=tuple(cases),
        channel_names=None if modality is None else numbered_names(modality, source),
        label_values=labels,
        ignore_value=ignore_value,
    )


def _training_case(root: Path, entry: object) -> ListedCase:
    if not isinstance(entry, dict) or "image" not in entry:
        raise DatasetError(
            f'{root / FILE_NAME}: an entry of "training" must hold "image" '
            f'and "label"; found {entry!r}'
        )
    image = root / str(entry["image"])
    annotated = entry.get("annotated_labels")
    return ListedCase(
        name=case_stem(image),
        images=(image,),
        label_map=root / str(entry["label"]) if "label" in entry else None,
        annotated=None if annotated is None else tuple(annotated),
    )


def _test_case(root: Path, entry: object) -> ListedCase:
    image = root / str(entry["image"] if isinstance(entry, dict) else entry)
    return ListedCase(name=case_stem(image), images=(image,), split="test")
