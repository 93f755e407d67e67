"""Factors in the course of a run."""

import pytest

from foveal.methods.interface import Clock
from foveal.methods.ramps import rise


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.0), (10, 0.25), (20, 0.5), (40, 1.0), (99, 1.0)]
)
def test_the_rise_is_a_straight_line_and_then_level(step: int, factor: float) -> None:
    assert rise(Clock(step, 100, seed=0, rank=0), 0.4) == pytest.approx(factor)


def test_no_share_of_the_run_means_all_of_it_from_the_first_step() -> None:
    assert rise(Clock(0, 100, seed=0, rank=0), 0.0) == 1.0
