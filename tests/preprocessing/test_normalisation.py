import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.preprocessing.intensity import (
    IntensityRecipe,
    normalise,
    robust_zscore,
    zscore,
)


def volume(values):
    return np.array(values, np.float32).reshape(1, 1, -1)


def test_ct_is_clipped_before_it_is_scaled():
    recipe = IntensityRecipe(
        "CT", "ct", clip=(-100.0, 200.0), mean=50.0, deviation=25.0
    )

    result = normalise(volume([-1000, -100, 50, 100, 3000]), recipe, None)

    assert result.ravel().tolist() == [-6, -6, 0, 2, 6]


def test_ct_without_constants_is_refused():
    with pytest.raises(ValueError, match="needs clip, mean and deviation"):
        normalise(volume([1, 2]), IntensityRecipe("CT", "ct"), None)


def test_zscore_takes_its_statistics_inside_and_changes_all_voxels():
    inside = np.array([True, True, False]).reshape(1, 1, 3)

    result = zscore(volume([2, 6, 10]), inside)

    # Inside: mean 4, standard deviation 2.
    assert result.ravel().tolist() == [-1, 1, 3]


def test_robust_zscore_uses_median_and_quartiles():
    result = robust_zscore(volume([0, 1, 2, 3, 1000]), None)

    # Quartiles 1 and 3, median 2.
    expected = (np.array([0, 1, 2, 3, 1000]) - 2) * 1.349 / 2
    np.testing.assert_allclose(result.ravel(), expected, rtol=1e-6)


def test_robust_zscore_of_a_normal_distribution_has_deviation_one():
    values = np.random.default_rng(0).normal(300, 40, size=(40, 40, 40))

    result = robust_zscore(values.astype(np.float32), None)

    assert result.std() == pytest.approx(1, abs=0.02)
    assert np.median(result) == pytest.approx(0, abs=1e-6)


def test_equal_quartiles_fall_back_to_the_standard_deviation():
    result = robust_zscore(volume([0] * 9 + [10]), None)

    # Median 0; mean 1, standard deviation 3.
    np.testing.assert_allclose(result.ravel(), [0] * 9 + [10 / 3], rtol=1e-6)


@pytest.mark.parametrize("function", [zscore, robust_zscore])
def test_a_constant_channel_becomes_zero(function):
    assert function(volume([7, 7, 7]), None).ravel().tolist() == [0, 0, 0]


@pytest.mark.parametrize("function", [zscore, robust_zscore])
@given(scale=st.floats(1e-2, 1e4), offset=st.floats(-100, 100))
def test_scale_and_offset_of_a_case_do_not_matter(function, scale, offset):
    values = np.random.default_rng(1).normal(0, 1, size=(6, 6, 6)).astype(np.float32)

    result = function((values * scale + offset * scale).astype(np.float32), None)

    np.testing.assert_allclose(result, function(values, None), atol=1e-3)


@pytest.mark.parametrize("normalisation", ["ct", "zscore", "robust_zscore", "none"])
def test_the_channel_itself_is_left_alone(normalisation):
    channel = volume([1, 2, 5])
    recipe = IntensityRecipe("a", normalisation, clip=(0, 3), mean=1, deviation=2)

    result = normalise(channel, recipe, None)
    result += 1

    assert channel.ravel().tolist() == [1, 2, 5]
