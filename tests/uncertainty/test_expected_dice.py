import itertools

import pytest
import torch

from foveal.uncertainty.expected_dice import ExpectedDice


def expected_dice(probabilities, masks):
    # Voxels so small that all are near one another.
    sums = ExpectedDice(len(probabilities), (0.1, 0.1, 0.1))
    sums.add(probabilities, masks)
    return sums.values()


def by_every_truth(probabilities, mask):
    """Exact expectation of Dice over all masks of independent voxels."""
    total = 0.0
    for truth in itertools.product([0, 1], repeat=len(probabilities)):
        chance, shared = 1.0, 0
        for p, is_there, decided in zip(probabilities, truth, mask, strict=True):
            chance *= p if is_there else 1 - p
            shared += is_there and decided
        total += chance * 2 * shared / (sum(mask) + sum(truth))
    return total


def test_expected_dice_by_hand():
    probabilities = torch.tensor([0.9, 0.6, 0.3, 0.0]).reshape(1, 1, 2, 2)
    (found,) = expected_dice(probabilities, probabilities > 0.5)
    assert found == pytest.approx(2 * 1.5 / (2 + 1.8))


def test_sure_masks_are_expected_to_be_perfect_and_wrong_ones_to_be_worthless():
    sure = torch.zeros(1, 3, 3, 3)
    sure[0, 1] = 1
    assert expected_dice(sure, sure > 0.5) == [1.0]
    assert expected_dice(sure, sure < 0.5) == [0.0]


def test_an_empty_mask_has_no_expected_dice():
    unsure = torch.full((2, 2, 2, 2), 0.4)
    masks = torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    masks[1, 0, 0, 0] = True
    empty, single = expected_dice(unsure, masks)
    assert empty is None
    assert single == pytest.approx(2 * 0.4 / (1 + 8 * 0.4))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_close_to_the_exact_expectation_over_independent_voxels(seed):
    generator = torch.Generator().manual_seed(seed)
    # As at a border: some sure, some not.
    values = torch.rand(9, generator=generator).mul(6).sub(3).sigmoid()
    mask = (values > 0.5).tolist()
    probabilities = values.reshape(1, 3, 3, 1)
    (found,) = expected_dice(probabilities, probabilities > 0.5)
    assert found == pytest.approx(by_every_truth(values.tolist(), mask), abs=0.03)


def test_blocks_of_rows_add_up():
    probabilities = torch.rand(3, 7, 4, 5, generator=torch.Generator().manual_seed(5))
    masks = probabilities > 0.6
    sums = ExpectedDice(3, (0.1, 0.1, 0.1))
    for block, mask in zip(
        probabilities.split(3, dim=1), masks.split(3, dim=1), strict=True
    ):
        sums.add(block, mask)
    assert sums.values() == pytest.approx(expected_dice(probabilities, masks))


def ball(length, far):
    """Probabilities of a ball in a cube of air that is almost surely air."""
    axis = torch.arange(length) - length // 2
    squares = axis.square().float()
    radius = (squares[:, None, None] + squares[:, None] + squares).sqrt()
    return torch.clamp(4 - radius, far, 6).sigmoid()[None]


def test_air_far_away_counts_nothing_however_much_there_is():
    found = []
    for length in (31, 61):
        sums = ExpectedDice(1, (1.0, 1.0, 1.0))
        probabilities = ball(length, -5.0)
        sums.add(probabilities, probabilities > 0.5)
        found += sums.values()
    assert found[0] == pytest.approx(found[1], abs=0.02)
    assert 0.5 < found[0] < 0.9


def test_near_is_a_cell_beside_one_with_foreground():
    # Cells of 5, 2 and 1 voxels.
    probabilities = torch.rand(2, 23, 9, 7, generator=torch.Generator().manual_seed(5))
    masks = torch.zeros(2, 23, 9, 7, dtype=torch.bool)
    masks[0, 9, 4, 3] = True
    sums = ExpectedDice(2, (1.0, 2.5, 5.0))
    for rows in (slice(0, 4), slice(4, 21), slice(21, 23)):
        sums.add(probabilities[:, rows], masks[:, rows])
    near = probabilities[0, 0:15, 2:8, 2:5].sum()
    assert sums.values() == [
        pytest.approx(float(2 * probabilities[0, 9, 4, 3] / (1 + near))),
        None,
    ]
