"""What a training does with the process that refreshes its error maps."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from foveal.engine import worker_process
from foveal.engine.concurrent_refreshing import (
    FINISHED_FILE,
    KEPT_STEPS,
    WEIGHTS_FILE,
    ConcurrentRefreshing,
)
from foveal.engine.error_map_worker import NewestWeights, Turns
from foveal.engine.error_maps import ErrorMapFolder
from foveal.engine.finished_cases import FinishedCase, FinishedCases
from foveal.errors import RunError
from foveal.geometry import Grid
from foveal.inference.errors import CaseErrors, mean_dice
from foveal.io.weights import read_weights
from foveal.store.store import Store

SHAPE = (4, 5, 6)
WHOLE = tuple(slice(0, length) for length in SHAPE)


@pytest.fixture
def maps(tmp_path):
    store = Store(tmp_path / "store")
    cases = {}
    for name in ("a", "b"):
        store.write(
            name,
            np.zeros((1, *SHAPE), np.float32),
            np.ones(SHAPE, np.uint8),
            Grid(SHAPE, np.eye(4)),
            num_classes=2,
            annotated=None,
        )
        cases[name] = store.open(name, name=name, patient=name)
    return ErrorMapFolder(tmp_path / "error_maps", cases, goes_on_without=True)


def predicted(maps, name, step, error=0):
    """What the worker does when it has predicted a case."""
    errors = CaseErrors(np.full(SHAPE, error, np.uint8), error / 255, {"ball": 0.5})
    maps.write(name, step, errors)
    FinishedCases(maps.path / FINISHED_FILE).append(
        FinishedCase("training", name, step, {"dice": {"ball": 0.5}}, 2.0)
    )


def worker(code):
    """A command line that stands for the worker's."""
    return [sys.executable, "-S", "-c", code]


SLEEPS = "import sys; sys.stdin.read()"


def network():
    return nn.Linear(2, 1).eval()


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


def test_new_maps_come_into_use_and_the_log_tells_their_versions(maps):
    refreshing = ConcurrentRefreshing(maps, 20, None)
    refreshing.at_pause(0, network)
    assert refreshing.after_step(1, network) == []
    predicted(maps, "a", 20, error=51)
    (row,) = refreshing.after_step(25, network)
    assert row["cases"] == {"a": {"version": 20, "dice": {"ball": 0.5}}}
    assert row["worker_seconds"] == 2.0
    assert "validation" not in row
    np.testing.assert_array_equal(maps.current("a").read(WHOLE), 51)
    assert maps.current("b") is None
    assert refreshing.after_step(26, network) == []


def test_dice_of_validation_cases_is_the_mean_over_the_newest_of_each(maps):
    refreshing = ConcurrentRefreshing(maps, 20, None)
    refreshing.at_pause(0, network)
    finished = FinishedCases(maps.path / FINISHED_FILE)
    dice = [("v", 20, 0.2), ("w", 20, 0.6), ("v", 40, 0.8)]
    for name, step, value in dice:
        finished.append(
            FinishedCase("validation", name, step, {"dice": {"ball": value}})
        )
    (row,) = refreshing.after_step(41, network)
    assert row["validation"]["v"] == {"version": 40, "dice": {"ball": 0.8}}
    assert row["validation_dice"] == pytest.approx({"ball": 0.7})
    assert row["validation_cases"] == 2
    assert mean_dice([{"ball": None, "box": 1.0}, {"ball": None}]) == {"box": 1.0}


def test_half_a_line_is_no_case_and_spoils_no_other(maps):
    refreshing = ConcurrentRefreshing(maps, 20, None)
    refreshing.at_pause(0, network)
    path = maps.path / FINISHED_FILE
    with path.open("a") as file:
        file.write('{"kind": "training", "case": "a", "st')
    assert refreshing.after_step(1, network) == []
    FinishedCases(path).end_broken_line()
    predicted(maps, "b", 20)
    (row,) = refreshing.after_step(21, network)
    assert list(row["cases"]) == ["b"]


def test_a_look_at_nothing_new_opens_no_file(maps, monkeypatch):
    refreshing = ConcurrentRefreshing(maps, 10**6, worker(SLEEPS))
    refreshing.at_pause(0, network)
    opened = []
    looked_at = []
    open_file, stat = Path.open, os.stat

    def noted_open(path, *arguments, **options):
        opened.append(path)
        return open_file(path, *arguments, **options)

    def noted_stat(path, **options):
        looked_at.append(path)
        return stat(path, **options)

    try:
        refreshing.after_step(1, network)
        monkeypatch.setattr(Path, "open", noted_open)
        monkeypatch.setattr(os, "stat", noted_stat)
        for step in range(2, 50):
            assert refreshing.after_step(step, network) == []
        assert opened == []
        assert looked_at == [maps.path / FINISHED_FILE] * 48
        predicted(maps, "a", 20)
        opened.clear()
        refreshing.after_step(50, network)
        assert maps.path / FINISHED_FILE in opened
    finally:
        refreshing.close()


