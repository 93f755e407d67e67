"""Names of cases and structures: they become names of files, on any system."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from foveal.errors import DatasetError

LARGEST_CHARACTERS = 150
LARGEST_BYTES = 200
"""File systems take 255 bytes, from which endings and temporary names are to come."""

FORBIDDEN_CHARACTERS = '<>:"|?*/\\'

RESERVED_NAMES = frozenset(
    (
        *("con", "prn", "aux", "nul"),
        *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
    )
)
"""Devices to Windows, whatever ending follows."""


def require_file_name(name: str, kind: str) -> None:
    """Refuse a name that cannot be the name of a file on every system.

    Args:
        name: Without ending.
        kind: What is called so, for the message, for example ``"case"``.

    Raises:
        DatasetError: Says what is wrong with it and what to do.
    """
    reason = _fault(name)
    if reason:
        raise DatasetError(
            f'{kind} "{_printable(name)}" cannot name files everywhere: {reason}; '
            "rename it, or list the data set in a CSV or TOML table that gives it "
            "another name"
        )


def require_different_names(
    source: Path, named: Iterable[tuple[str, Path | None]], kind: str
) -> None:
    """Refuse names that some file system takes for one another.

    Upper and lower case, and the ways in which Unicode writes an accented letter, make
    no difference on some disks.

    Args:
        source: Where the names stand, for the message.
        named: Names and where each comes from.
        kind: What is called so, for the message, for example ``"case"``.

    Raises:
        DatasetError: Lists the names that collide, and their files.
    """
    alike: defaultdict[str, list[tuple[str, Path | None]]] = defaultdict(list)
    for name, path in named:
        alike[_folded(name)].append((name, path))
    for group in alike.values():
        if len(group) > 1:
            listed = ", ".join(
                f'"{name}"' + (f" ({path})" if path else "") for name, path in group[:3]
            )
            raise DatasetError(
                f'{source}: the {kind} name "{group[0][0]}" stands {len(group)} times: '
                f"{listed}; every {kind} needs a name of its own, beyond upper and "
                'lower case, accents and "_" in place of a folder'
            )


def _folded(name: str) -> str:
    """Same text for all names that a file system may take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _fault(name: str) -> str | None:
    """Why a name cannot name files, ``None`` if it can."""
    wrong = [c for c in name if c in FORBIDDEN_CHARACTERS or not c.isprintable()]
    if wrong:
        return f"it holds {wrong[0]!r}"
    if not name or name != name.strip() or name.endswith(".") or name.startswith("."):
        return "it must not be empty nor begin or end with a dot or a space"
    if name.split(".")[0].casefold() in RESERVED_NAMES:
        return "Windows keeps this name for a device"
    if len(name) > LARGEST_CHARACTERS or len(name.encode()) > LARGEST_BYTES:
        return (
            f"it has {len(name)} characters ({len(name.encode())} bytes); at most "
            f"{LARGEST_CHARACTERS} ({LARGEST_BYTES} bytes) fit"
        )
    return None


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
