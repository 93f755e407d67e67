"""The learning rate over a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.engine.schedules import learning_rate_factor

NAMES = ("poly", "cosine", "constant")


def factor(step, total, name, power=0.9, warmup_steps=0):
    return learning_rate_factor(
        step, total, name=name, power=power, warmup_steps=warmup_steps
    )


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("poly", 0, 1.0),
        ("poly", 50, 0.5**0.9),
        ("poly", 99, 0.01**0.9),
        ("cosine", 0, 1.0),
        ("cosine", 50, 0.5),
        ("constant", 99, 1.0),
    ],
)
def test_values_by_hand(name, step, expected):
    assert factor(step, 100, name) == pytest.approx(expected)


def test_warm_up_rises_linearly():
    rising = [factor(step, 100, "constant", warmup_steps=3) for step in range(5)]
    assert rising == pytest.approx([0.25, 0.5, 0.75, 1, 1])


@pytest.mark.parametrize("name", NAMES)
@given(total=st.integers(1, 1000), warmup=st.integers(0, 50), data=st.data())
def test_factor_is_positive_and_at_most_one(name, total, warmup, data):
    step = data.draw(st.integers(0, total - 1))
    assert 0 < factor(step, total, name, warmup_steps=warmup) <= 1