def test_a_replaced_map_is_kept_for_batches_under_way_and_for_checkpoints(maps):
    refreshing = ConcurrentRefreshing(maps, 20, worker(SLEEPS))
    refreshing.at_pause(0, network)
    try:
        predicted(maps, "a", 20)
        predicted(maps, "b", 20)
        refreshing.after_step(21, network)
        assert refreshing.state() == {"versions": {"a": 20, "b": 20}}
        refreshing.saved(refreshing.state())
        for step in (40, 60, 80):
            predicted(maps, "a", step)
            refreshing.after_step(step + 1, network)
        assert maps.contains("a", 60)  # just replaced
        assert not maps.contains("a", 40)
        assert maps.contains("a", 20)  # of the last checkpoint
        for _ in range(2):
            refreshing.saved(refreshing.state())
        predicted(maps, "b", 100)
        refreshing.after_step(82 + KEPT_STEPS, network)
        assert not maps.contains("a", 20)
        assert not maps.contains("a", 60)
        assert maps.contains("a", 80)
    finally:
        refreshing.close()


def test_resumed_with_the_maps_of_the_checkpoint_as_far_as_they_are_there(maps):
    for step in (20, 40):
        predicted(maps, "a", step, error=step)
    refreshing = ConcurrentRefreshing(maps, 20, None)
    refreshing.restore({"versions": {"a": 20, "b": 20}})
    assert maps.steps == {"a": 20}
    np.testing.assert_array_equal(maps.current("a").read(WHOLE), 20)
    refreshing.at_pause(30, network)
    # The one of weights that are lost is not told of any more, nor the old ones.
    assert refreshing.after_step(31, network) == []
    (known,) = FinishedCases(maps.path / FINISHED_FILE).new()
    assert (known.case, known.step) == ("a", 20)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_a_byte_of_the_content(path):
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


def break_the_record(path):
    path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize("damage", [cut, turn_a_byte_of_the_content, break_the_record])
def test_a_damaged_map_costs_a_resumed_run_itself_only(maps, damage):
    for name in ("a", "b"):
        predicted(maps, name, 20, error=20)
    damage(maps.path / "cases" / "a" / "step_0000020.tiles")
    refreshing = ConcurrentRefreshing(maps, 20, None)
    refreshing.restore({"versions": {"a": 20, "b": 20}})
    refreshing.at_pause(30, network)
    if maps.current("a") is not None:
        # Only a reader finds it.
        assert (maps.current("a").read(WHOLE) == 255).all()
    assert maps.steps == {"b": 20}
    (row,) = refreshing.after_step(31, network)
    assert "step_0000020.tiles is missing, damaged" in row["note"]
    assert "case a counts as wrong everywhere until it is predicted" in row["note"]
    assert refreshing.after_step(32, network) == []
    predicted(maps, "a", 40, error=40)
    refreshing.after_step(41, network)
    np.testing.assert_array_equal(maps.current("a").read(WHOLE), 40)


def test_a_map_of_another_scan_still_stops_a_resumed_run(maps):
    predicted(maps, "a", 20)
    path = maps.path / "cases" / "a" / "step_0000020.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "content": "another"}))
    with pytest.raises(RunError, match="another scan or another plan"):
        ConcurrentRefreshing(maps, 20, None).restore({"versions": {"a": 20}})


def test_what_the_previous_checkpoint_needs_stays_until_two_more_are_saved(maps):
    for step in (20, 40, 60):
        predicted(maps, "a", step)
    refreshing = ConcurrentRefreshing(maps, 20, None)
    # The last checkpoint has 60; the previous, which is not known here, has 40.
    refreshing.restore({"versions": {"a": 60}})
    refreshing.at_pause(70, network)
    refreshing.saved(refreshing.state())
    assert maps.contains("a", 40)
    refreshing.saved(refreshing.state())
    assert not maps.contains("a", 20)
    assert not maps.contains("a", 40)
    assert maps.contains("a", 60)


