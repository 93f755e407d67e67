"""What a run left behind, as its report reads it."""

from dataclasses import dataclass
from typing import Any

from foveal.commands.out_of_fold import measured_out_of_fold
from foveal.config.settings import Settings
from foveal.engine.log import read_log
from foveal.engine.run_directory import RunDirectory
from foveal.metrics.evaluation import Evaluation
from foveal.settings_files import read_settings

LogRow = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ReportedRun:
    """One run, finished or not."""

    directory: RunDirectory
    settings: Settings
    log: tuple[LogRow, ...]

    measured: Evaluation | None
    """``None`` before the validation cases were measured."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.directory.path.resolve().name

    @property
    def is_measured(self) -> bool:
        """Whether it is known how good the run is in its validation cases."""
        return self.measured is not None or self.directory.presence.exists()

    @property
    def steps_done(self) -> int:
        """Updates that the log tells of."""
        return max(
            (row["step"] + 1 for row in self.log if row["kind"] == "step"), default=0
        )

    @property
    def best_step(self) -> int | None:
        """Step of the best checkpoint; ``None`` before the first validation."""
        known = [
            (row["mean"], row["step"])
            for row in self.log
            if row["kind"] == "validation" and row["mean"] is not None
        ]
        # The earliest of equal ones, as the engine keeps it.
        return max(known, key=lambda found: (found[0], -found[1]))[1] if known else None

    @property
    def seconds(self) -> float:
        """That the logged steps and validations took."""
        return sum(
            row.get("seconds", 0.0) + row.get("waited_seconds", 0.0) for row in self.log
        )

    def rows(self, kind: str) -> list[LogRow]:
        """Rows of the log of one kind, in their order."""
        return [row for row in self.log if row["kind"] == kind]


def read_run(directory: RunDirectory) -> ReportedRun:
    """Read settings, log and scores.

    Raises:
        EvaluationError: ``metrics.json`` is damaged.
        SettingsError: The settings are damaged.
    """
    settings, _ = read_settings(directory.settings)
    log = tuple(read_log(directory.path / "log.jsonl"))
    return ReportedRun(directory, settings, log, measured_out_of_fold([directory]))
