"""How long error maps take to cover all cases, and when that is warned of."""

import pytest

from foveal.commands.refreshing import first_round_steps, long_first_round
from foveal.config.settings import Settings


def run_of(steps, *, one_case_per_batch=False, **error_maps):
    chosen = {"refresh": "fraction", "every_steps": 10, "cases_per_refresh": 2}
    return Settings(
        dataset="data",
        training={"steps": steps},
        sampling={"adaptive": True, "one_case_per_batch": one_case_per_batch},
        error_maps={**chosen, **error_maps},
    )


@pytest.mark.parametrize(("num_cases", "steps"), [(1, 10), (2, 10), (5, 30)])
def test_the_first_round_has_a_refresh_for_every_few_cases(num_cases, steps):
    assert first_round_steps(run_of(100), num_cases) == steps


def test_a_first_round_of_more_than_a_third_is_warned_of_with_what_helps():
    assert long_first_round(run_of(90), 5) == ""
    told = long_first_round(run_of(89), 5)
    assert told.startswith(
        "Warning: training has 89 steps, and the first round of error maps takes 30; "
        "until then a case without a map counts as wrong everywhere"
    )
    assert "sampling.one_case_per_batch=true all cases keep their chances" in told
    assert "A larger error_maps.refresh_fraction, or error_maps.refresh=epoch" in told


def test_what_does_not_apply_is_not_said():
    told = long_first_round(run_of(40, one_case_per_batch=True), 5)
    assert "chances" not in told
    assert "curriculum" not in told
    told = long_first_round(run_of(40, refresh="epoch", curriculum_steps=30), 5)
    assert "refresh_fraction" not in told
    assert "A smaller error_maps.every_steps" in told
    assert "The curriculum of 30 steps is over before it ends" in told
