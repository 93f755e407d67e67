"""What the files of a case contain, as hashes: equal content has an equal name."""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

from foveal.case import CaseFiles
from foveal.errors import CaseError
from foveal.io.files import atomic_write_text

DIGESTS_FILE = "file_digests.json"
"""In the store: hashes of the data sets' files."""

DATA_FILE = "ElementDataFile"
"""Entry of an ``.mhd`` header that names the file of the voxels."""


class FileDigests:
    """Hashes of files; a file that did not change since is not read again."""

    def __init__(self, path: Path | None = None) -> None:
        """Start from what an earlier run kept.

        Args:
            path: Of the kept hashes (JSON); a damaged or absent file counts as empty.
                ``None``: they are not kept.
        """
        self._path = path
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, Any]] = {} if path is None else _read_kept(path)
        self._is_changed = False

    def digest(self, path: Path) -> str:
        """Hash of a file's bytes, and of those of the file of voxels it may name."""
        stat = path.stat()
        state = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        name = str(path.resolve())
        kept = self._kept.get(name)
        if kept is None or kept["state"] != state:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()
            kept = {"state": state, "digest": digest}
            with self._lock:
                self._kept[name] = kept
                self._is_changed = True
        data_path = _data_file(path)
        return kept["digest"] + ("" if data_path is None else self.digest(data_path))

    def save(self) -> None:
        """Keep the hashes for the next run."""
        with self._lock:
            if self._is_changed and self._path is not None:
                text = json.dumps(self._kept, indent=0, sort_keys=True)
                atomic_write_text(self._path, text)
                self._is_changed = False


def case_content(files: CaseFiles, digests: FileDigests) -> dict[str, Any]:
    """Everything about a case that decides what preprocessing makes of it, as JSON.

    Raises:
        OSError: A file is missing or cannot be read.
    """
    return {
        "channels": [
            [digests.digest(channel.path), channel.index] for channel in files.channels
        ],
        "label_map": None
        if files.label_map is None
        else digests.digest(files.label_map),
        "structure_files": [
            [part.structure, digests.digest(part.path), part.value, part.layer]
            for part in files.structure_files
        ],
        "mask": None if files.mask is None else digests.digest(files.mask),
        "weight_map": None
        if files.weight_map is None
        else digests.digest(files.weight_map),
        "annotated": None if files.annotated is None else sorted(files.annotated),
        # Not in the content of others, whose entries in the store stay what they are.
        **(
            {"missing_channels": list(files.missing_channels)}
            if files.missing_channels
            else {}
        ),
    }


def readable_content(files: CaseFiles, digests: FileDigests) -> dict[str, Any]:
    """What `case_content` gives, for a message that names the case.

    Raises:
        CaseError: A file is missing or cannot be read.
    """
    try:
        return case_content(files, digests)
    except OSError as error:
        raise CaseError(
            f"case {files.name}: {error.filename} cannot be read ({error.strerror}); "
            "correct the path or take the case out of the data set"
        ) from error


def _read_kept(path: Path) -> dict[str, dict[str, Any]]:
    """Sound entries of a file of hashes, by the files' names."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(kept, dict):
        return {}
    return {name: entry for name, entry in kept.items() if _is_sound(entry)}


def _is_sound(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("state"), dict)
        and isinstance(entry.get("digest"), str)
    )


def _data_file(path: Path) -> Path | None:
    """File of the voxels that an ``.mhd`` header names."""
    if path.suffix.lower() != ".mhd":
        return None
    for line in path.read_text(encoding="latin-1").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == DATA_FILE and (path.parent / value.strip()).is_file():
            return path.parent / value.strip()
    return None
