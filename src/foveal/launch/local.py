"""Jobs as processes of this machine, a few at a time.

A process holds a lock on its log for as long as it lives, also when the program that
started it was killed; so the same job is never run twice at once.
"""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from foveal.errors import RunError
from foveal.launch.jobs import Ended, Job, JobWatcher

try:
    import fcntl
except ImportError:  # Windows has none: there nothing tells of an orphaned job.
    fcntl = None  # type: ignore[assignment]

LOOK_SECONDS = 0.1
"""Between two looks at the processes."""

PATIENCE_SECONDS = 10.0
"""For a process to end after it was asked to."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What numerical libraries look at when they are loaded."""


class LocalPool:
    """Runs jobs as processes, at most a number of them at once.

    Args:
        workers: That number.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(self, jobs: Sequence[Job], watcher: JobWatcher) -> list[Ended]:
        """Run every job to its end, see `foveal.launch.jobs.Launcher`."""
        waiting, running = deque(jobs), list[_Running]()
        ended: dict[str, Ended] = {}
        try:
            with _terminated_as_interrupted():
                while waiting or running:
                    while waiting and len(running) < self._workers:
                        job = waiting.popleft()
                        running.append(_started(job))
                        watcher.on_start(job)
                    for one in [each for each in running if each.has_ended]:
                        running.remove(one)
                        ended[one.job.name] = one.ended()
                        watcher.on_end(ended[one.job.name])
                    if running:
                        time.sleep(LOOK_SECONDS)
        finally:
            _end(running)
        return [ended[job.name] for job in jobs]


@dataclass(frozen=True, eq=False)
class _Running:
    """A job and its process."""

    job: Job
    process: subprocess.Popen[bytes]
    since: float

    log_before: int
    """Bytes of the log when it began."""

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def ended(self) -> Ended:
        """How it ended; to be asked of one that has."""
        status = self.process.wait()
        problem = ""
        if status:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            last = _last_words(self.job.log, self.log_before)
            problem = f"{how}: {last}" if last else how
        return Ended(self.job.name, problem, time.monotonic() - self.since)


def _started(job: Job) -> _Running:
    """Start a job as a process of its own session, which no key of a terminal reaches.

    Raises:
        RunError: The job is still running from an earlier call.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        _lock(job, log)
        before = log.tell()
        process = subprocess.Popen(  # noqa: S603 - Foveal's own command
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | dict.fromkeys(THREAD_VARIABLES, str(job.threads)),
            start_new_session=True,
        )
        return _Running(job, process, time.monotonic(), before)


def _lock(job: Job, log: IO[bytes]) -> None:
    """Lock a log; the process that inherits it keeps the lock until it ends."""
    if fcntl is None:
        return
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(
            f"{job.name} is still being worked on by an earlier call (its log is "
            f"{job.log}); wait until it has ended, or end that process"
        ) from None
    except OSError:
        return  # A network disk without locks.


def _end(running: Sequence[_Running]) -> None:
    """End processes, by force if they do not end by themselves."""
    for one in running:
        one.process.send_signal(signal.SIGINT)
    until = time.monotonic() + PATIENCE_SECONDS
    for one in running:
        try:
            one.process.wait(max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let a plain `kill` of this program end its jobs too, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_words(log: Path, start: int) -> str:
    """Last line that a job printed, from a byte of its log on."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
