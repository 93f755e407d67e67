"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from foveal.engine.averaging import WeightAverage


def test_average_by_hand():
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    average = WeightAverage(network, 0.5)
    network.weight.data.fill_(1.0)
    average.update(network)  # fades with 2/11 at first
    assert average.weights["weight"].item() == pytest.approx(9 / 11)
    average.update(network)  # then with 3/12
    assert average.weights["weight"].item() == pytest.approx(1 - 2 / 11 / 4)


def test_counters_are_copied():
    network = nn.BatchNorm1d(2)
    average = WeightAverage(network, 0.9)
    network.num_batches_tracked += 7
    average.update(network)
    assert average.weights["num_batches_tracked"] == 7


def test_average_does_not_share_memory_with_the_network():
    network = nn.Linear(2, 2)
    average = WeightAverage(network, 0.9)
    kept = average.weights["weight"].clone()
    with torch.no_grad():
        network.weight += 1
    assert torch.equal(average.weights["weight"], kept)
