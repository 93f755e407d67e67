"""The file ``dataset.json`` of Medical Segmentation Decathlon and nnU-Net folders."""

import json
from pathlib import Path
from typing import Any

from foveal.errors import DatasetError

FILE_NAME = "dataset.json"


def read_description(path: Path) -> dict[str, Any]:
    """Read the file's table.

    Raises:
        DatasetError: The file is not JSON or holds something else than a table.
    """
    try:
        description = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(description, dict):
        raise DatasetError(f"{path} must hold a JSON object, starting with {{")
    return description


def numbered_names(entries: object, source: Path) -> tuple[str, ...]:
    """Channel names from a table of number to name, in order of number.

    Raises:
        DatasetError: The numbers are not 0, 1, 2, … or there are none.
    """
    if not isinstance(entries, dict) or set(entries) != {
        str(number) for number in range(max(len(entries), 1))
    }:
        raise DatasetError(
            f'{source}: channels must be numbered from 0, as {{"0": "CT"}}; '
            f"found {entries!r}"
        )
    return tuple(str(entries[str(number)]) for number in range(len(entries)))
