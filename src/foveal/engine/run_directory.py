"""The folder of one run, one fold and one seed, and folders of runs.

A cross-validation is a folder of runs ``fold_0``, ``fold_1``, … that share a plan and
a division of the patients.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from foveal import __version__
from foveal.errors import RunError
from foveal.io.files import atomic_write_text
from foveal.unfinished import is_unfinished


@dataclass(frozen=True)
class RunDirectory:
    """Where a run keeps what."""

    path: Path

    @property
    def settings(self) -> Path:
        """Resolved settings; nothing is left to a default or to the day."""
        return self.path / "settings.toml"

    @property
    def plan(self) -> Path:
        """Resolved plan."""
        return self.path / "plan.toml"

    @property
    def landmarks(self) -> Path:
        """Landmarks that were learned, to be given to other runs; in the plan too."""
        return self.path / "landmarks.json"

    @property
    def splits(self) -> Path:
        """Patients of every fold."""
        return self.path / "splits.toml"

    @property
    def plugins(self) -> Path:
        """Copies of the plugins the run was made with; never run from here."""
        return self.path / "plugins"

    @property
    def plugin_records(self) -> Path:
        """Hashes of the plugins and what they add."""
        return self.path / "plugins.toml"

    @property
    def transfer(self) -> Path:
        """What the run began with, if that was learned elsewhere."""
        return self.path / "transfer.json"

    @property
    def checkpoints(self) -> Path:
        """``last``, ``previous`` and ``best``."""
        return self.path / "checkpoints"

    @property
    def error_maps(self) -> Path:
        """Where the network errs in the training cases, of an adaptive sampler."""
        return self.path / "error_maps"

    @property
    def made_labels(self) -> Path:
        """What the network in training labelled cases without an outline with."""
        return self.path / "made_labels"

    @property
    def validation(self) -> Path:
        """Predictions of the validation cases and their ``metrics.json``."""
        return self.path / "validation"

    @property
    def metrics(self) -> Path:
        """What was measured in the validation cases; written last of all."""
        return self.validation / "metrics.json"

    @property
    def presence(self) -> Path:
        """How well a classifier tells what the validation cases show."""
        return self.validation / "presence.json"

    @property
    def postprocessing(self) -> Path:
        """What follows the network, as its validation cases chose it; often absent."""
        return self.path / "postprocessing.toml"

    @property
    def best_or_last(self) -> Path:
        """The checkpoint to predict with: best on validation, else the last.

        Raises:
            RunError: There is neither.
        """
        for name in ("best", "last", "previous"):
            path = self.checkpoints / f"{name}.safetensors"
            if path.exists():
                return path
        raise RunError(
            f"{self.path} holds no checkpoint; train first, "
            "or give the folder of a run (it holds plan.toml and checkpoints)"
        )


@dataclass(frozen=True)
class CrossValidationDirectory:
    """Where a cross-validation keeps what; every fold is a run with its own folder."""

    path: Path

    @property
    def settings(self) -> Path:
        """Settings that every fold starts from."""
        return self.path / "cross_validation.toml"

    @property
    def plan(self) -> Path:
        """Shared by all folds."""
        return self.path / "plan.toml"

    @property
    def splits(self) -> Path:
        """Shared by all folds."""
        return self.path / "splits.toml"

    @property
    def metrics(self) -> Path:
        """What was measured out of fold, in every case that was validated."""
        return self.path / "metrics.json"

    @property
    def postprocessing(self) -> Path:
        """What follows the networks of all folds together; often absent."""
        return self.path / "postprocessing.toml"

    @property
    def presence(self) -> Path:
        """How well classifiers told, out of fold, what the cases show."""
        return self.path / "presence.json"

    def fold(self, number: int) -> RunDirectory:
        """The run that validates on part ``number``, begun or not."""
        return RunDirectory(self.path / f"fold_{number}")


BEFORE_SETTINGS = {
    "landmarks.json",
    "plan.toml",
    "plugins",
    "plugins.toml",
    "splits.toml",
}
"""What a run that was killed before it really began may have left behind."""


CHECKSUM_START = "# checksum "

CHECKSUM_LINE = (
    CHECKSUM_START + "{} of all below; delete this line if you change something by hand"
)
"""First line of a run's settings, plan and splits: a file that is cut short or has a
byte changed is mostly good TOML still, but of another run."""


def create_run(path: Path) -> RunDirectory:
    """Make the folder of a fresh run.

    Raises:
        RunError: The folder already holds something.
    """
    create_folder(path)
    return RunDirectory(path)


def create_cross_validation(path: Path) -> CrossValidationDirectory:
    """Make the folder of a fresh cross-validation.

    Raises:
        RunError: The folder already holds something.
    """
    create_folder(path)
    return CrossValidationDirectory(path)


def create_folder(path: Path) -> None:
    """Make a folder to train into.

    Raises:
        RunError: It already holds something.
    """
    if path.exists() and (not path.is_dir() or any(map(_is_of_a_run, path.iterdir()))):
        raise RunError(
            f"{path} already holds something; continue a run there with --resume, "
            "or give another --out"
        )
    path.mkdir(parents=True, exist_ok=True)


def is_run(path: Path) -> bool:
    """Whether a folder is a run that was started."""
    run = RunDirectory(path)
    return run.settings.is_file() and run.plan.is_file()


def is_cross_validation(path: Path) -> bool:
    """Whether a folder is a cross-validation that was started."""
    return CrossValidationDirectory(path).settings.is_file()


def find_runs(path: Path) -> tuple[RunDirectory, ...]:
    """The runs that a folder stands for: itself, or those in it.

    Returns:
        In order of name, numbers by their value: ``fold_2`` before ``fold_10``.

    Raises:
        RunError: It is neither a run nor a folder of runs.
    """
    if is_run(path):
        return (RunDirectory(path),)
    folders = path.iterdir() if path.is_dir() else ()
    runs = [RunDirectory(folder) for folder in folders if is_run(folder)]
    if not runs:
        raise RunError(
            f"{path} is not a run and holds none; give the folder that foveal train "
            "wrote (--out), or a folder of such folders"
        )
    return tuple(sorted(runs, key=lambda run: _in_order_of_number(run.path.name)))


def _in_order_of_number(name: str) -> list[tuple[int, str]]:
    """Sorts digits by their value and all else as text."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def open_run(path: Path) -> RunDirectory:
    """Folder of a run that was started.

    Raises:
        RunError: It is not one, or its settings, plan or splits are damaged.
    """
    run = RunDirectory(path)
    missing = [file.name for file in (run.settings, run.plan) if not file.exists()]
    if missing:
        raise RunError(
            f"{path} is not a run: {' and '.join(missing)} missing; "
            "give the folder that foveal train wrote (--out). A run that was stopped "
            "before it had a plan is started again without --resume"
        )
    require_unchanged(run.settings, run.plan, run.splits)
    return run


