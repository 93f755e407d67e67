"""What every data set layout is read into, before its files are looked at."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foveal.case import StructureFile
from foveal.errors import DatasetError

UNLABELLED_PART = "Un"
"""After ``images``, of the folder of unlabelled cases to train on."""

BACKGROUND_VALUE = 0
BACKGROUND_NAME = "background"
IGNORE_NAME = "ignore"


@dataclass(frozen=True)
class ListedCase:
    """One case as its layout names it."""

    name: str
    images: tuple[Path, ...]
    """One file per channel that there is, or a single file that may hold several."""

    missing_channels: tuple[int, ...] = ()
    """Numbers of channels that the case lacks; never any of a file with several."""

    patient: str | None = None
    """``None``: the case is a patient of its own."""

    label_map: Path | None = None

    structure_files: tuple[StructureFile, ...] = ()
    """In place of a label map."""

    mask: Path | None = None
    weight_map: Path | None = None
    annotated: tuple[str | int, ...] | None = None
    """Structures by name or by value. ``None``: all of them, or those with a file."""

    present: tuple[str | int, ...] | None = None
    """Structures that the image shows, of a case without any reference."""

    split: str | None = None
    domain: str | None = None
    exclude: str | None = None
    """Why the case is left out; ``None``: it is not."""


@dataclass(frozen=True)
class Labels:
    """What a layout calls the values of label maps."""

    values: dict[str, int] | None = None
    """Label name to value, in order of value; ``None``: the references tell."""

    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Region name to label values; if there are any, they are the structures."""

    ignore_value: int | None = None

    background_value: int = BACKGROUND_VALUE
    """Of pictures that are masks of two values, neither of them 0."""


@dataclass(frozen=True)
class Listing:
    """All cases of a data set, and the names that its layout gives."""

    name: str
    cases: tuple[ListedCase, ...]
    channel_names: tuple[str, ...] | None = None
    """``None``: the layout names none."""

    labels: Labels = field(default_factory=Labels)


def refuse_labels_of_unlabelled(folder: Path) -> None:
    """Refuse what is drawn for cases that are listed as unlabelled.

    Args:
        folder: Where label maps of unlabelled cases would be; it need not exist.

    Raises:
        DatasetError: It holds something.
    """
    if folder.is_dir():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                raise DatasetError(
                    f"{path} is a label of an unlabelled case, which has none; move "
                    "the case's image and label to the folders of training cases, or "
                    f"take the folder {folder.name} out"
                )


def read_labels(entries: object, source: Path) -> Labels:
    """Read a table of labels, written as name to value or as value to name.

    The value 0 is background under any name, and so is the name "background" under any
    value; the name "ignore" marks voxels without loss and score. Where a name stands
    for several values, all names are regions; a label is then called as the region that
    it alone makes up, or by its number.

    Raises:
        DatasetError: An entry is no integer and no list of integers, or stands twice.
    """
    if not isinstance(entries, Mapping):
        raise DatasetError(
            f"{source}: labels must be a table of names and values; found {entries!r}"
        )
    named: dict[str, tuple[int, ...]] = {}
    for key, entry in entries.items():
        name, values = _name_and_values(str(key), entry, source)
        if values == (BACKGROUND_VALUE,):
            continue
        if name in named or values in named.values():
            raise DatasetError(
                f'{source}: label "{name}" = {entry!r} stands twice; '
                "every structure needs a name and values of its own"
            )
        named[name] = values
    ignore_value = _taken_value(named, IGNORE_NAME, source)
    background_value = _taken_value(named, BACKGROUND_NAME, source) or BACKGROUND_VALUE
    if all(len(values) == 1 for values in named.values()):
        in_order = sorted(named.items(), key=lambda label: label[1])
        labels = {name: values[0] for name, values in in_order}
        return Labels(labels, {}, ignore_value, background_value)
    return Labels(
        _labels_of_regions(named, source), named, ignore_value, background_value
    )


