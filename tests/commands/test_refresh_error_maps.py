"""Error maps refreshed by another process, as trainings start it, on small phantoms."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

import foveal
from foveal.cli.main import app
from foveal.commands import fit
from foveal.commands.fit import Watcher
from foveal.commands.refresh_error_maps import stored_cases, worker_command
from foveal.commands.train import train
from foveal.engine.log import read_log
from foveal.engine.run_directory import RunDirectory
from foveal.errors import RunError

OPTIONS = (
    "network.features=[2,4]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[16,16,16]",
    "patches.batch_size=2",
    "training.threads=1",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "training.checkpoint_every_seconds=0.001",
    "splits.folds=3",
    "sampling.adaptive=true",
    "error_maps.refresh=concurrent",
    "error_maps.every_steps=5",
)

NEEDS_KILL = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="this system has no kill -9"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "dataset"
    return write_ball_and_box_dataset(folder, shape=(16, 16, 16))


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return (*OPTIONS, f"store={tmp_path_factory.mktemp('store')}")


class KilledError(Exception):
    pass


def until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


def is_running(process):
    """Whether there is such a process that has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)],  # noqa: S607 - the system's own
        capture_output=True,
        text=True,
        check=False,
    )
    return not state.stdout.strip().startswith("Z")


def refresh_rows(out):
    return [row for row in read_log(out / "log.jsonl") if row["kind"] == "refresh"]


def workers(out):
    return [row["process"] for row in refresh_rows(out) if "process" in row]


def versions_of(rows):
    """Case to the versions that came into use, one after the other."""
    found = {}
    for row in rows:
        for name, told in row.get("cases", {}).items():
            found.setdefault(name, []).append(told["version"])
    return found


def maps_made(finished):
    """Training cases that were predicted so far; validation cases have no map."""
    lines = finished.read_text().splitlines()
    return sum('"training"' in line and '"dice"' in line for line in lines)


@pytest.mark.slow
@NEEDS_KILL
def test_training_goes_on_while_maps_are_made_the_worker_dies_and_it_is_resumed(
    dataset, options, tmp_path
):
    out = tmp_path / "run"
    finished = out / "error_maps" / "finished.jsonl"

    def stop_with_maps_of_all(now):
        if now.step == 6:
            # 4 cases to train on and 2 to validate.
            until(lambda: finished.read_text().count('"dice"') >= 6)
        if now.step == 7:
            raise KilledError

    with pytest.raises(KilledError):
        train(
            dataset,
            out,
            steps=16,
            options=options,
            watcher=Watcher(on_step=stop_with_maps_of_all),
        )
    rows = refresh_rows(out)
    assert rows[0]["worker"] == "started"
    first = versions_of(rows)
    assert len(first) == 4
    assert {version for of_case in first.values() for version in of_case} == {5}
    validated = [row for row in rows if row.get("validation_cases") == 2]
    assert set(validated[-1]["validation_dice"]) <= {"ball", "box"}
    assert all(0 <= dice <= 1 for dice in validated[-1]["validation_dice"].values())
    assert not is_running(workers(out)[0])

    notes = []
    killed = []
    predicted = []

    def kill_the_worker(now):
        notes.append(now.note)
        if now.step == 10:
            killed.append(workers(out)[-1])
            until(lambda: is_running(killed[0]))
            os.kill(killed[0], signal.SIGKILL)
            until(lambda: not is_running(killed[0]))
            predicted.append(maps_made(finished))
        if now.step == 11:
            time.sleep(1.1)  # longer than the pause before it is started again
        if now.step == 14:
            until(lambda: maps_made(finished) > predicted[0])

    train(dataset, out, resume=True, watcher=Watcher(on_step=kill_the_worker))
    log = read_log(out / "log.jsonl")
    steps = [row for row in log if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(16))
    assert any("signal 9" in note and "training goes on" in note for note in notes)
    assert len(set(workers(out))) == 3
    assert workers(out)[-2] == killed[0]
    after = versions_of(row for row in refresh_rows(out) if row["step"] > 11)
    assert after, "the new worker delivered nothing"
    for name, versions in versions_of(refresh_rows(out)).items():
        assert versions == sorted(versions), name
    # From the first step on the resumed run uses maps, none of them from the future.
    ages = {row["step"]: row.get("map_age_steps") for row in steps}
    assert all(ages[step] is not None for step in range(8, 16))
    assert all(0 <= age <= step for step, age in ages.items() if age is not None)
    assert not any(is_running(process) for process in workers(out))
    assert (out / "validation" / "metrics.json").exists()


@pytest.mark.slow
@NEEDS_KILL
def test_no_worker_outlives_a_training_that_was_killed(dataset, options, tmp_path):
    out = tmp_path / "run"
    words = [word for option in options for word in ("--set", option)]
    training = subprocess.Popen(
        [
            *(sys.executable, "-m", "foveal", "train", str(dataset)),
            *("--out", str(out), "--steps", "1000000", *words),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        (worker,) = until(lambda: workers(out))
        until(lambda: versions_of(refresh_rows(out)))
        assert is_running(worker)
    finally:
        training.kill()
        training.wait()
    until(lambda: not is_running(worker), seconds=10)


def test_worker_that_cannot_start_is_told_of_and_training_finishes(
    dataset, options, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    notes = []
    fails = [sys.executable, "-S", "-c", "print('no memory'); raise SystemExit(3)"]
    monkeypatch.setattr(fit, "worker_command", lambda *_: fails)

    def wait_for_the_note(now):
        notes.append(now.note)
        if now.step == 2:
            until(lambda: not is_running(workers(out)[0]))

    train(
        dataset,
        out,
        steps=6,
        options=options,
        watcher=Watcher(on_step=wait_for_the_note),
    )
    told = next(note for note in notes if note)
    assert "exit status 3: no memory" in told
    assert "training goes on" in told
    assert told in [row.get("note") for row in refresh_rows(out)]
    assert (out / "validation" / "metrics.json").exists()


def test_worker_does_not_run_python_files_of_the_current_folder(tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('the user file was run')")
    command = worker_command(RunDirectory(tmp_path), "cpu", 1, [])
    words = command[: command.index("refresh-error-maps") + 1]
    path = str(Path(foveal.__file__).parents[1])
    ended = subprocess.run(
        [*words, "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the user file was run" not in ended.stderr
    assert ended.returncode == 0


def test_people_are_not_bothered_with_the_workers_command():
    assert "refresh-error-maps" not in CliRunner().invoke(app, ["--help"]).output


def test_a_folder_without_the_list_of_cases_is_named(tmp_path):
    with pytest.raises(RunError, match=r"cases\.json is missing or damaged"):
        stored_cases(RunDirectory(tmp_path), "training")
