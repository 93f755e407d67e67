"""Labelled voxels that are right already carry no loss until later."""

import math

import pytest
import torch
from made_up_setting import batch, setting
from torch import nn

from foveal.methods.interface import Clock
from foveal.methods.signal_annealing import (
    ignored_fraction,
    largest_probability,
    without_learned_voxels,
)
from foveal.networks.interface import Network, Output


class Inner(Network):
    """Predicts all but the outermost voxels by themselves."""

    alignment = (1, 1, 1)
    padding = "valid"
    margins = ((1, 1),) * 3
    classifier_names = ("classifier",)
    receptive_field = (1, 1, 1)

    def __init__(self):
        super().__init__()
        self.classifier = nn.Conv3d(1, 3, 1)

    def forward(self, image, taps=()):
        return Output(self.classifier(image[:, :, 1:-1, 1:-1, 1:-1]))


@pytest.mark.parametrize(
    ("schedule", "middle"),
    [("linear", 0.5), ("log", 1 - math.exp(-2.5)), ("exp", math.exp(-2.5))],
)
def test_limits_rise_from_chance_to_certainty(schedule, middle):
    limits = [
        largest_probability(schedule, Clock(step, 100, 0, 0), 4)
        for step in (0, 50, 100)
    ]
    assert limits[0] == pytest.approx(0.25, abs=0.006)
    assert limits[1] == pytest.approx(0.25 + 0.75 * middle)
    assert limits[2] == pytest.approx(1.0, abs=0.006)


def test_voxels_that_are_right_enough_are_ignored_where_the_network_predicts():
    labelled = batch((4, 4, 4), seed=0, labelled=True)
    logits = torch.zeros(2, 3, 2, 2, 2)
    logits[:, 2] = 2.0
    probability = logits.softmax(1)[0, 2, 0, 0, 0].item()
    inner = labelled.label_map[:, 1:-1, 1:-1, 1:-1]

    remaining = without_learned_voxels(labelled, logits, Inner(), probability - 1e-3)
    found = remaining.label_map
    assert torch.equal(found[:, 1:-1, 1:-1, 1:-1] == 255, inner == 2)
    assert torch.equal(found[found != 255], labelled.label_map[found != 255])
    # Context that is not predicted carries no loss, and none is left out there.
    share = ignored_fraction(remaining, labelled, Inner())
    assert share.item() == pytest.approx((inner == 2).float().mean().item())

    kept = without_learned_voxels(labelled, logits, Inner(), probability + 1e-3)
    assert torch.equal(kept.label_map, labelled.label_map)
    assert ignored_fraction(kept, labelled, Inner()).item() == 0.0


def test_ignored_voxels_stay_so_and_none_labelled_is_no_fraction():
    labelled = batch((4, 4, 4), seed=0, labelled=True)
    labelled.label_map.fill_(255)
    remaining = without_learned_voxels(
        labelled, torch.zeros(2, 3, 2, 2, 2), Inner(), 0.5
    )
    assert (remaining.label_map == 255).all()
    assert ignored_fraction(remaining, labelled, Inner()).item() == 0.0


def test_losses_of_nothing_left_are_zero_with_finite_gradients():
    labelled = batch((4, 4, 4), seed=0, labelled=True)
    network = Inner()
    output = network(labelled.image)
    remaining = without_learned_voxels(labelled, output.logits, network, 0.0)
    terms = setting(network, (4, 4, 4)).labelled_loss(network, output, remaining)
    assert {name: term.item() for name, term in terms.items()} == {
        "cross_entropy": 0.0,
        "dice": pytest.approx(0.0, abs=1e-6),
    }
    sum(terms.values()).backward()
    assert torch.equal(
        network.classifier.weight.grad, torch.zeros_like(network.classifier.weight)
    )
