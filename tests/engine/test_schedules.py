"""The learning rate over a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.engine.schedules import learning_rate_factor

NAMES = ("poly", "cosine", "constant")


def factor(step, total, name, power=0.9, warmup_steps=0, **options):
    return learning_rate_factor(
        step, total, name=name, power=power, warmup_steps=warmup_steps, **options
    )


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("poly", 0, 1.0),
        ("poly", 50, 0.535887),
        ("poly", 99, 0.01**0.9),
        ("cosine", 0, 1.0),
        ("cosine", 50, 0.5),
        ("constant", 99, 1.0),
        ("plateau", 99, 1.0),
    ],
)
def test_values_by_hand(name, step, expected):
    assert factor(step, 100, name) == pytest.approx(expected, rel=1e-6)


def test_poly_may_wait():
    found = [factor(step, 90, "poly", wait_fraction=1 / 3) for step in (0, 30, 60, 75)]
    assert found == pytest.approx([1.0, 1.0, 0.5**0.9, 0.25**0.9])


def test_poly_without_waiting_is_what_it_was_to_the_bit():
    for step in range(0, 997, 7):
        expected = (1 - step / 997) ** 0.9
        assert factor(step, 997, "poly", wait_fraction=0.0) == expected


def test_deepmedic_halves_five_times():
    """Its 35 epochs of 2,000 steps end with a rate of 1e-3 / 32 = 3.125e-5."""
    epochs = (17, 22, 27, 30, 33)
    of_shares = [epoch / 35 for epoch in epochs]
    of_steps = [2000 * epoch for epoch in epochs]
    for drop_at in (of_shares, of_steps):
        rates = [
            1e-3 * factor(step, 70000, "steps", drop_at=drop_at, drop_factor=0.5)
            for epoch in (0, *epochs)
            for step in (2000 * epoch - 1, 2000 * epoch)
            if step >= 0
        ]
        assert rates == pytest.approx(
            [1e-3, 1e-3] + [1e-3 / 2**n for n in (1, 1, 2, 2, 3, 3, 4, 4, 5)]
        )


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.9])
def test_shares_of_the_run_are_rounded_to_whole_steps(share):
    drop = round(share * 1000)
    found = [
        factor(step, 1000, "steps", drop_at=[share], drop_factor=0.1)
        for step in (drop - 1, drop)
    ]
    assert found == pytest.approx([1.0, 0.1])


def test_warm_up_rises_linearly():
    rising = [factor(step, 100, "constant", warmup_steps=3) for step in range(5)]
    assert rising == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_warm_up_from_a_part_of_the_rate():
    """Goyal et al. 2017: from lr / k to lr for k times as many patches at once."""
    rising = [
        factor(step, 100, "constant", warmup_steps=4, warmup_start_fraction=1 / 8)
        for step in range(6)
    ]
    assert rising == pytest.approx([0.125, 0.34375, 0.5625, 0.78125, 1, 1])


@pytest.mark.parametrize("name", NAMES)
@given(total=st.integers(1, 1000), warmup=st.integers(0, 50), data=st.data())
def test_factor_is_positive_and_at_most_one(name, total, warmup, data):
    step = data.draw(st.integers(0, total - 1))
    assert 0 < factor(step, total, name, warmup_steps=warmup) <= 1


@given(
    total=st.integers(1, 1000),
    wait=st.floats(0, 0.99),
    start=st.floats(0.01, 1),
    data=st.data(),
)
def test_waiting_and_a_warm_start_stay_within_bounds(total, wait, start, data):
    step = data.draw(st.integers(0, total - 1))
    found = factor(
        step,
        total,
        "poly",
        wait_fraction=wait,
        warmup_steps=7,
        warmup_start_fraction=start,
    )
    assert 0 < found <= 1
