"""Results as lines of a file, so that what was found is not found again.

Not a benchmark by itself.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def kept_or_found(
    path: Path, key: Mapping[str, Any], find: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """The line that has all of a key, or what is found now, which becomes a line.

    Args:
        path: Of JSON lines; need not exist.
        key: What decides the result: names to numbers or texts.
        find: Gives the result, which is JSON.
    """
    for line in whole_lines(path):
        if {name: line.get(name) for name in key} == key:
            return line
    line = {**key, **find()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lines:
        lines.write(json.dumps(line) + "\n")
    return line


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """All lines; one that was cut off is taken away, as the next would join it."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]
