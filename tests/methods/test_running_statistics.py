import pytest
import torch
from torch import nn

from foveal.methods.running_statistics import running_statistics


def network():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Dropout(0.5))
    made(torch.randn(4, 1, 3, 3, 3))
    return made


def buffers(made):
    return {name: buffer.clone() for name, buffer in made.named_buffers()}


def test_statistics_are_used_and_kept_while_gradients_flow():
    made, image = network(), torch.randn(2, 1, 3, 3, 3) + 5
    before = buffers(made)
    with running_statistics(made):
        normed = made[:2](image)
        assert made[2].training
    torch.testing.assert_close(normed, made[:2].eval()(image), rtol=0, atol=0)
    assert all(torch.equal(before[name], now) for name, now in buffers(made).items())
    normed.sum().backward()
    assert made[0].weight.grad.abs().sum() > 0


def test_norms_are_as_before_afterwards_even_if_it_fails():
    made = network()
    fixed = nn.BatchNorm3d(2).eval()

    def fail():
        with running_statistics(nn.ModuleList([made, fixed])):
            assert not made[1].training
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert made[1].training
    assert not fixed.training