def test_weights_are_handed_over_every_few_steps_and_when_resumed(maps):
    refreshing = ConcurrentRefreshing(maps, 20, worker(SLEEPS))
    path = maps.path / WEIGHTS_FILE
    maps.path.mkdir()
    path.write_text("of a run that was killed")
    refreshing.at_pause(0, network)
    assert not path.exists()
    made = network()
    try:
        refreshing.after_step(19, lambda: made)
        refreshing.after_step(20, lambda: made)
    finally:
        refreshing.close()
    tensors, texts = read_weights(path)
    assert texts == {"step": "20"}
    assert torch.equal(tensors["weight"], made.weight)
    received = network()
    weights = NewestWeights(path, received)
    assert weights.step(None) == 20
    assert torch.equal(received.weight, made.weight)
    assert weights.step(20) == 20
    resumed = ConcurrentRefreshing(maps, 20, worker(SLEEPS))
    resumed.at_pause(33, network)
    resumed.close()
    assert weights.step(20) == 33


def test_a_dead_worker_is_told_of_and_started_again_after_growing_pauses(
    maps, monkeypatch
):
    monkeypatch.setattr(worker_process, "FIRST_PAUSE_SECONDS", 0.05)
    code = "import sys; print('no such', 'device'); sys.exit(3)"
    refreshing = ConcurrentRefreshing(maps, 20, worker(code))
    refreshing.at_pause(0, network)
    rows = []
    times = []

    def has_started_thrice():
        for row in refreshing.after_step(1, network):
            rows.append(row)
            if row["worker"] == "started":
                times.append(time.monotonic())
        return len(times) == 4

    try:
        until(has_started_thrice)
    finally:
        refreshing.close()
    assert [row["starts"] for row in rows] == [1, 1, 2, 2, 3, 3, 4]
    assert "exit status 3: no such device" in rows[1]["note"]
    assert "training goes on" in rows[1]["note"]
    pauses = np.diff(times)
    assert pauses[0] >= 0.05
    assert pauses[1] >= 0.1
    assert pauses[2] >= 0.2


def test_a_command_that_is_none_is_told_of_and_no_error(maps):
    refreshing = ConcurrentRefreshing(maps, 20, ["/nowhere/python"])
    refreshing.at_pause(0, network)
    (row,) = refreshing.after_step(1, network)
    assert "cannot be started" in row["note"]
    assert refreshing.after_step(2, network) == []
    refreshing.close()


def test_a_damaged_map_is_told_of_and_the_older_one_stays(maps):
    refreshing = ConcurrentRefreshing(maps, 20, None)
    refreshing.at_pause(0, network)
    predicted(maps, "a", 20, error=20)
    refreshing.after_step(21, network)
    predicted(maps, "a", 40)
    path = maps.path / "cases" / "a" / "step_0000040.tiles"
    path.write_bytes(path.read_bytes()[:-3])
    (row,) = refreshing.after_step(41, network)
    assert "damaged; that of step 20 stays in use" in row["note"]
    assert maps.steps == {"a": 20}


def test_close_ends_the_worker(maps):
    refreshing = ConcurrentRefreshing(maps, 20, worker(SLEEPS))
    refreshing.at_pause(0, network)
    (row,) = refreshing.after_step(1, network)
    os.kill(row["process"], 0)
    refreshing.close()
    with pytest.raises(ProcessLookupError):
        os.kill(row["process"], 0)


def test_stalest_case_has_its_turn_and_the_kinds_are_mixed_at_first():
    turns = Turns(
        {"training": ["a", "b", "c", "d"], "validation": ["v", "w"]}, "stalest", 0
    )
    turns.add("training", "b", 20)
    order = []
    while turn := turns.next(40):
        order.append(turn[1])
        turns.add(*turn, 40)
    assert order == ["a", "v", "c", "w", "d", "b"]
    assert turns.next(60) == ("training", "a")


def test_random_order_is_of_the_seed_and_leaves_none_out():
    def order(seed):
        turns = Turns(
            {"training": list("abcdefgh"), "validation": ["v"]}, "random", seed
        )
        found = []
        while turn := turns.next(40):
            found.append(turn[1])
            turns.add(*turn, 40)
        return found

    assert sorted(order(1)) == list("abcdefghv")
    assert order(1) == order(1)
    assert order(1) != order(2)


def test_finished_cases_are_lines_of_json(maps):
    finished = FinishedCases(maps.path / FINISHED_FILE)
    assert finished.new() == []
    finished.begin({"a": 20})
    (line,) = Path(maps.path / FINISHED_FILE).read_text().splitlines()
    assert json.loads(line)["step"] == 20
