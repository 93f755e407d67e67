"""Scores of a classifier, by hand."""

import numpy as np
import pytest

from foveal.metrics.presence import pooled_presence, presence_scores


def test_scores_by_hand():
    logits = np.array([2.0, -1.0, 0.5, -3.0, -1.0])
    present = np.array([True, True, False, False, False])
    scores = presence_scores(logits, present)
    assert (scores.images, scores.showing) == (5, 2)
    assert scores.sensitivity == 0.5
    assert scores.specificity == pytest.approx(2 / 3)
    assert scores.balanced_accuracy == pytest.approx((0.5 + 2 / 3) / 2)
    # 2.0 beats all three; -1.0 beats -3.0 and ties with -1.0.
    assert scores.area_under_roc == pytest.approx((3 + 1.5) / 6)


@pytest.mark.parametrize("shown", [True, False])
def test_without_one_kind_of_image_there_is_no_score(shown):
    scores = presence_scores(np.array([1.0, -1.0]), np.array([shown, shown]))
    assert scores.balanced_accuracy is None
    assert scores.area_under_roc is None
    assert (scores.sensitivity is None) == (not shown)


def test_no_images_at_all():
    scores = presence_scores(np.array([]), np.array([], bool))
    assert scores.images == 0
    assert scores.balanced_accuracy is None


def test_scores_of_several_classifiers_are_those_of_all_their_images():
    logits, present = (
        np.array([2.0, -1.0, 3.0, -2.0, 1.0]),
        np.array([1, 1, 0, 0, 0], bool),
    )
    whole = presence_scores(logits, present)
    parts = [
        {"ball": presence_scores(logits[part], present[part])}
        for part in (slice(0, 3), slice(3, 5))
    ]
    pooled = pooled_presence(parts)["ball"]
    assert pooled.area_under_roc is None
    assert (pooled.images, pooled.showing) == (5, 2)
    assert pooled.sensitivity == pytest.approx(whole.sensitivity)
    assert pooled.specificity == pytest.approx(whole.specificity)
