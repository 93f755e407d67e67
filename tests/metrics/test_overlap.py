import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foveal.errors import GeometryError
from foveal.metrics.overlap import Overlap, count_overlap, dice

SHAPES = st.tuples(*[st.integers(1, 5)] * 3)
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def row_of_voxels(*indices, length=10):
    mask = np.zeros((length, 1, 1), dtype=bool)
    mask[list(indices)] = True
    return mask


def test_counts_and_fractions_by_hand():
    overlap = count_overlap(row_of_voxels(0, 1, 2), row_of_voxels(2, 3))
    assert overlap == Overlap(
        true_positives=1, false_positives=2, false_negatives=1, true_negatives=6
    )
    assert overlap.dice == pytest.approx(2 / 5)
    assert overlap.iou == pytest.approx(1 / 4)
    assert overlap.sensitivity == pytest.approx(1 / 2)
    assert overlap.specificity == pytest.approx(6 / 8)
    assert overlap.precision == pytest.approx(1 / 3)


def test_equal_masks_score_one():
    overlap = count_overlap(row_of_voxels(4, 5), row_of_voxels(4, 5))
    assert overlap.dice == overlap.iou == overlap.sensitivity == 1
    assert overlap.specificity == overlap.precision == 1


def test_two_empty_masks_have_only_a_specificity():
    overlap = count_overlap(row_of_voxels(), row_of_voxels())
    assert math.isnan(overlap.dice)
    assert math.isnan(overlap.iou)
    assert math.isnan(overlap.sensitivity)
    assert math.isnan(overlap.precision)
    assert overlap.specificity == 1


def test_missed_structure_scores_zero_and_has_no_precision():
    overlap = count_overlap(row_of_voxels(), row_of_voxels(3))
    assert overlap.dice == overlap.iou == overlap.sensitivity == 0
    assert math.isnan(overlap.precision)


def test_invented_structure_scores_zero_and_has_no_sensitivity():
    overlap = count_overlap(row_of_voxels(3), row_of_voxels())
    assert overlap.dice == overlap.iou == overlap.precision == 0
    assert math.isnan(overlap.sensitivity)
    assert overlap.specificity == pytest.approx(9 / 10)


def test_reference_that_fills_the_image_has_no_specificity():
    assert math.isnan(
        count_overlap(row_of_voxels(0), row_of_voxels(*range(10))).specificity
    )


def test_ignored_voxels_are_no_true_negatives():
    overlap = count_overlap(row_of_voxels(0, 1), row_of_voxels(0), num_ignored=4)
    assert overlap.true_negatives == 4
    assert overlap.specificity == pytest.approx(4 / 5)


def test_masks_of_different_shape_are_refused():
    with pytest.raises(GeometryError, match=r"\(10, 1, 1\).*\(9, 1, 1\)"):
        count_overlap(row_of_voxels(0), row_of_voxels(0, length=9))


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_counts_add_up_and_fractions_agree_with_each_other(masks):
    prediction, reference = masks
    overlap = count_overlap(prediction, reference)
    assert overlap.true_positives == np.sum(prediction & reference)
    assert overlap.false_positives == np.sum(prediction & ~reference)
    assert overlap.false_negatives == np.sum(~prediction & reference)
    assert overlap.true_negatives == np.sum(~prediction & ~reference)
    np.testing.assert_equal(overlap.dice, dice(prediction, reference))
    if prediction.any() or reference.any():
        assert overlap.dice == pytest.approx(2 * overlap.iou / (1 + overlap.iou))
    if overlap.true_positives:
        harmonic = 2 / (1 / overlap.precision + 1 / overlap.sensitivity)
        assert overlap.dice == pytest.approx(harmonic)
    swapped = count_overlap(reference, prediction)
    np.testing.assert_equal(swapped.dice, overlap.dice)
    np.testing.assert_equal(swapped.precision, overlap.sensitivity)