def open_cross_validation(path: Path) -> CrossValidationDirectory:
    """Folder of a cross-validation that was started.

    Raises:
        RunError: It is not one, or what all folds share is damaged.
    """
    folder = CrossValidationDirectory(path)
    shared = (folder.settings, folder.plan, folder.splits)
    missing = [file.name for file in shared if not file.exists()]
    if missing:
        raise RunError(
            f"{path} is not a cross-validation: {' and '.join(missing)} missing; give "
            "the folder that foveal train --fold all wrote (--out). One that was "
            "stopped before it had a plan is started again without --resume"
        )
    require_unchanged(*shared)
    return folder


def write_with_checksum(path: Path, text: str) -> None:
    """Write a file of a run that `open_run` can tell from a damaged one."""
    line = CHECKSUM_LINE.format(_text_digest(text.encode("utf-8")))
    atomic_write_text(path, f"{line}\n{text}")


def require_unchanged(*paths: Path) -> None:
    """Refuse files whose checksum is wrong or cut; one without a checksum may pass."""
    for path in paths:
        if path.exists():
            _require_checksum(path)


def _require_checksum(path: Path) -> None:
    content = path.read_bytes()
    first, _, rest = content.partition(b"\n")
    start = CHECKSUM_START.encode()
    expected = CHECKSUM_LINE.format(_text_digest(rest)).encode()
    is_cut = start.startswith(content)
    if is_cut or (content.startswith(start) and first != expected):
        raise RunError(
            f"{path} is damaged or was changed: its content does not have the checksum "
            "of its first line. Copy it from a backup, or, if you changed it on "
            "purpose, delete that line"
        )


def _text_digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _is_of_a_run(path: Path) -> bool:
    """Whether a file shows that its folder is in use."""
    return path.name not in BEFORE_SETTINGS and not is_unfinished(path)


def write_environment(run: RunDirectory, threads: int, device: str) -> None:
    """Record what the run was made with."""
    record = {
        "format_version": 1,
        "foveal": __version__,
        "commit": _commit(),
        "python": sys.version.split()[0],
        # Not from the modules: reading a run's folder needs none of them loaded.
        "torch": version("torch"),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device,
    }
    atomic_write_text(run.path / "environment.json", json.dumps(record, indent=2))


def _commit() -> str | None:
    """Commit of the source tree, if Foveal runs from one."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    try:
        answer = subprocess.run(  # noqa: S603 - fixed command
            ["git", "-C", str(source), "rev-parse", "HEAD"],  # noqa: S607 - user's git
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
