"""A CSV or TOML table that lists the cases; its paths are relative to the table."""

import csv
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal.case import StructureFile
from foveal.errors import DatasetError
from foveal.io.listing import Labels, ListedCase, Listing, read_labels, with_regions

SPLITS = ("train", "validation", "test")
CASE_COLUMNS = frozenset(
    (
        "case",
        "patient",
        "channels",
        "label_map",
        "mask",
        "weight_map",
        "split",
        "domain",
        "annotated_labels",
        "present",
        "exclude",
    )
)
TOML_CASE_KEYS = CASE_COLUMNS | {"structures"}
TABLE_KEYS = frozenset(
    (
        "name",
        "channel_names",
        "labels",
        "regions",
        "ignore",
        "patient",
        "folder",
        "cases",
    )
)

CHANNEL_PREFIX = "channel_"
"""Of a CSV column that holds one channel, for example ``channel_flair``."""

STRUCTURE_PREFIX = "structure_"
"""Of a CSV column with the mask of one structure, for example ``structure_liver``."""

LIST_SEPARATOR = ";"
"""Between several entries in one cell of a CSV table."""

NOTHING = "none"
"""In the column ``present`` of a CSV table: the image shows no structure."""


def list_csv(path: Path) -> Listing:
    """List the cases of a CSV table, one per row; an empty cell is an absent entry.

    Raises:
        DatasetError: A column is unknown or missing, or a row is not as long as the
            first; names the line.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(f"{path} line {reader.line_num}", row) for row in reader]
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"{path} is not in UTF-8 ({error}); save it again, in a spreadsheet as "
                '"CSV UTF-8"'
            ) from error
        except csv.Error as error:
            raise DatasetError(f"{path} is not a CSV table: {error}") from error
    if len(columns) == 1 and LIST_SEPARATOR in columns[0]:
        raise DatasetError(
            f'{path}: its columns are separated by "{LIST_SEPARATOR}", as some '
            "spreadsheets do; they must be separated by commas"
        )
    channel_columns = [name for name in columns if name.startswith(CHANNEL_PREFIX)]
    structure_columns = [name for name in columns if name.startswith(STRUCTURE_PREFIX)]
    _refuse_unknown(
        path, set(columns) - {*channel_columns, *structure_columns}, CASE_COLUMNS
    )
    if len(set(columns)) != len(columns):
        raise DatasetError(f"{path}: a column stands twice in {columns}")
    cases = tuple(
        _case(
            path.parent,
            where,
            _entries(where, row, channel_columns, structure_columns),
        )
        for where, row in rows
    )
    _refuse_empty_structures(path, structure_columns, cases)
    return Listing(
        name=path.stem,
        cases=cases,
        channel_names=tuple(
            name.removeprefix(CHANNEL_PREFIX) for name in channel_columns
        )
        or None,
    )


def list_toml(path: Path, list_folder: Callable[[Path], Listing]) -> Listing:
    """List the cases of a TOML table: ``[[cases]]``, names of channels and labels.

    In place of ``[[cases]]`` the table may name a ``folder``, relative to it, whose
    cases it describes: what it says replaces what the folder's own layout says.

    Args:
        path: Of the table.
        list_folder: Lists a data set in a folder.

    Raises:
        DatasetError: The file is not TOML, a key is unknown or missing, or a value is
            of the wrong kind; names the case.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not a TOML file: {error}") from error
    _refuse_unknown(path, table.keys(), TABLE_KEYS)
    labels = read_labels(table["labels"], path) if "labels" in table else Labels()
    if "regions" in table:
        labels = with_regions(labels, table["regions"], path)
    if "ignore" in table:
        labels = _with_ignore_value(path, labels, table["ignore"])
    if "folder" in table:
        if "cases" in table:
            raise DatasetError(f'{path}: keep "folder" or [[cases]], not both')
        of_folder = path.parent / _text(table["folder"], f"{path}: folder")
        if not of_folder.is_dir():
            raise DatasetError(f"{path}: folder {of_folder} is no folder")
        listing = list_folder(of_folder)
    else:
        listing = Listing(path.stem, _cases_of_table(path, table.get("cases", [])))
    listing = replace(
        listing, name=_text(table.get("name", listing.name), f"{path}: name")
    )
    if "channel_names" in table:
        names = tuple(_list(table["channel_names"], f"{path}: channel_names"))
        listing = replace(listing, channel_names=names)
    if labels != Labels():
        listing = replace(listing, labels=labels)
    if "patient" in table:
        pattern = _pattern(path, table["patient"])
        cases = tuple(_with_patient(path, case, pattern) for case in listing.cases)
        listing = replace(listing, cases=cases)
    return listing


