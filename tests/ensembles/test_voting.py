import itertools

import numpy as np
import pytest
import torch

from foveal.ensembles.votes import gather_votes
from foveal.ensembles.voting import majority_vote, votes, weighted_vote
from foveal.errors import GeometryError, SettingsError


def row(*labels):
    return np.array(labels, np.int32).reshape(-1, 1, 1)


def listed(label_map):
    return label_map.ravel().tolist()


@pytest.fixture
def random_maps():
    generator = np.random.default_rng(0)
    return [generator.choice([0, 3, 7, 300], (6, 5, 4)) for _ in range(4)]


def test_label_that_most_say_wins():
    fused = majority_vote([row(0, 4, 4, 9), row(0, 4, 9, 9), row(4, 0, 9, 9)])
    assert listed(fused) == [0, 4, 9, 9]


def test_plurality_is_enough():
    maps = [row(1), row(1), row(2), row(3), row(0)]
    assert listed(majority_vote(maps)) == [1]


def test_tie_with_background_is_background():
    assert listed(majority_vote([row(5, 5, 0), row(5, 0, 5)])) == [5, 0, 0]


def test_tie_of_labels_goes_to_the_one_with_more_votes_in_the_volume():
    # 2 has five votes and 1 has three; at the last voxel both have one.
    fused = majority_vote([row(2, 2, 1, 1), row(2, 2, 1, 2)])
    assert listed(fused) == [2, 2, 1, 2]


def test_tie_of_labels_that_are_as_large_goes_to_the_smaller_value():
    assert listed(majority_vote([row(8, 6), row(6, 8)])) == [6, 6]


def test_weights_overrule_a_majority():
    maps = [row(1), row(0), row(0)]
    assert listed(weighted_vote(maps, [0.9, 0.4, 0.4])) == [1]
    assert listed(weighted_vote(maps, [0.9, 0.5, 0.5])) == [0]


def test_threshold_of_a_weighted_vote_is_half_the_sum_of_weights():
    # Three validated Dice of 0.83, 0.85 and 0.80: two of three suffice.
    maps = [row(1, 1, 0, 1), row(1, 0, 1, 0), row(0, 1, 1, 0)]
    assert listed(weighted_vote(maps, [0.83, 0.85, 0.80])) == [1, 1, 1, 0]


def test_weights_differ_by_structure():
    maps = [row(1, 2), row(2, 1)]
    weights = [{1: 0.9, 2: 0.4}, {1: 0.5, 2: 0.6}]
    # 0.9 for 1 against 0.6 for 2; then 0.4 for 2 against 0.5 for 1.
    assert listed(weighted_vote(maps, weights)) == [1, 1]


def test_vote_for_background_weighs_the_mean_of_a_members_structures():
    weights = [{1: 0.9, 2: 0.1}, {1: 0.4, 2: 0.4}]
    # Background of the first weighs 0.5 against 0.4, of the second 0.4 against 0.9.
    assert listed(weighted_vote([row(0, 1), row(1, 0)], weights)) == [0, 1]


def test_equal_weights_are_the_majority_vote(random_maps):
    weighted = weighted_vote(random_maps, [0.7] * 4)
    assert np.array_equal(weighted, majority_vote(random_maps))


def test_order_of_members_changes_nothing(random_maps):
    weights = [0.1, 0.2, 0.3, 0.7]
    majority, weighted = majority_vote(random_maps), weighted_vote(random_maps, weights)
    for order in itertools.permutations(range(4)):
        maps = [random_maps[member] for member in order]
        assert np.array_equal(majority_vote(maps), majority)
        own = [weights[member] for member in order]
        assert np.array_equal(weighted_vote(maps, own), weighted)


def test_sums_that_only_rounding_tells_apart_are_a_tie():
    # 0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in floating numbers.
    maps = [row(1), row(1), row(1), row(0)]
    assert listed(weighted_vote(maps, [0.1, 0.2, 0.3, 0.6])) == [0]
    assert listed(weighted_vote(maps, [0.3, 0.2, 0.1, 0.6])) == [0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_identical_members_give_what_they_say(random_maps, count):
    fused = majority_vote([random_maps[0]] * count)
    assert np.array_equal(fused, random_maps[0])
    assert fused.dtype == np.int16


def test_empty_masks_give_an_empty_mask():
    fused = majority_vote([np.zeros((2, 3, 4), bool)] * 3)
    assert fused.shape == (2, 3, 4)
    assert not fused.any()


def test_votes_of_any_memory_order_and_negative_labels_are_counted():
    label_map = np.arange(-3, 21).reshape(2, 3, 4)
    fused = majority_vote([label_map, np.asfortranarray(label_map), label_map * 0])
    assert np.array_equal(fused, label_map)


def test_combinations_cover_every_voxel_once(random_maps):
    gathered = gather_votes(random_maps)
    assert gathered.labels == (0, 3, 7, 300)
    assert gathered.counts.sum() == 120
    assert (gathered.counts > 0).all()
    for member, label_map in enumerate(random_maps):
        said = np.array(gathered.labels)[gathered.combinations[:, member]]
        assert np.array_equal(said[gathered.combination_map], label_map)
    assert gathered.voxels[2].tolist() == [
        np.count_nonzero(random_maps[2] == label) for label in gathered.labels
    ]


def test_agreement_of_members_is_dice():
    gathered = gather_votes([row(1, 1, 0, 0), row(1, 0, 0, 0), row(0, 0, 0, 2)])
    decided = np.zeros(len(gathered.counts), np.intp)
    decided[gathered.combination_map[0, 0, 0]] = 1
    dice = gathered.dice(decided)
    assert dice[:, 1].tolist() == pytest.approx([2 / 3, 1, 0])
    assert np.isnan(dice[:2, 2]).all()
    assert dice[2, 2] == 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 0.0], "member 2 has weight 0, so it would change nothing; leave it out"),
        ([1.0, -1.0], "member 2 has weight -1; weights must be above 0 and finite"),
        ([float("nan"), 1.0], "member 1 has weight nan"),
        ([1.0], "1 weights are given for 2 members"),
        ([1.0, {5: 1.0}], r"member 2 has no weight for the labels \[4\] that occur"),
        ([1.0, {4: 0.0}], "label 4 of member 2 has weight 0"),
    ],
)
def test_weights_that_are_no_votes_are_refused(weights, message):
    with pytest.raises(SettingsError, match=message):
        weighted_vote([row(4), row(0)], weights)


def test_label_maps_of_other_shapes_are_refused():
    with pytest.raises(GeometryError, match=r"2.1.1 and 3.1.1 voxels cannot be fused"):
        majority_vote([row(1, 1), row(1, 1, 1)])
    with pytest.raises(ValueError, match="no label map"):
        majority_vote([])


def test_mean_of_votes_is_the_share_of_each_class():
    maps = [torch.tensor(labels).reshape(-1, 1, 1) for labels in ([0, 2], [2, 2])]
    rows = torch.stack([votes(label_map, 3) for label_map in maps]).mean(dim=0)
    assert rows.dtype == torch.float32
    assert rows[:, :, 0, 0].T.tolist() == [[0.5, 0, 0.5], [0, 0, 1]]
