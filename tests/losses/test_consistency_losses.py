"""Sharpening, confidence, and how far two views are apart; values by hand."""

import math

import pytest
import torch

from foveal.losses.consistency import (
    divergence,
    is_confident,
    mean_over,
    sharpened,
    squared_difference,
)


def of_voxel(*probabilities):
    return torch.tensor(probabilities)[None, :, None]


@pytest.mark.parametrize("temperature", [0.01, 0.4, 1.0, 2.0])
def test_sharpening_divides_logits_by_the_temperature(temperature):
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = sharpened(logits.softmax(1), temperature)
    torch.testing.assert_close(
        found, (logits / temperature).softmax(1), rtol=1e-4, atol=1e-6
    )


def test_sharpening_keeps_impossible_classes_and_ties():
    found = sharpened(of_voxel(0.5, 0.5, 0.0), 0.001)
    assert found.flatten().tolist() == [0.5, 0.5, 0.0]


def test_divergence_by_hand():
    logits = of_voxel(0.25, 0.75).log()
    found = divergence(logits, of_voxel(0.5, 0.5))
    assert found.item() == pytest.approx(0.5 * math.log(0.5 / 0.25 * 0.5 / 0.75))
    certain = divergence(logits, of_voxel(0.0, 1.0))
    assert certain.item() == pytest.approx(-math.log(0.75))
    assert divergence(logits, of_voxel(0.25, 0.75)).item() == pytest.approx(0.0)


def test_divergence_falls_when_followed():
    logits = torch.zeros(1, 3, 1, requires_grad=True)
    target = of_voxel(0.1, 0.2, 0.7)
    divergence(logits, target).sum().backward()
    # Softmax minus target, as of cross entropy: the target's entropy is constant.
    torch.testing.assert_close(logits.grad, 1 / 3 - target)


def test_squared_difference_is_summed_over_classes():
    logits = of_voxel(0.25, 0.75).log()
    found = squared_difference(logits, of_voxel(1.0, 0.0))
    assert found.item() == pytest.approx(2 * 0.75**2)


def test_a_voxel_as_sure_as_the_threshold_is_confident():
    target = torch.tensor([[[0.75, 0.7], [0.25, 0.3]]])
    assert is_confident(target, 0.75).tolist() == [[True, False]]
    assert is_confident(target, 0.0).all()


def test_voxels_that_are_not_confident_count_as_zero_and_those_outside_not_at_all():
    values = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    inside = torch.tensor([[True, True, True, False]])
    confident = torch.tensor([[True, False, True, True]])
    assert mean_over(values, inside, confident).item() == pytest.approx(5 / 3)


def test_no_voxel_inside_or_confident_is_zero_with_a_gradient_of_zero():
    yes = torch.ones(1, 2, dtype=torch.bool)
    for inside, confident in ((~yes, yes), (yes, ~yes)):
        values = torch.ones(1, 2, requires_grad=True)
        mean = mean_over(values, inside, confident)
        mean.backward()
        assert mean.item() == 0.0
        assert values.grad.tolist() == [[0.0, 0.0]]
