"""A process beside the training that is started again whenever it ends.

Its standard input stays open for as long as the training lives, however that ends; so
whoever reads it to its end knows that nobody needs the work any more.
"""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from foveal.io.files import atomic_write_text

FIRST_PAUSE_SECONDS = 1.0
"""Before the process is started again; doubles with every death in a row."""

LONGEST_PAUSE_SECONDS = 300.0

PATIENCE_SECONDS = 3.0
"""For a process to end once its input has ended; while it is being loaded it cannot."""


class WorkerProcess:
    """Runs a command line, again and again.

    Args:
        command: Program and arguments.
        output: File that all it prints goes to; made anew with every start.
    """

    def __init__(self, command: Sequence[str], output: Path) -> None:
        self._command = list(command)
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._start_again_at = 0.0
        self.starts = 0

    @property
    def seconds_to_start(self) -> float:
        """Until it is started again."""
        return max(self._start_again_at - time.monotonic(), 0.0)

    @property
    def is_due(self) -> bool:
        """Whether it does not run, and its pause is over."""
        return self._process is None and self.seconds_to_start == 0

    def start(self) -> int:
        """Start it; gives the id of the process.

        Raises:
            OSError: The system cannot; it is tried again after a pause.
        """
        self.starts += 1
        try:
            atomic_write_text(self._output, "")
            with self._output.open("ab") as output:
                self._process = subprocess.Popen(  # noqa: S603 - Foveal's own command
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
        except OSError:
            self._pause()
            raise
        return self._process.pid

    def ended(self) -> str:
        """Why it has ended since the last look, in words; empty if it has not."""
        if self._process is None or (status := self._process.poll()) is None:
            return ""
        self._let_go(self._process)
        self._pause()
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"{how}: {last}" if (last := self._last_words()) else how

    def has_delivered(self) -> None:
        """It works, so the next pause is a short one again."""
        self._pause_seconds = FIRST_PAUSE_SECONDS

    def close(self) -> None:
        """End it, by force if it does not end by itself."""
        process = self._process
        if process is None:
            return
        self._let_go(process)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _pause(self) -> None:
        self._start_again_at = time.monotonic() + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)

    def _last_words(self) -> str:
        """Last line that it printed."""
        try:
            text = self._output.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return (text.strip().splitlines() or [""])[-1].strip()

    def _let_go(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None:
            raise AssertionError("the process was started with a pipe")
        process.stdin.close()
        self._process = None