def with_regions(labels: Labels, entries: object, source: Path) -> Labels:
    """Add a table of regions, region to names or values of labels.

    A label that is in no region becomes a region of its own name.

    Args:
        labels: Of the same source; may name none.
        entries: As the source holds them.
        source: For messages.

    Raises:
        DatasetError: A region is no list of known labels, or two are the same.
    """
    if not isinstance(entries, Mapping) or not entries:
        raise DatasetError(
            f"{source}: regions must be a table of names and lists of labels; "
            f"found {entries!r}"
        )
    regions: dict[str, tuple[int, ...]] = {}
    for name, entry in entries.items():
        values = _region_values(str(name), entry, labels, source)
        if values in regions.values():
            raise DatasetError(
                f'{source}: region "{name}" = {entry!r} stands twice; '
                "every region needs labels of its own"
            )
        regions[str(name)] = values
    if labels.values is None:
        values_by_name = _labels_of_regions(regions, source)
        return replace(labels, values=values_by_name, regions=regions)
    used = {value for values in regions.values() for value in values}
    for name, value in labels.values.items():
        if value not in used:
            if name in regions:
                raise DatasetError(
                    f'{source}: "{name}" is a region and a label outside of it; '
                    "give them different names"
                )
            regions[name] = (value,)
    return replace(labels, regions=regions)


def _name_and_values(
    key: str, entry: object, source: Path
) -> tuple[str, tuple[int, ...]]:
    """A label's name and values in ascending order, whichever way it is written."""
    name: object = key
    values: list[Any] = [entry]
    if isinstance(entry, list):
        values = entry
    elif _is_integer(key):
        name, values = entry, [key]
    if not isinstance(name, str) or not values or not all(map(_is_integer, values)):
        raise DatasetError(
            f'{source}: label "{key}" = {entry!r} must be a name and an integer, '
            "or a name and a list of integers"
        )
    numbers = tuple(sorted({int(value) for value in values}))
    if len(numbers) > 1 and BACKGROUND_VALUE in numbers:
        raise DatasetError(
            f'{source}: region "{name}" = {entry!r} holds {BACKGROUND_VALUE}, which is '
            "background; leave it out"
        )
    return name, numbers


def _taken_value(
    named: dict[str, tuple[int, ...]], called: str, source: Path
) -> int | None:
    """Value of a label that is no structure, which is taken out of ``named``."""
    name = next((name for name in named if name.lower() == called), None)
    if name is None:
        return None
    values = named.pop(name)
    if len(values) > 1 or any(values[0] in others for others in named.values()):
        raise DatasetError(
            f'{source}: label "{name}" = {list(values)} must be one value that is in '
            "no region"
        )
    return values[0]


def _region_values(
    name: str, entry: object, labels: Labels, source: Path
) -> tuple[int, ...]:
    """Values of one region of a table, in ascending order."""
    by_text = {
        text: value
        for label, value in (labels.values or {}).items()
        for text in (str(value), label)
    }
    parts: list[Any] = entry if isinstance(entry, list) else [entry]
    if labels.values is None:
        by_text = {str(part): int(part) for part in parts if _is_integer(part)}
    unknown = [part for part in parts if str(part) not in by_text]
    if unknown or not parts or BACKGROUND_VALUE in by_text.values():
        known = list(labels.values) if labels.values else "integers other than 0"
        raise DatasetError(
            f'{source}: region "{name}" = {entry!r} must be a list of labels by name '
            f"or value; there are {known}"
        )
    return tuple(sorted({by_text[str(part)] for part in parts}))


def _labels_of_regions(
    regions: Mapping[str, tuple[int, ...]], source: Path
) -> dict[str, int]:
    """Name every label value that regions are made of."""
    own = {values[0]: name for name, values in regions.items() if len(values) == 1}
    found = sorted({value for values in regions.values() for value in values})
    labels = {own.get(value, str(value)): value for value in found}
    if len(labels) != len(found):
        raise DatasetError(
            f"{source}: a region is called by a number that is the value of another "
            f"label, in {list(regions)}; give it another name"
        )
    return labels


def _is_integer(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().removeprefix("-").isdecimal()
    return isinstance(value, int) and not isinstance(value, bool)
