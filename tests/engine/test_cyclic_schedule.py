import pytest

from foveal.engine.schedules import cycle_ends, learning_rate_factor


def factors(total_steps, cycles):
    return [
        learning_rate_factor(
            step, total_steps, name="cyclic", cycles=cycles, warmup_steps=0
        )
        for step in range(total_steps)
    ]


def test_every_cycle_falls_along_a_cosine_and_begins_anew():
    one = [1.0, 0.8535533906, 0.5, 0.1464466094]

    assert factors(8, 2) == pytest.approx(one + one)


def test_cycles_that_do_not_divide_a_run_differ_by_a_step():
    assert cycle_ends(10, 4) == (2, 5, 7, 10)
    assert [step for step, one in enumerate(factors(10, 4)) if one == 1] == [0, 2, 5, 7]


def test_a_run_shorter_than_its_cycles_has_one_per_step():
    assert cycle_ends(3, 5) == (1, 2, 3)
