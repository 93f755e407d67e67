import numpy as np
import pytest

from foveal.ensembles.staple import MAX_STEPS, staple, staple_of
from foveal.ensembles.votes import gather_votes
from foveal.ensembles.voting import majority_vote

TRUTH = np.zeros((16, 16, 16), np.uint8)
TRUTH[3:11, 4:12, 4:13] = 1


def raters(*performances, seed=0):
    """Masks with errors of the given sensitivities and specificities."""
    generator = np.random.default_rng(seed)
    return [
        np.where(
            TRUTH == 1,
            generator.random(TRUTH.shape) < sensitivity,
            generator.random(TRUTH.shape) > specificity,
        ).astype(np.uint8)
        for sensitivity, specificity in performances
    ]


def test_performance_of_made_up_raters_is_found():
    made_up = ((0.95, 0.99), (0.8, 0.97), (0.6, 0.9), (0.9, 0.75))
    found = staple_of(gather_votes(raters(*made_up)))
    for number, (sensitivity, specificity) in enumerate(made_up):
        assert found.sensitivity[number, 1] == pytest.approx(sensitivity, abs=0.05)
        assert found.specificity[number, 1] == pytest.approx(specificity, abs=0.02)
        # What is no structure is background.
        assert found.sensitivity[number, 0] == pytest.approx(
            found.specificity[number, 1]
        )
    assert 0 < found.num_steps < MAX_STEPS


def test_a_good_rater_outvotes_two_bad_ones():
    masks = raters((0.99, 0.999), (0.65, 0.95), (0.65, 0.95))
    wrong_staple = np.count_nonzero(staple(masks) != TRUTH)
    wrong_majority = np.count_nonzero(majority_vote(masks) != TRUTH)
    assert wrong_staple < 0.2 * wrong_majority


def test_of_two_raters_what_both_say_stays_and_what_none_says_does_not_come():
    first, second = raters((0.9, 0.95), (0.8, 0.98))
    fused = staple([first, second])
    assert (fused[(first == 1) & (second == 1)] == 1).all()
    assert (fused[(first == 0) & (second == 0)] == 0).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_identical_raters_give_what_they_say(count):
    label_map = np.random.default_rng(1).choice([0, 4, 250], (5, 4, 3))
    found = staple_of(gather_votes([label_map] * count))
    assert np.array_equal(staple([label_map] * count), label_map)
    assert found.sensitivity == pytest.approx(1)
    assert found.specificity == pytest.approx(1)


def test_one_voxel_in_a_large_volume_that_a_single_rater_drew_stays():
    mask = np.zeros((60, 60, 60), bool)
    mask[3, 3, 3] = True
    assert staple([mask]).sum() == 1
    assert staple([mask, mask]).sum() == 1


def test_empty_masks_give_an_empty_mask_and_no_sensitivity():
    empty = np.zeros((3, 3, 3), bool)
    found = staple_of(gather_votes([empty] * 3))
    assert not staple([empty] * 3).any()
    assert found.specificity.shape == (3, 1)
    assert np.isnan(found.specificity).all()  # Background is everywhere.


def test_structure_that_one_rater_of_three_drew_is_left_out():
    empty = np.zeros_like(TRUTH)
    found = staple_of(gather_votes([TRUTH, empty, empty]))
    assert not staple([TRUTH, empty, empty]).any()
    assert found.specificity[0, 1] < 1
    assert found.specificity[1, 1] == 1


def test_labels_are_estimated_together():
    generator = np.random.default_rng(3)
    truth = generator.choice([0, 0, 0, 2, 9], (14, 14, 14))
    maps = []
    for wrong in (0.05, 0.3, 0.35):
        is_wrong = generator.random(truth.shape) < wrong
        maps.append(np.where(is_wrong, generator.choice([0, 2, 9], truth.shape), truth))
    found = staple_of(gather_votes(maps))
    wrong_staple = np.count_nonzero(staple(maps) != truth)
    assert wrong_staple < np.count_nonzero(majority_vote(maps) != truth)
    assert found.confusion.sum(axis=1) == pytest.approx(1)
    assert (found.sensitivity[0] > found.sensitivity[1:]).all()


def test_order_of_raters_changes_nothing():
    maps = raters((0.95, 0.99), (0.8, 0.97), (0.6, 0.9))
    maps[1][:, :, 12:] *= 7
    first = staple(maps)
    performance = staple_of(gather_votes(maps)).sensitivity
    for order in ((1, 2, 0), (2, 1, 0)):
        own = [maps[rater] for rater in order]
        assert np.array_equal(staple(own), first)
        found = staple_of(gather_votes(own)).sensitivity
        assert found == pytest.approx(performance[list(order)], abs=1e-6)
