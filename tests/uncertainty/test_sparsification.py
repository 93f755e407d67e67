import numpy as np
import pytest

from foveal.uncertainty.sparsification import sparsification

ERROR = np.array([0, 1, 0, 0, 1, 0, 0, 0, 0, 0])


def test_curves_by_hand():
    uncertainty = np.array([0.1, 0.9, 0.8, 0.2, 0.7, 0.3, 0.4, 0.5, 0.6, 0.0])
    found = sparsification(uncertainty, ERROR, num_shares=5)
    assert found.removed.tolist() == [0.0, 0.2, 0.4, 0.6, 0.8]
    # The first two removed are an error and a right voxel, then comes the other error.
    assert found.by_uncertainty.tolist() == pytest.approx([0.2, 1 / 8, 0, 0, 0])
    assert found.by_oracle.tolist() == pytest.approx([0.2, 0, 0, 0, 0])
    assert found.random == 0.2
    assert found.ause == pytest.approx((1 / 8) / 5 / 0.2)
    assert found.gain == pytest.approx((0.2 - 0.065) / (0.2 - 0.04))


def test_uncertainty_that_is_the_error_is_as_good_as_the_oracle():
    found = sparsification(ERROR * 3.0, ERROR)
    assert found.ause == 0.0
    assert found.gain == 1.0


def test_uncertainty_that_says_nothing_leaves_the_error_as_it_is():
    found = sparsification(np.zeros(10), ERROR)
    assert found.by_uncertainty == pytest.approx(np.full(100, 0.2))
    assert found.gain == pytest.approx(0.0)


def test_without_errors_there_is_nothing_to_gain():
    found = sparsification(np.arange(10.0), np.zeros(10, bool))
    assert found.ause == 0.0
    assert found.gain is None


def test_the_order_of_voxels_does_not_matter_where_uncertainty_is_equal():
    uncertainty = np.array([0.5] * 5 + [0.1] * 5)
    shuffled = np.random.default_rng(0).permutation(5)
    error = ERROR.copy()
    error[:5] = error[:5][shuffled]
    one, other = (sparsification(uncertainty, each) for each in (ERROR, error))
    assert one.by_uncertainty == pytest.approx(other.by_uncertainty)
