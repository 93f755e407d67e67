import math

import numpy as np
import pytest

from foveal.metrics.calibration import (
    ALL_CLASSES,
    case_calibration,
    class_calibration,
    near_foreground,
    structure_calibration,
    summed,
)

STRUCTURES = {"organ": (1,), "lesion": (2,)}


def volume(values):
    return np.array(values).reshape(len(values), 1, 1)


def test_measures_of_a_structure_by_hand():
    probabilities = np.array([0.1, 0.2, 0.3, 0.8, 0.9, 1.0])
    there = np.array([False, False, True, True, False, True])
    found = structure_calibration(probabilities, there, num_bins=2)
    assert found.voxels.tolist() == [3, 3]
    assert found.probabilities.tolist() == pytest.approx([0.6, 2.7])
    assert found.hits.tolist() == [1, 2]
    assert found.ece == pytest.approx((0.4 + 0.7) / 6)
    assert found.excess == pytest.approx((-0.4 + 0.7) / 6)
    squares = [0.01, 0.04, 0.49, 0.04, 0.81, 0]
    assert found.brier == pytest.approx(sum(squares) / 6)
    truths = [0.9, 0.8, 0.3, 0.8, 0.1, 1]
    assert found.nll == pytest.approx(-sum(map(math.log, truths)) / 6)


def test_measures_of_all_classes_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
    found = class_calibration(probabilities, np.array([0, 1, 0]), num_bins=10)
    assert found.hits.sum() == 2
    # Every voxel is alone in its bin: 0.7 right, 0.5 right, 0.6 wrong.
    assert found.ece == pytest.approx((0.3 + 0.5 + 0.6) / 3)
    first = 0.3**2 + 0.2**2 + 0.1**2
    second = 0.2**2 + 0.5**2 + 0.3**2
    third = 0.9**2 + 0.3**2 + 0.6**2
    assert found.brier == pytest.approx((first + second + third) / 3)
    assert found.nll == pytest.approx(-math.log(0.7 * 0.5 * 0.1) / 3)


def test_probabilities_that_mean_what_they_say_have_no_calibration_error():
    generator = np.random.default_rng(1)
    probabilities = generator.random(200_000)
    there = generator.random(200_000) < probabilities
    assert structure_calibration(probabilities, there).ece < 0.005
    too_sure = probabilities**2 / (probabilities**2 + (1 - probabilities) ** 2)
    assert structure_calibration(too_sure, there).ece > 0.08


def test_a_sure_error_costs_a_finite_number_of_nats():
    found = structure_calibration(np.array([0.0]), np.array([True]))
    assert found.nll == pytest.approx(6 * math.log(10))


def test_sums_of_parts_add_up_to_those_of_the_whole():
    generator = np.random.default_rng(2)
    probabilities = generator.dirichlet([1, 1, 1], size=(6, 4, 5)).transpose(3, 0, 1, 2)
    reference = generator.integers(0, 3, size=(6, 4, 5))
    whole = case_calibration(probabilities, reference, STRUCTURES)
    parts = summed(
        case_calibration(probabilities[:, rows], reference[rows], STRUCTURES)
        for rows in (slice(0, 2), slice(2, 6))
    )
    assert list(whole) == ["organ", "lesion", ALL_CLASSES]
    for name in whole:
        assert parts[name].ece == pytest.approx(whole[name].ece)
        assert parts[name].nll == pytest.approx(whole[name].nll)
        assert parts[name].num_voxels == 120


def test_unknown_voxels_and_those_that_do_not_count_are_left_out():
    probabilities = np.array([[0.6, 0.6, 0.6], [0.3, 0.3, 0.3], [0.1, 0.1, 0.1]])
    probabilities = probabilities.reshape(3, 3, 1, 1)
    found = case_calibration(
        probabilities,
        volume([0, 255, 1]),
        STRUCTURES,
        counted=volume([True, True, False]),
    )
    assert found["organ"].num_voxels == 1
    assert found["organ"].brier == pytest.approx(0.09)


def test_a_structure_that_was_not_annotated_does_not_count():
    probabilities = np.array([0.5, 0.3, 0.2]).reshape(3, 1, 1, 1)
    found = case_calibration(
        probabilities, volume([0]), STRUCTURES, annotated=(True, False)
    )
    assert set(found) == {"organ", ALL_CLASSES}
    # A lesion would look like background here, so background has 0.7.
    assert found[ALL_CLASSES].nll == pytest.approx(-math.log(0.7))
    assert found[ALL_CLASSES].brier == pytest.approx(0.3**2 + 0.3**2)


def test_without_a_voxel_nothing_is_defined():
    probabilities = np.array([0.5, 0.3, 0.2]).reshape(3, 1, 1, 1)
    found = case_calibration(probabilities, volume([255]), STRUCTURES)
    assert all(math.isnan(sums.ece) for sums in found.values())


def test_near_foreground_reaches_as_far_in_mm_along_every_axis():
    reference = np.zeros((9, 9, 9), np.uint8)
    reference[4, 4, 4] = 1
    reference[0, 0, 0] = 255
    near = near_foreground(reference, np.zeros_like(reference), (1.0, 2.0, 10.0), 3.0)
    expected = np.zeros_like(near)
    expected[1:8, 2:7, 3:6] = True
    assert (near == expected).all()
    nothing = np.zeros_like(reference)
    assert not near_foreground(nothing, nothing, (1.0, 1.0, 1.0), 3.0).any()
