import math

import pytest
import torch

from foveal.uncertainty.volumes import volume_of_passes


def test_interval_of_three_passes_is_where_a_fourth_would_lie():
    found = volume_of_passes([8.0, 10.0, 12.0])
    assert (found.mean_ml, found.deviation_ml) == (10.0, 2.0)
    # Student's t of two degrees of freedom leaves 2.5 % above 4.3027.
    reach = 4.3027 * 2.0 * math.sqrt(4 / 3)
    assert found.interval_ml == pytest.approx((10 - reach, 10 + reach), abs=1e-3)


def test_one_pass_says_nothing_of_its_uncertainty():
    found = volume_of_passes([7.5])
    assert (found.mean_ml, found.deviation_ml, found.interval_ml) == (7.5, None, None)


def test_equal_passes_are_sure_and_no_volume_is_negative():
    assert volume_of_passes([3.0, 3.0]).interval_ml == (3.0, 3.0)
    low, high = volume_of_passes([0.0, 1.0]).interval_ml
    assert low == 0.0
    assert high > 1.0


def test_the_interval_holds_one_more_pass_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(4)
    volumes = 50 + 3 * torch.randn(1500, 5, generator=generator)
    inside = 0
    for *passes, further in volumes.tolist():
        low, high = volume_of_passes(passes).interval_ml
        inside += low <= further <= high
    assert inside / 1500 == pytest.approx(0.95, abs=0.02)
