"""When error maps are made anew, which, and what checkpoints keep of them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.engine.error_maps import ErrorMapFolder
from foveal.engine.refreshing import (
    SHORTEST_INTERVAL,
    PausedRefreshing,
    Rhythm,
    fraction_rhythm,
    refresh_curves,
    whose_turn,
)
from foveal.inference.errors import CaseErrors

NAMES = ["a", "b", "c", "d", "e"]
SHAPE = (3, 2, 2)


def folder(path):
    image = SimpleNamespace(path=path / "store" / "content" / "image.tiles")
    cases = {
        name: SimpleNamespace(name=name, shape=SHAPE, image=image) for name in NAMES
    }
    return ErrorMapFolder(path / "error_maps", cases)


def find_errors(network, _):
    return CaseErrors(np.full(SHAPE, network, np.uint8), network / 255, {"organ": None})


def refreshing(maps, every=10, cases=2, order="stalest"):
    return PausedRefreshing(maps, Rhythm(every, cases, order, 0), find_errors)


def on_disk(maps, name):
    return sorted(
        int(path.stem.removeprefix("step_"))
        for path in (maps.path / "cases" / name).glob("*.tiles")
    )


def test_stalest_are_those_without_a_map_then_the_oldest():
    rhythm = Rhythm(1, 3, "stalest", 0)
    assert whose_turn({}, NAMES, rhythm, 5) == ["a", "b", "c"]
    steps = {"a": 30, "b": 10, "d": 20, "e": 10}
    assert whose_turn(steps, NAMES, rhythm, 40) == ["c", "b", "e"]


def test_random_order_depends_on_seed_and_step_alone():
    def turn(seed, step, steps):
        return whose_turn(steps, NAMES, Rhythm(1, 3, "random", seed), step)

    first = turn(0, 10, {})
    assert first == turn(0, 10, {"a": 3, "b": 9})
    assert len(set(first)) == 3
    others = {tuple(turn(0, step, {})) for step in range(40)}
    assert len(others) > 20
    assert {name for turn_of in others for name in turn_of} == set(NAMES)
    assert others != {tuple(turn(1, step, {})) for step in range(40)}


def test_more_cases_than_there_are_means_all():
    for order in ("stalest", "random"):
        assert sorted(whose_turn({}, NAMES, Rhythm(1, 99, order, 0), 7)) == NAMES


seconds = st.floats(1e-3, 1e3)
fractions = st.floats(0.01, 0.9)
counts = st.integers(1, 500)


def share(steps, cases, step_seconds, case_seconds):
    pause = cases * case_seconds
    return pause / (steps * step_seconds + pause)


@given(fractions, seconds, seconds, counts)
def test_both_found_take_the_wanted_share_of_the_time(fraction, step, case, number):
    steps, cases = fraction_rhythm(
        fraction,
        step_seconds=step,
        case_seconds=case,
        num_cases=number,
        every_steps=None,
        cases_per_refresh=None,
    )
    assert 1 <= cases <= number
    # Steps are whole: one less would take more than the share.
    assert share(steps, cases, step, case) <= fraction * (1 + 1e-9)
    assert steps == 1 or share(steps - 1, cases, step, case) >= fraction * (1 - 1e-9)
    # Fewer steps between pauses only where there are too few cases for more.
    assert steps >= SHORTEST_INTERVAL or cases == number


@given(fractions, seconds, seconds, counts, counts)
def test_steps_follow_the_cases_that_a_person_names(
    fraction, step, case, number, wanted
):
    steps, cases = fraction_rhythm(
        fraction,
        step_seconds=step,
        case_seconds=case,
        num_cases=number,
        every_steps=None,
        cases_per_refresh=wanted,
    )
    assert cases == wanted
    predicted = min(wanted, number)
    assert share(steps, predicted, step, case) <= fraction * (1 + 1e-9)
    assert steps == 1 or share(steps - 1, predicted, step, case) >= fraction * (
        1 - 1e-9
    )


@given(fractions, seconds, seconds, counts, counts)
def test_cases_follow_the_steps_that_a_person_names(
    fraction, step, case, number, wanted
):
    steps, cases = fraction_rhythm(
        fraction,
        step_seconds=step,
        case_seconds=case,
        num_cases=number,
        every_steps=wanted,
        cases_per_refresh=None,
    )
    assert steps == wanted
    assert 1 <= cases <= number
    assert cases == 1 or share(steps, cases, step, case) <= fraction * (1 + 1e-9)
    more = share(steps, cases + 1, step, case)
    assert cases == number or more >= fraction * (1 - 1e-9)


def test_rhythm_by_hand():
    def found(**given):
        free = {"every_steps": None, "cases_per_refresh": None}
        return fraction_rhythm(
            0.1, step_seconds=0.5, case_seconds=1.0, num_cases=40, **(free | given)
        )

    # A case of 1 s is paid with 9 s of steps, 18 of them; 20 steps want two.
    assert found() == (36, 2)
    assert found(every_steps=100) == (100, 5)
    assert found(cases_per_refresh=3) == (54, 3)
    assert found(cases_per_refresh=40) == (*found(cases_per_refresh=41)[:1], 40)
    assert found(every_steps=7, cases_per_refresh=9) == (7, 9)


def test_pauses_are_every_so_many_steps(tmp_path):
    kept_fresh = refreshing(folder(tmp_path), every=10)
    assert [kept_fresh.next_pause(step) for step in (0, 9, 10, 25)] == [10, 10, 20, 30]


def test_nothing_is_due_at_the_start_between_pauses_or_twice(tmp_path):
    kept_fresh = refreshing(folder(tmp_path))
    assert kept_fresh.at_pause(0, lambda: 1) is None
    assert kept_fresh.at_pause(7, lambda: 1) is None
    assert kept_fresh.at_pause(10, lambda: 1) is not None
    # After running out of memory the loop comes here again.
    assert kept_fresh.at_pause(10, lambda: 1) is None


def test_refresh_writes_uses_and_tells_of_the_new_maps(tmp_path):
    maps = folder(tmp_path)
    kept_fresh = refreshing(maps)
    row = kept_fresh.at_pause(10, lambda: 51)
    assert row["cases"] == {
        name: {
            "mean_error": pytest.approx(0.2),
            "difficulty": pytest.approx(0.2),
            "dice": {"organ": None},
        }
        for name in ("a", "b")
    }
    assert row["seconds"] >= 0
    assert maps.steps == {"a": 10, "b": 10}
    kept_fresh.at_pause(20, lambda: 52)
    assert maps.steps == {"a": 10, "b": 10, "c": 20, "d": 20}
    kept_fresh.at_pause(30, lambda: 53)
    assert maps.steps == {"a": 30, "b": 10, "c": 20, "d": 20, "e": 30}
    whole = tuple(slice(0, length) for length in SHAPE)
    assert (maps.current("a").read(whole) == 53).all()


def test_state_comes_back(tmp_path):
    maps = folder(tmp_path)
    kept_fresh = refreshing(maps)
    kept_fresh.at_pause(10, lambda: 1)
    state = kept_fresh.state()
    assert state == {"versions": {"a": 10, "b": 10}, "refreshed_at": 10}
    kept_fresh.at_pause(20, lambda: 2)
    kept_fresh.at_pause(30, lambda: 3)

    again = folder(tmp_path)
    resumed = refreshing(again)
    resumed.restore(state)
    assert again.steps == {"a": 10, "b": 10}
    assert resumed.state() == state
    assert resumed.at_pause(10, lambda: 1) is None
    resumed.at_pause(20, lambda: 2)
    assert again.steps == {"a": 10, "b": 10, "c": 20, "d": 20}


def test_maps_of_the_last_two_checkpoints_stay_and_older_ones_go(tmp_path):
    maps = folder(tmp_path)
    kept_fresh = refreshing(maps, cases=5)
    for step in (10, 20, 30, 40, 50):
        kept_fresh.at_pause(step, lambda: 1)
        if step in (10, 20, 30):
            kept_fresh.saved(kept_fresh.state())
    # In the last checkpoint 30, in the one before it 20, in use 50.
    assert on_disk(maps, "a") == [20, 30, 50]


def test_states_that_no_checkpoint_holds_push_none_out(tmp_path):
    """Several processes exchange states at every pause."""
    maps = folder(tmp_path)
    kept_fresh = refreshing(maps, cases=5)
    for step in (10, 20):
        kept_fresh.at_pause(step, lambda: 1)
        kept_fresh.saved(kept_fresh.state())
    for step in (30, 40, 50):
        kept_fresh.at_pause(step, lambda: 1)
        kept_fresh.restore(kept_fresh.state())
    assert on_disk(maps, "a") == [10, 20, 50]


def test_resumed_run_keeps_what_the_previous_checkpoint_needs(tmp_path):
    maps = folder(tmp_path)
    kept_fresh = refreshing(maps, cases=5)
    for step in (10, 20):
        kept_fresh.at_pause(step, lambda: 1)
        kept_fresh.saved(kept_fresh.state())
    resumed = refreshing(folder(tmp_path), cases=5)
    resumed.restore(kept_fresh.state())
    resumed.at_pause(30, lambda: 1)
    resumed.at_pause(40, lambda: 1)
    assert on_disk(maps, "a") == [10, 20, 30, 40]
    # Its own two checkpoints are what counts from now on.
    resumed.saved(resumed.state())
    resumed.saved(resumed.state())
    resumed.at_pause(50, lambda: 1)
    assert on_disk(maps, "a") == [40, 50]


@given(st.integers(1, 50), st.integers(0, 500))
def test_next_pause_is_the_first_multiple_beyond(every, step):
    kept_fresh = PausedRefreshing(
        SimpleNamespace(cases=()), Rhythm(every, 1, "stalest", 0), find_errors
    )
    pause = kept_fresh.next_pause(step)
    assert pause > step
    assert pause - step <= every
    assert math.gcd(pause, every) == every


def test_curves_of_a_refresh_are_means_over_its_cases():
    cases = {
        "a": {"mean_error": 0.1, "difficulty": 0.2, "dice": {"x": 0.5, "y": None}},
        "b": {"mean_error": 0.3, "difficulty": 0.6, "dice": {"x": 1.0, "y": 0.25}},
    }
    assert refresh_curves({"cases": cases, "seconds": 3.0}) == {
        "seconds": 3.0,
        "mean_error": pytest.approx(0.2),
        "difficulty": pytest.approx(0.4),
        "dice": {"x": 0.75, "y": 0.25},
    }
    assert refresh_curves({"worker": "started", "process": 7, "starts": 1}) == {}
    row = {"cases": {}, "validation": {"v": {"version": 3}}, "validation_cases": 1}
    assert refresh_curves({**row, "validation_dice": {"x": 0.5}}) == {
        "validation_dice": {"x": 0.5}
    }
