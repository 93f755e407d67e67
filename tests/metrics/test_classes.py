"""Accuracies and intersections over all voxels, by hand and against a matrix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.metrics.classes import ClassCounts, class_scores


def counts_of(matrix):
    """Counts from a matrix p_ij of voxels of class i that are predicted as j."""
    return {
        str(i): ClassCounts(
            int(matrix[i].sum()), int(matrix[:, i].sum()), int(matrix[i, i])
        )
        for i in range(len(matrix))
    }


def test_scores_by_hand():
    scores = class_scores(counts_of(np.array([[6, 2], [1, 1]])))
    assert scores["pixel_accuracy"] == pytest.approx(7 / 10)
    assert scores["mean_accuracy"] == pytest.approx((6 / 8 + 1 / 2) / 2)
    assert scores["mean_iou"] == pytest.approx((6 / 9 + 1 / 4) / 2)
    assert scores["frequency_weighted_iou"] == pytest.approx(0.8 * 6 / 9 + 0.2 * 1 / 4)
    assert scores["mean_dice"] == pytest.approx((12 / 15 + 2 / 5) / 2)


def test_numbers_of_the_seed_agree_with_each_other():
    """Dice = 2 IoU / (1 + IoU): 0.39 and 0.99 give 0.56 and 0.99 (seed 004)."""
    for iou, dice in ((0.39, 0.5612), (0.46, 0.6301), (0.99, 0.9950)):
        agreed = 100_000
        others = round(agreed / iou) - agreed
        one = ClassCounts(agreed + others, agreed, agreed)
        scores = class_scores({"organ": one})
        assert scores["mean_iou"] == pytest.approx(iou, abs=1e-4)
        assert scores["mean_dice"] == pytest.approx(dice, abs=1e-4)


def test_a_class_that_is_nowhere_does_not_count():
    matrix = np.array([[5, 0, 1], [0, 0, 0], [2, 0, 2]])
    with_it = class_scores(counts_of(matrix))
    without = class_scores(counts_of(matrix[[0, 2]][:, [0, 2]]))
    assert with_it == without


@given(
    st.lists(
        st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=3
    )
)
def test_scores_equal_sums_over_the_matrix(rows):
    matrix = np.array(rows)
    if not matrix.sum():
        return
    scores = class_scores(counts_of(matrix))
    assert scores["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
    truth, told = matrix.sum(1), matrix.sum(0)
    iou = [
        matrix[i, i] / (truth[i] + told[i] - matrix[i, i])
        for i in range(3)
        if truth[i] + told[i]
    ]
    assert scores["mean_iou"] == pytest.approx(np.mean(iou))