def _cases_of_table(path: Path, entries: object) -> tuple[ListedCase, ...]:
    if not isinstance(entries, list) or not all(
        isinstance(row, dict) for row in entries
    ):
        raise DatasetError(f"{path}: write every case as a table [[cases]]")
    cases = []
    for number, row in enumerate(entries, start=1):
        where = f"{path} case {number}"
        _refuse_unknown(where, row.keys(), TOML_CASE_KEYS)
        cases.append(_case(path.parent, where, row))
    return tuple(cases)


def _pattern(path: Path, entry: object) -> re.Pattern[str]:
    """Regular expression that finds the patient in the name of a case."""
    try:
        return re.compile(_text(entry, f"{path}: patient"))
    except re.error as error:
        raise DatasetError(
            f"{path}: patient {entry!r} is no regular expression: {error}"
        ) from error


def _with_patient(path: Path, case: ListedCase, pattern: re.Pattern[str]) -> ListedCase:
    """The case, with the patient that its name holds unless the table says one."""
    if case.patient is not None:
        return case
    match = pattern.search(case.name)
    patient = match[1 if pattern.groups else 0] if match else ""
    if not patient:
        raise DatasetError(
            f'{path}: patient "{pattern.pattern}" finds nothing in the name of case '
            f"{case.name}; change it so that it finds the patient in every name"
        )
    return replace(case, patient=patient)


def _entries(
    where: str,
    row: Mapping[str | None, Any],
    channel_columns: list[str],
    structure_columns: list[str],
) -> dict[str, Any]:
    """Entries of a CSV row in the form of a TOML case."""
    if None in row or None in row.values():
        raise DatasetError(
            f"{where} has more or fewer cells than the first line; "
            'put texts that hold a comma in "quotes"'
        )
    cells = {str(name): cell.strip() for name, cell in row.items() if cell.strip()}
    entries: dict[str, Any] = {
        name: cell for name, cell in cells.items() if name in CASE_COLUMNS
    }
    for name in ("channels", "annotated_labels", "present"):
        if name in cells:
            entries[name] = [
                part.strip()
                for part in cells[name].split(LIST_SEPARATOR)
                if part.strip()
            ]
    if channel_columns:
        if "channels" in cells:
            raise DatasetError(
                f'{where}: use "channels" or {channel_columns}, not both'
            )
        if "exclude" not in cells and not set(channel_columns) & cells.keys():
            raise DatasetError(
                f"{where} has no file for any of {', '.join(channel_columns)}; a case "
                "may lack some of its channels, but not all: add one, or a reason in "
                'the column "exclude"'
            )
        entries["channels"] = [cells.get(name, "") for name in channel_columns]
    drawn = [name for name in structure_columns if name in cells]
    if drawn:
        entries["structures"] = {
            name.removeprefix(STRUCTURE_PREFIX): cells[name] for name in drawn
        }
    return entries


def _case(folder: Path, where: str, entries: Mapping[str, Any]) -> ListedCase:
    """One case from its entries, checked; an excluded one may lack its files."""
    for required in ("case",) if "exclude" in entries else ("case", "channels"):
        if not entries.get(required):
            raise DatasetError(f'{where} has no "{required}"; every case needs it')
    split = entries.get("split")
    if split is not None and split not in SPLITS:
        raise DatasetError(
            f'{where}: split "{split}" must be one of {", ".join(SPLITS)}, or left out'
        )
    name = _text(entries["case"], f"{where}: case")
    if Path(name).name != name:
        raise DatasetError(
            f'{where}: case "{name}" names files and must not hold a folder'
        )
    patient, label_map, mask, weight_map, domain, exclude = (
        _text(entries[key], f"{where}: {key}") if key in entries else None
        for key in ("patient", "label_map", "mask", "weight_map", "domain", "exclude")
    )
    structures = _structures(folder, where, entries.get("structures", {}))
    if label_map and structures:
        raise DatasetError(
            f"{where} has a label_map and a mask per structure; keep one of them"
        )
    channels = [] if exclude is not None else _channels(entries["channels"], where)
    return ListedCase(
        name=name,
        images=tuple(folder / channel for channel in channels if channel),
        missing_channels=tuple(
            number for number, channel in enumerate(channels) if not channel
        ),
        patient=patient,
        label_map=None if label_map is None else folder / label_map,
        structure_files=structures,
        mask=None if mask is None else folder / mask,
        weight_map=None if weight_map is None else folder / weight_map,
        annotated=_structure_list(entries, "annotated_labels", where),
        present=_present(entries, where),
        split=split,
        domain=domain,
        exclude=exclude,
    )


