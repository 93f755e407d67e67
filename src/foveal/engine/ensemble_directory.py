"""The folder of an ensemble: its members are runs, and some of them enter it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from foveal.engine.run_directory import RunDirectory, create_folder, require_unchanged
from foveal.errors import RunError
from foveal.io.files import atomic_write_text

FORMAT_VERSION = 1


@dataclass(frozen=True)
class EnsembleDirectory:
    """Where an ensemble keeps what."""

    path: Path

    @property
    def settings(self) -> Path:
        """What the ensemble is trained from, with absolute paths."""
        return self.path / "ensemble.toml"

    @property
    def plan(self) -> Path:
        """That all members' plans were made from."""
        return self.path / "plan.toml"

    @property
    def splits(self) -> Path:
        """Patients of every fold, shared by all members."""
        return self.path / "splits.toml"

    @property
    def outcomes(self) -> Path:
        """What became of every member, see `read_outcomes`."""
        return self.path / "members.json"

    @property
    def validation(self) -> Path:
        """What the whole ensemble predicts of the validation cases."""
        return self.path / "validation"

    @property
    def metrics(self) -> Path:
        """What was measured of the whole ensemble in the validation cases."""
        return self.path / "metrics.json"

    @property
    def table(self) -> Path:
        """Members, and ensembles of 2, 3, … of them, in numbers."""
        return self.path / "table.json"

    @property
    def made_of(self) -> Path:
        """Of which weights `validation` and the smaller ensembles were made."""
        return self.path / "ensembles" / "made_of.json"

    @property
    def postprocessing(self) -> Path:
        """What follows the networks of all members together; often absent."""
        return self.path / "postprocessing.toml"

    def member(self, name: str) -> RunDirectory:
        """The run of a member, begun or not."""
        return RunDirectory(self.path / "members" / name)

    def member_settings(self, name: str) -> Path:
        """What a member's run is begun with."""
        return self.path / "members" / f"{name}.toml"

    def member_plan(self, name: str) -> Path:
        """The plan that a member's run is begun with."""
        return self.path / "members" / f"{name}.plan.toml"

    def log(self, name: str) -> Path:
        """All that the training of a member printed."""
        return self.path / "members" / f"{name}.log"

    def of_first(self, count: int) -> Path:
        """What the first members that entered predict of the validation cases."""
        return self.path / "ensembles" / f"first_{count}"


@dataclass(frozen=True)
class MemberOutcome:
    """What became of one member."""

    name: str

    steps: int | None
    """Updates that it was trained for; ``None``: it is not trained to the end."""

    dice: float | None
    """Mean validation Dice of the entry region; ``None``: not measured, or not
    defined in any validation case."""

    entered: bool

    reason: str
    """Why it did not enter; empty if it did."""


def create_ensemble(path: Path) -> EnsembleDirectory:
    """Make the folder of a fresh ensemble.

    Raises:
        RunError: The folder already holds something.
    """
    create_folder(path)
    return EnsembleDirectory(path)


def is_ensemble(path: Path) -> bool:
    """Whether a folder is an ensemble that was begun."""
    return EnsembleDirectory(path).settings.is_file()


def open_ensemble(path: Path) -> EnsembleDirectory:
    """Folder of an ensemble that was begun.

    Raises:
        RunError: It is not one, or what its members share is damaged.
    """
    folder = EnsembleDirectory(path)
    if not is_ensemble(path):
        raise RunError(
            f"{path} is not an ensemble: ensemble.toml is missing; give the folder "
            "that foveal ensemble train wrote (--out)"
        )
    require_unchanged(folder.settings, folder.plan, folder.splits)
    return folder


def write_outcomes(
    folder: EnsembleDirectory,
    outcomes: Sequence[MemberOutcome],
    *,
    region: str,
    threshold_dice: float,
) -> None:
    """Keep what became of the members, and the rule that decided."""
    record = {
        "format_version": FORMAT_VERSION,
        "region": region,
        "threshold_dice": threshold_dice,
        "members": [asdict(outcome) for outcome in outcomes],
    }
    atomic_write_text(folder.outcomes, json.dumps(record, indent=2) + "\n")


def read_outcomes(folder: EnsembleDirectory) -> tuple[MemberOutcome, ...]:
    """What became of the members, in the order of the ensemble's file.

    Raises:
        RunError: It is not known yet, or the file is damaged.
    """
    go_on = f"go on with foveal ensemble train --resume --out {folder.path}"
    try:
        record = json.loads(folder.outcomes.read_text(encoding="utf-8"))
        return tuple(MemberOutcome(**entry) for entry in record["members"])
    except FileNotFoundError:
        raise RunError(
            f"{folder.path} is an ensemble whose members have not been measured yet; "
            f"{go_on}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder.outcomes} is damaged ({error!r}); {go_on}") from error


def entered_runs(path: Path) -> tuple[RunDirectory, ...]:
    """Runs of the members that entered an ensemble, in the order of its file.

    Raises:
        RunError: It is not known yet who enters, or nobody did.
    """
    folder = open_ensemble(path)
    outcomes = read_outcomes(folder)
    runs = tuple(folder.member(one.name) for one in outcomes if one.entered)
    if not runs:
        raise RunError(
            f"no member of the ensemble {path} has passed its entry rule "
            f"({folder.outcomes} says why); lower entry.threshold_dice, or train longer"
        )
    return runs
