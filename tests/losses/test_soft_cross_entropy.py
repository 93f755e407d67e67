"""Cross entropy with probabilities against the one with labels, and by hand."""

import math

import torch

from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.soft_cross_entropy import soft_cross_entropy

STRUCTURES = torch.eye(3, dtype=torch.bool)[1:]


def test_one_hot_probabilities_give_what_their_labels_give():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4)
    labels = torch.randint(0, 3, (2, 4, 4, 4), dtype=torch.uint8)
    soft = torch.nn.functional.one_hot(labels.long(), 3).movedim(-1, 1).float()
    labels[0, :2] = 255
    soft[0, :, :2] = 0
    expected = cross_entropy(
        logits, labels, torch.ones(2, 2, dtype=torch.bool), STRUCTURES
    )
    torch.testing.assert_close(soft_cross_entropy(logits, soft), expected)


def test_probabilities_are_brought_to_a_sum_of_one_where_half_is_known():
    logits = torch.zeros(1, 2, 1, 1, 3)
    logits[0, :, 0, 0, 0] = torch.tensor([0.0, math.log(3)])
    soft = torch.zeros(1, 2, 1, 1, 3)
    soft[0, :, 0, 0, 0] = torch.tensor([0.15, 0.45])
    soft[0, :, 0, 0, 1] = torch.tensor([0.2, 0.2])
    expected = -(0.25 * math.log(1 / 4) + 0.75 * math.log(3 / 4))
    assert math.isclose(soft_cross_entropy(logits, soft), expected, rel_tol=1e-6)


def test_loss_and_gradient_are_zero_where_nothing_is_known():
    logits = torch.randn(1, 2, 2, 2, 2, requires_grad=True)
    loss = soft_cross_entropy(logits, torch.zeros(1, 2, 2, 2, 2))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
