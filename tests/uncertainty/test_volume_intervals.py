import math

import pytest
import torch

from foveal.uncertainty.volumes import volume_of_draws


def test_interval_of_three_draws_is_where_a_fourth_would_lie():
    found = volume_of_draws([8.0, 10.0, 12.0])
    assert (found.mean_ml, found.deviation_ml) == pytest.approx((10.0, 2.0))
    # Student's t of two degrees of freedom leaves 2.5 % above 4.3027.
    reach = 4.3027 * 2.0 * math.sqrt(4 / 3)
    assert found.interval_ml == pytest.approx((10 - reach, 10 + reach), abs=1e-3)


def test_equal_draws_are_sure_and_no_volume_is_negative():
    assert volume_of_draws([3.0, 3.0]).interval_ml == (3.0, 3.0)
    low, high = volume_of_draws([0.0, 1.0]).interval_ml
    assert low == 0.0
    assert high > 1.0


def test_the_interval_holds_one_more_pass_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(4)
    volumes = 50 + 3 * torch.randn(1500, 5, generator=generator)
    inside = 0
    for *passes, further in volumes.tolist():
        low, high = volume_of_draws(passes).interval_ml
        inside += low <= further <= high
    assert inside / 1500 == pytest.approx(0.95, abs=0.02)


def test_draws_count_by_their_weights():
    found = volume_of_draws([8.0, 10.0, 12.0], [2.0, 1.0, 1.0])
    assert found.mean_ml == pytest.approx(9.5)
    # Weighted squares over one minus the sum of squared weights, 3 / 8.
    squares = (0.5 * 1.5**2 + 0.25 * 0.5**2 + 0.25 * 2.5**2) / (1 - 3 / 8)
    assert found.deviation_ml == pytest.approx(math.sqrt(squares))
    reach = 4.3027 * math.sqrt(squares * (1 + 3 / 8))
    assert found.interval_ml == pytest.approx(
        (max(9.5 - reach, 0), 9.5 + reach), abs=1e-3
    )
