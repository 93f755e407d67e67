import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foveal.errors import CaseError, DatasetError
from foveal.preprocessing.histogram_standardisation import (
    Landmarks,
    case_landmarks,
    learned_landmarks,
    standardise,
)

QUARTILES = (0.0, 25.0, 50.0, 75.0, 100.0)
DECILES = (1.0, *range(10, 100, 10), 99.0)


def volume(values):
    return np.array(values, np.float32).reshape(1, 1, -1)


def random_volume(seed, shape=(8, 9, 10)):
    """Skewed, as intensities of a brain are."""
    return np.random.default_rng(seed).gamma(2, 30, shape).astype(np.float32)


def test_percentiles_of_a_case_are_brought_to_a_scale_from_0_to_100():
    # Percentiles 10, 11, 14, 18, 20.
    found = case_landmarks(volume([10, 11, 14, 18, 20]), None, QUARTILES)

    assert found == (0, 10, 40, 80, 100)


def test_landmarks_are_the_mean_over_the_cases():
    landmarks = learned_landmarks(
        QUARTILES, [(0, 10, 40, 80, 100), (0, 30, 50, 60, 100)]
    )

    assert landmarks == Landmarks(QUARTILES, (0, 20, 45, 70, 100))


def test_lines_between_landmarks_go_on_beyond_them():
    inside = np.array([True] * 5 + [False] * 3).reshape(1, 1, -1)
    landmarks = Landmarks(QUARTILES, (0, 20, 40, 80, 100))
    channel = volume([10, 11, 14, 18, 20, 12.5, 9, 25])

    result = standardise(channel, inside, landmarks)

    # 12.5 is half the way from 11 to 14; 9 lies on the first line, of 20 per unit, and
    # 25 on the last, of 10 per unit.
    np.testing.assert_allclose(
        result.ravel(), [0, 20, 40, 80, 100, 30, -20, 150], rtol=1e-6
    )


def test_a_case_that_has_the_landmarks_stays_as_it_is():
    channel = random_volume(0)
    own = np.percentile(channel.astype(np.float64), DECILES)

    result = standardise(channel, None, Landmarks(DECILES, tuple(own.tolist())))

    np.testing.assert_allclose(result, channel, rtol=1e-5)


def test_standardising_what_is_standardised_changes_nothing():
    landmarks = learned_landmarks(
        DECILES, [case_landmarks(random_volume(n), None, DECILES) for n in range(3)]
    )

    once = standardise(random_volume(5), None, landmarks)

    # Between two voxels a percentile is interpolated, so it moves a little.
    np.testing.assert_allclose(standardise(once, None, landmarks), once, atol=0.05)
    found = np.percentile(once, DECILES)
    np.testing.assert_allclose(found, landmarks.values, atol=0.1)


@given(scale=st.floats(1e-2, 1e4), offset=st.floats(-100, 100))
def test_scale_and_offset_of_a_case_do_not_matter(scale, offset):
    landmarks = Landmarks(DECILES, tuple(float(n * n) for n in range(11)))
    channel = random_volume(1)

    result = standardise((channel + offset) * np.float32(scale), None, landmarks)

    np.testing.assert_allclose(result, standardise(channel, None, landmarks), atol=0.05)


@given(
    values=arrays(np.float32, (2, 3, 4), elements=st.floats(-1e4, 1e4, width=32)),
    steps=st.lists(st.floats(0.1, 50), min_size=4, max_size=4),
)
def test_no_voxel_becomes_brighter_than_one_that_was_brighter(values, steps):
    landmarks = Landmarks(QUARTILES, (0.0, *np.cumsum(steps).tolist()))

    result = standardise(values, None, landmarks)

    order = np.argsort(values, axis=None)
    assert np.isfinite(result).all()
    assert (np.diff(result.ravel()[order]) >= -1e-4).all()


def test_voxels_outside_change_nothing_inside():
    inside = np.zeros((8, 9, 10), np.bool_)
    inside[2:6, 2:6, 2:6] = True
    landmarks = Landmarks(DECILES, tuple(float(n * n) for n in range(11)))
    channel, other = random_volume(0), random_volume(0)
    other[~inside] = 1e6

    np.testing.assert_array_equal(
        standardise(channel, inside, landmarks)[inside],
        standardise(other, inside, landmarks)[inside],
    )
    assert case_landmarks(channel, inside, DECILES) == case_landmarks(
        other, inside, DECILES
    )


def test_percentiles_that_are_the_same_share_the_mean_of_their_landmarks():
    landmarks = Landmarks(QUARTILES, (0, 20, 40, 80, 100))

    # Percentiles 0, 0, 0, 4, 8.
    result = standardise(volume([0, 0, 0, 4, 8]), None, landmarks)

    assert result.ravel().tolist() == [20, 20, 20, 80, 100]


def test_a_constant_channel_becomes_zero():
    landmarks = Landmarks(QUARTILES, (0, 20, 40, 80, 100))

    assert not standardise(volume([7, 7, 7]), None, landmarks).any()


def test_a_case_that_is_air_at_all_percentiles_is_refused():
    channel = np.zeros((10, 10, 10), np.float32)
    channel[5, 5, :5] = 300

    with pytest.raises(CaseError, match=r"1 and 99 are both 0: .* such as air; give"):
        standardise(channel, None, Landmarks((1, 50, 99), (0, 20, 100)))


def test_a_training_case_without_a_histogram_is_refused():
    with pytest.raises(CaseError, match="percentiles 0 and 100 are both 7"):
        case_landmarks(volume([7, 7, 7]), None, QUARTILES)


def test_landmarks_that_are_the_same_in_every_case_are_refused():
    with pytest.raises(DatasetError, match=r"0 and 25 are the same in every .* masks"):
        learned_landmarks(QUARTILES, [(0, 0, 40, 80, 100), (0, 0, 10, 20, 100)])


def test_the_order_of_the_cases_does_not_matter():
    cases = [case_landmarks(random_volume(n), None, DECILES) for n in range(7)]

    assert learned_landmarks(DECILES, cases) == learned_landmarks(DECILES, cases[::-1])
