import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.errors import CaseError
from foveal.preprocessing.bias_field import BiasField, without_bias_field
from foveal.preprocessing.histogram_standardisation import Landmarks, standardise
from foveal.preprocessing.intensity import (
    Cutoffs,
    IntensityRecipe,
    normalise,
    robust_zscore,
    windowed,
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


@pytest.mark.parametrize(
    "normalisation", ["ct", "zscore", "robust_zscore", "percentiles", "unit", "none"]
)
def test_the_channel_itself_is_left_alone(normalisation):
    channel = volume([1, 2, 5])
    recipe = IntensityRecipe("a", normalisation, clip=(0, 3), mean=1, deviation=2)

    result = normalise(channel, recipe, None)
    result += 1

    assert channel.ravel().tolist() == [1, 2, 5]


def test_ct_of_the_dual_path_network_is_clipped_at_1000_and_divided_by_218():
    recipe = IntensityRecipe(
        "CT", "ct", clip=(-1000.0, 1000.0), mean=0.0, deviation=218.0
    )

    result = normalise(volume([-2000, -218, 0, 436, 3000]), recipe, None)

    expected = [-1000 / 218, -1, 0, 2, 1000 / 218]
    np.testing.assert_allclose(result.ravel(), expected, rtol=1e-6)


def test_percentile_cut_offs_leave_their_own_voxels_out_too():
    values = volume(range(101))

    result = zscore(values, None, Cutoffs(percentiles=(5.0, 95.0)))

    # 6 to 94 have a part: mean 50, deviation of 89 whole numbers.
    expected = (np.arange(101) - 50) / np.sqrt((89**2 - 1) / 12)
    np.testing.assert_allclose(result.ravel(), expected, rtol=1e-5)


def test_deviations_are_cut_off_below_and_above_the_mean_of_all():
    # Mean 2, deviation 4: 2 - 4 = -2 and 2 + 2 * 4 = 10 are the cut-offs.
    values = volume([0] * 4 + [10])

    with pytest.raises(CaseError, match="all 4 voxels that cutoffs leave are 0"):
        zscore(values, None, Cutoffs(deviations=(1.0, 1.5)))

    with_ten = zscore(values, None, Cutoffs(deviations=(1.0, 2.1)))
    np.testing.assert_allclose(with_ten.ravel(), [-0.5] * 4 + [2], rtol=1e-6)


def test_air_below_the_mean_of_the_whole_channel_is_cut_off():
    inside = np.array([False] * 4 + [True] * 4).reshape(1, 1, -1)
    # Mean 4.5 of all, 9 inside.
    values = volume([0, 0, 0, 0, 3, 9, 11, 13])

    result = zscore(values, inside, Cutoffs(below_mean=True))

    # 9, 11 and 13 are left: mean 11, variance 8/3.
    expected = (np.array([0, 0, 0, 0, 3, 9, 11, 13]) - 11) / np.sqrt(8 / 3)
    np.testing.assert_allclose(result.ravel(), expected, rtol=1e-6)


def test_a_voxel_must_pass_all_cut_offs():
    values = volume(range(101))
    cutoffs = Cutoffs(percentiles=(5.0, 95.0), deviations=(3.0, 1.0), below_mean=True)

    result = zscore(values, None, cutoffs)

    # Above the mean, 50, and below 50 + 29.155: 51 to 79.
    expected = (np.arange(101) - 65) / np.sqrt((29**2 - 1) / 12)
    np.testing.assert_allclose(result.ravel(), expected, rtol=1e-5)


def test_cut_offs_that_leave_nothing_are_refused_unless_nothing_differs():
    cutoffs = Cutoffs(percentiles=(5.0, 95.0))
    with pytest.raises(CaseError, match="none of the 4 inside lies between 1 and 2"):
        zscore(volume([1, 1, 2, 2]), None, cutoffs)
    assert not zscore(volume([3, 3, 3]), None, cutoffs).any()


def test_the_lowest_and_highest_2_percent_are_clipped():
    recipe = IntensityRecipe("MR", "percentiles")

    result = normalise(volume(range(101)), recipe, None)

    expected = np.clip((np.arange(101) - 2) / 96, 0, 1)
    np.testing.assert_allclose(result.ravel(), expected, atol=1e-6)
    assert result.min() == 0
    assert result.max() == 1


@pytest.mark.parametrize("normalisation", ["percentiles", "unit"])
def test_windows_are_of_the_mask_and_clip_all_voxels(normalisation):
    inside = np.array([False, True, True, True, False]).reshape(1, 1, -1)
    recipe = IntensityRecipe("MR", normalisation, percentiles=(0.0, 100.0))

    result = normalise(volume([-50, 2, 3, 6, 70]), recipe, inside)

    assert result.ravel().tolist() == [0, 0, 0.25, 1, 1]


def test_a_window_without_width_is_refused_unless_nothing_differs():
    with pytest.raises(CaseError, match=r"2 and 98 are 0, so .* 0 and 9; .* \"nonzero"):
        windowed(volume([0] * 50 + [9]), None, (2.0, 98.0))
    assert not windowed(volume([9] * 50), None, (2.0, 98.0)).any()


@pytest.mark.parametrize("normalisation", ["zscore", "robust_zscore", "unit"])
def test_a_channel_that_is_the_same_under_its_mask_becomes_zero(normalisation):
    inside = np.array([True] * 7 + [False]).reshape(1, 1, -1)
    recipe = IntensityRecipe("MR", normalisation)

    # The mean of several 0.1 is not quite 0.1.
    assert not normalise(volume([0.1] * 7 + [5]), recipe, inside).any()


def test_bias_field_comes_before_landmarks_and_these_before_normalisation():
    ramp = np.linspace(1, 2, 12, dtype=np.float32)
    channel = np.random.default_rng(0).uniform(50, 90, (12, 12, 12)) * ramp
    channel = channel.astype(np.float32)
    bias_field = BiasField(2, (10,))
    landmarks = Landmarks((1.0, 50.0, 99.0), (0.0, 20.0, 100.0))
    recipe = IntensityRecipe("MR", "zscore", bias_field=bias_field, landmarks=landmarks)

    result = normalise(channel, recipe, None)

    corrected = without_bias_field(channel, None, bias_field)
    expected = zscore(standardise(corrected, None, landmarks), None)
    np.testing.assert_array_equal(result, expected)
    assert not np.array_equal(expected, zscore(channel, None))


@pytest.mark.parametrize(
    "normalisation", ["zscore", "robust_zscore", "percentiles", "unit"]
)
def test_voxels_outside_the_mask_change_nothing_inside(normalisation):
    channel = np.random.default_rng(0).normal(100, 9, (6, 6, 6)).astype(np.float32)
    inside = channel > 95
    other = np.where(inside, channel, 1e6).astype(np.float32)
    recipe = IntensityRecipe("MR", normalisation)

    first, second = (normalise(one, recipe, inside) for one in (channel, other))

    np.testing.assert_array_equal(first[inside], second[inside])
