"""What a job is, and what anything that runs jobs has to do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Job:
    """A command line that can be given again if it was stopped."""

    name: str
    """Unlike all others."""

    command: tuple[str, ...]
    """Program and arguments, with absolute paths."""

    log: Path
    """Gets all that the command prints, after what is there."""

    threads: int
    """Processor threads that it is going to use."""


@dataclass(frozen=True)
class Ended:
    """A job that has ended, well or not."""

    name: str

    problem: str
    """Why it failed, in words; empty if it ended well."""

    seconds: float


@dataclass(frozen=True)
class JobWatcher:
    """Who is told of jobs."""

    on_start: Callable[[Job], None] = lambda _: None
    on_end: Callable[[Ended], None] = lambda _: None


class Launcher(Protocol):
    """Runs jobs: here, or wherever these commands and paths mean the same."""

    def run(self, jobs: Sequence[Job], watcher: JobWatcher) -> list[Ended]:
        """Run every job to its end; one that fails does not stop the others.

        Args:
            jobs: May be empty. They do not depend on one another.
            watcher: Told as jobs start and end.

        Returns:
            How they ended, in the order of the jobs.

        Raises:
            KeyboardInterrupt: A person stopped it; no job goes on.
            RunError: A job is still running from an earlier call.
        """
