"""L1 and L2 as part of the loss."""

import torch
from torch import nn

from foveal.engine.penalties import WeightPenalty


def test_gradient_is_the_penalty_s_by_finite_differences():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(5, dtype=torch.float64))
    weight.grad = torch.zeros_like(weight)
    WeightPenalty([weight], l1=0.3, l2=0.7).add_gradients()

    def value(at):
        return 0.3 * at.abs().sum() + 0.7 * at.square().sum()

    for n in range(5):
        shift = torch.zeros(5, dtype=torch.float64)
        shift[n] = 1e-6
        at = weight.detach()
        slope = (value(at + shift) - value(at - shift)) / 2e-6
        assert abs(slope - weight.grad[n]) < 1e-8


def test_adds_to_the_gradient_there_is():
    weight = nn.Parameter(torch.tensor([2.0, 0.0, -1.0]))
    weight.grad = torch.tensor([1.0, 1.0, 1.0])
    WeightPenalty([weight], l1=0.5, l2=0.25).add_gradients()
    assert weight.grad.tolist() == [1 + 0.5 + 1, 1.0, 1 - 0.5 - 0.5]


def test_weights_without_a_gradient_get_none():
    weight = nn.Parameter(torch.ones(2))
    WeightPenalty([weight], l1=1.0, l2=1.0).add_gradients()
    assert weight.grad is None


def test_l2_is_half_of_coupled_weight_decay():
    ours, theirs = (nn.Parameter(torch.tensor([1.5, -0.5])) for _ in range(2))
    ours.grad, theirs.grad = torch.tensor([0.1, 0.2]), torch.tensor([0.1, 0.2])
    WeightPenalty([ours], l1=0.0, l2=1e-2).add_gradients()
    torch.optim.SGD([ours], lr=0.1).step()
    torch.optim.SGD([theirs], lr=0.1, weight_decay=2e-2).step()
    assert torch.allclose(ours, theirs)
