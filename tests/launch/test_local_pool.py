import signal
import sys
import time

import pytest

from foveal.errors import RunError
from foveal.launch.jobs import Job, JobWatcher
from foveal.launch.local import LocalPool


def job(folder, name, code, threads=1):
    # Without site packages the interpreter starts in a moment.
    command = (sys.executable, "-I", "-S", "-c", code)
    return Job(name, command, folder / "logs" / f"{name}.log", threads)


def test_a_job_that_fails_does_not_stop_the_others(tmp_path):
    jobs = [
        job(tmp_path, "one", "print('fine')"),
        job(tmp_path, "two", "print('why'); raise SystemExit(3)"),
        job(tmp_path, "three", "import os; os.kill(os.getpid(), 9)"),
        job(tmp_path, "four", "print('fine too')"),
    ]

    ended = LocalPool(2).run(jobs, JobWatcher())

    assert [one.name for one in ended] == ["one", "two", "three", "four"]
    problems = [one.problem for one in ended]
    assert problems == ["", "exit status 3: why", "signal 9", ""]
    assert (tmp_path / "logs" / "four.log").read_text() == "fine too\n"


def test_a_log_goes_on_where_it_was_and_only_new_words_are_told(tmp_path):
    LocalPool(1).run([job(tmp_path, "one", "print('first')")], JobWatcher())

    (ended,) = LocalPool(1).run(
        [job(tmp_path, "one", "raise SystemExit(1)")], JobWatcher()
    )

    assert ended.problem == "exit status 1"
    assert (tmp_path / "logs" / "one.log").read_text() == "first\n"


def test_no_more_jobs_run_at_once_than_there_are_workers(tmp_path):
    running, most = set(), []

    def on_start(one):
        running.add(one.name)
        most.append(len(running))

    watcher = JobWatcher(on_start, lambda ended: running.remove(ended.name))
    LocalPool(2).run([job(tmp_path, f"job {n}", "") for n in range(4)], watcher)

    assert max(most) == 2
    assert not running


def test_libraries_of_a_job_are_told_its_threads(tmp_path):
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"

    LocalPool(1).run([job(tmp_path, "one", code, threads=3)], JobWatcher())

    assert (tmp_path / "logs" / "one.log").read_text() == "3\n"


def test_a_stop_ends_the_jobs_that_run(tmp_path):
    def stop(_):
        time.sleep(0.1)
        signal.raise_signal(signal.SIGTERM)

    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "time.sleep(60)"
    )
    start = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        LocalPool(1).run([job(tmp_path, "long", code)], JobWatcher(stop))

    assert time.monotonic() - start < 5
    # Nothing holds the log any more.
    LocalPool(1).run([job(tmp_path, "long", "")], JobWatcher())


def test_a_job_that_still_runs_is_not_started_again(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    again = job(tmp_path, "one", "print('twice')")
    again.log.parent.mkdir()
    with again.log.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with pytest.raises(RunError, match="one is still being worked on"):
            LocalPool(1).run([again], JobWatcher())

    assert again.log.read_text() == ""