def _channels(entry: object, where: str) -> list[str]:
    """Files of the channels, an empty text for one that the case lacks."""
    if isinstance(entry, list) and any(entry):
        return [part and _text(part, f"{where}: channels") for part in entry]
    if isinstance(entry, list):
        raise DatasetError(
            f"{where}: channels {entry!r} names no file; a case may lack some of its "
            "channels, but not all"
        )
    return _list(entry, f"{where}: channels")


def _structures(folder: Path, where: str, entries: object) -> tuple[StructureFile, ...]:
    """Masks of single structures, in order of name."""
    if not isinstance(entries, Mapping):
        raise DatasetError(
            f"{where}: structures {entries!r} must be a table of names and files, as "
            '{ liver = "liver.nii.gz" }'
        )
    return tuple(
        StructureFile(
            structure, folder / _text(entry, f"{where}: structure {structure}")
        )
        for structure, entry in sorted(entries.items())
    )


def _refuse_empty_structures(
    path: Path, columns: Iterable[str], cases: Iterable[ListedCase]
) -> None:
    """Refuse a structure that no row has a mask of."""
    drawn = {file.structure for case in cases for file in case.structure_files}
    for column in columns:
        if column.removeprefix(STRUCTURE_PREFIX) not in drawn:
            raise DatasetError(
                f"{path}: no row has a file in {column}; fill or remove the column"
            )


def _present(entries: Mapping[str, Any], where: str) -> tuple[str | int, ...] | None:
    """What an image shows; the word for nothing is for tables without empty lists."""
    present = _structure_list(entries, "present", where)
    outlines = {"label_map": "a label_map", "structures": "a mask per structure"}
    given = [words for key, words in outlines.items() if entries.get(key)]
    if present is not None and given:
        raise DatasetError(
            f"{where} has {given[0]}, which tells what is present; leave out one of "
            "both"
        )
    return () if present == (NOTHING,) else present


def _structure_list(
    entries: Mapping[str, Any], key: str, where: str
) -> tuple[str | int, ...] | None:
    entry = entries.get(key)
    if entry is None:
        return None
    if not isinstance(entry, list) or not all(
        isinstance(label, str | int) for label in entry
    ):
        raise DatasetError(
            f"{where}: {key} {entry!r} must be a list of label names or values"
        )
    return tuple(entry)


def _with_ignore_value(path: Path, labels: Labels, entry: object) -> Labels:
    if not isinstance(entry, int) or isinstance(entry, bool):
        raise DatasetError(f"{path}: ignore {entry!r} must be a label value")
    if entry in (labels.values or {}).values():
        raise DatasetError(
            f"{path}: ignore is {entry}, which is also the value of a label; "
            "give ignored voxels a value of their own"
        )
    return replace(labels, ignore_value=entry)


def _text(entry: object, where: str) -> str:
    if not isinstance(entry, str) or not entry:
        raise DatasetError(f"{where} {entry!r} must be a text in quotes")
    return entry


def _list(entry: object, where: str) -> list[str]:
    if not isinstance(entry, list):
        raise DatasetError(f"{where} {entry!r} must be a list of texts in brackets")
    return [_text(part, where) for part in entry]


def _refuse_unknown(
    where: Path | str, names: Iterable[str], known: frozenset[str]
) -> None:
    unknown = sorted(set(names) - known)
    if unknown:
        raise DatasetError(
            f'{where}: "{unknown[0]}" is unknown; there are {", ".join(sorted(known))}'
            + (
                f", {CHANNEL_PREFIX}<name> and {STRUCTURE_PREFIX}<name>"
                if known is CASE_COLUMNS
                else ""
            )
        )
