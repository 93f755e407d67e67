import math

import numpy as np
import pytest

from foveal.metrics.bootstrap import mean_interval


def test_interval_of_two_values_reaches_both():
    # The mean of two draws of {0, 1} is 0 or 1 with a chance of a quarter each.
    assert mean_interval([0.0, 1.0]) == (0.0, 1.0)


def test_interval_of_equal_values_is_that_value():
    assert mean_interval([0.7] * 9) == (pytest.approx(0.7), pytest.approx(0.7))


def test_interval_of_many_values_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = mean_interval(values.tolist())
    error = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - error, abs=0.01)
    assert high == pytest.approx(values.mean() + error, abs=0.01)


def test_same_values_give_the_same_interval_and_few_give_none():
    values = [0.1, 0.5, 0.2, 0.9]
    assert mean_interval(values) == mean_interval(values)
    assert all(math.isnan(bound) for bound in mean_interval([0.5]))
    assert all(math.isnan(bound) for bound in mean_interval([]))
