"""What every data set layout is read into, before its files are looked at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.errors import DatasetError

BACKGROUND_VALUE = 0
IGNORE_NAME = "ignore"


@dataclass(frozen=True)
class ListedCase:
    """One case as its layout names it."""

    name: str
    images: tuple[Path, ...]
    """One file per channel, or a single file that may hold several channels."""

    patient: str | None = None
    """``None``: the case is a patient of its own."""

    label_map: Path | None = None
    mask: Path | None = None
    annotated: tuple[str | int, ...] | None = None
    """Structures by name or by value; ``None``: all of them."""

    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """All cases of a data set, and the names that its layout gives."""

    name: str
    cases: tuple[ListedCase, ...]
    channel_names: tuple[str, ...] | None = None
    """``None``: the layout names none."""

    label_values: dict[str, int] | None = None
    """Structure name to value; ``None``: the label maps tell."""

    ignore_value: int | None = None


def read_labels(
    entries: Mapping[str, Any], source: Path
) -> tuple[dict[str, int], int | None]:
    """Read a table of labels, written as name to value or as value to name.

    The value 0 is background under any name; the name "ignore" marks voxels without
    loss and score.

    Returns:
        Structure name to value in order of value, and the ignore value if there is one.

    Raises:
        DatasetError: A label is a region of several values, is no integer, or stands
            twice.
    """
    values: dict[str, int] = {}
    for key, entry in entries.items():
        if isinstance(entry, list | tuple):
            raise DatasetError(
                f'{source}: label "{key}" is the region {list(entry)}; regions are not '
                "supported yet: give every structure one value, "
                "and regions when evaluating"
            )
        name, value = (entry, key) if _is_integer(key) else (key, entry)
        if not _is_integer(value) or not isinstance(name, str):
            raise DatasetError(
                f'{source}: label "{key}" = {entry!r} must be a name and an integer'
            )
        if int(value) == BACKGROUND_VALUE:
            continue
        if name in values or int(value) in values.values():
            raise DatasetError(
                f'{source}: label "{name}" = {value} stands twice; '
                "every structure needs a name and a value of its own"
            )
        values[name] = int(value)
    ignore_value = next(
        (value for name, value in values.items() if name.lower() == IGNORE_NAME), None
    )
    structures = {
        name: value
        for name, value in sorted(values.items(), key=lambda label: label[1])
        if value != ignore_value
    }
    return structures, ignore_value


def _is_integer(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().removeprefix("-").isdecimal()
    return isinstance(value, int) and not isinstance(value, bool)
