"""DeepMedic's RMSProp, step by step."""

import copy
import math

import pytest
import torch
from torch import nn

from foveal.engine.checkpoints import optimiser_tensors, restore_optimiser
from foveal.engine.rmsprop import NesterovRMSprop


def rmsprop(parameters, lr=0.1, momentum=0.6):
    return NesterovRMSprop(
        parameters, lr, squares_decay=0.9, momentum=momentum, epsilon=1e-4
    )


def step_with(optimiser, weight, gradient):
    weight.grad = torch.tensor([gradient], dtype=weight.dtype)
    optimiser.step()


def test_three_steps_by_hand():
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimiser = rmsprop([weight])

    step_with(optimiser, weight, 2.0)
    first = 0.1 * 2.0 / math.sqrt(0.4 + 1e-4)  # a = 0.1 * 4
    assert weight.item() == pytest.approx(1 - 0.6 * first - first)

    step_with(optimiser, weight, -1.0)
    second = 0.1 * -1.0 / math.sqrt(0.46 + 1e-4)  # a = 0.9 * 0.4 + 0.1
    velocity = 0.6 * -first - second
    expected = 1 - 1.6 * first + 0.6 * velocity - second
    assert weight.item() == pytest.approx(expected)

    step_with(optimiser, weight, 0.0)
    expected += 0.6 * 0.6 * velocity
    assert weight.item() == pytest.approx(expected)
    assert expected == pytest.approx(0.600929, rel=1e-5)


def test_epsilon_is_inside_the_root():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    step_with(rmsprop([weight], momentum=0.0), weight, 1e-6)
    # Outside it, the first step would be lr / sqrt(0.1) = 0.3 for any gradient.
    assert weight.item() == pytest.approx(-0.1 * 1e-6 / 1e-2, rel=1e-6)


def test_normalised_momentum_is_a_smaller_rate():
    weights = [nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2)]
    optimiser = rmsprop([weights[0]], lr=0.1 * (1 - 0.6))
    squares, velocity, value = 0.0, 0.0, 1.0
    for gradient in (0.5, -0.2, 0.7):
        step_with(optimiser, weights[0], gradient)
        squares = 0.9 * squares + 0.1 * gradient**2
        step = (1 - 0.6) * 0.1 * gradient / math.sqrt(squares + 1e-4)
        velocity = 0.6 * velocity - step
        value += 0.6 * velocity - step
    assert weights[0].item() == pytest.approx(value)


def test_groups_have_their_own_rate_and_unused_weights_stay():
    used, slow, unused = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimiser = rmsprop(
        [{"params": [used, unused]}, {"params": [slow], "lr": 0.01}], momentum=0.0
    )
    used.grad, slow.grad = torch.ones(3), torch.ones(3)
    optimiser.step()
    assert torch.allclose((1 - used) / (1 - slow), torch.full((3,), 10.0), rtol=1e-3)
    assert torch.equal(unused, torch.ones(3))
    assert unused not in optimiser.state


def test_saved_and_restored_state_goes_on_to_the_bit():
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    images = torch.randn(6, 4, 3)
    optimiser = rmsprop(network.parameters())

    def train(trained, stepper, batches):
        for batch in batches:
            stepper.zero_grad()
            trained(batch).square().sum().backward()
            stepper.step()

    train(network, optimiser, images[:3])
    tensors, values = optimiser_tensors(optimiser, "optimiser.all")
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    other = copy.deepcopy(network)
    resumed = rmsprop(other.parameters())
    restore_optimiser(resumed, "optimiser.all", saved, values)
    train(network, optimiser, images[3:])
    train(other, resumed, images[3:])
    assert set(tensors) == {
        f"optimiser.all.{index}.{name}"
        for index in (0, 1)
        for name in ("squares", "velocity")
    }
    assert torch.equal(network.weight, other.weight)
    assert torch.equal(network.bias, other.bias)


def test_closure_is_called_with_gradients():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimiser = rmsprop([weight])

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimiser.step(closure).item() == 1.0
    assert weight.item() < 1.0


def test_all_tensors_at_once_as_on_a_gpu_is_the_same():
    torch.manual_seed(0)
    apart = [nn.Parameter(torch.randn(5, 3)) for _ in range(3)]
    together = [nn.Parameter(weight.detach().clone()) for weight in apart]
    first, second = rmsprop(apart), rmsprop(together)
    for weight in together:
        second.state[weight]["squares"] = torch.zeros_like(weight)
        second.state[weight]["velocity"] = torch.zeros_like(weight)
    for _ in range(3):
        for one, other in zip(apart, together, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        first.step()
        with torch.no_grad():
            second._step_together(together, second.param_groups[0])
    for one, other in zip(apart, together, strict=True):
        assert torch.equal(one, other)
