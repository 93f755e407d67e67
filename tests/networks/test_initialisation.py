"""Weights to begin with."""

import math

import pytest
import torch
from torch import nn

from foveal import building
from foveal.networks.blocks import ResidualBlock
from foveal.networks.initialisation import initialise, zero_last_scales
from foveal.networks.layer_names import regularised_weights


class Block(nn.Module):
    """As in torchvision: the last norm is called ``bn3``."""

    def __init__(self):
        super().__init__()
        self.bn1, self.bn3 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    @property
    def last_norm(self):
        return self.bn3


def drawn(layer, rule):
    torch.manual_seed(0)
    initialise(nn.Sequential(layer), rule)
    return layer.weight


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Conv3d(40, 50, 3), 40 * 27, 50 * 27),
        (nn.Conv2d(40, 60, 5, groups=2), 20 * 25, 30 * 25),
        (nn.Linear(300, 200), 300, 200),
        # Two times two of its four times four entries meet an input.
        (nn.ConvTranspose2d(40, 50, 4, stride=2), 40 * 4, 50 * 16),
    ],
)
def test_variances(layer, fan_in, fan_out):
    normal = drawn(layer, "he")
    assert normal.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
    assert normal.abs().max() > 3 * normal.std()
    uniform = drawn(layer, "glorot")
    bound = math.sqrt(6 / (fan_in + fan_out))
    assert uniform.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert uniform.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert drawn(layer, "normal").std().item() == pytest.approx(0.01, rel=0.02)
    assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_norms_slopes_and_what_does_not_learn_stay():
    fixed = nn.ConvTranspose2d(3, 3, 4, stride=2, bias=False).requires_grad_(False)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.PReLU(3, 0.01), fixed)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialise(network, "he")
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_he_keeps_the_variance_through_relu_layers():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular") for _ in range(8)
    ]
    network = nn.Sequential(*[part for each in layers for part in (each, nn.ReLU())])
    initialise(network, "he")
    image = torch.randn(4, 64, 16, 16)
    with torch.no_grad():
        ratio = network(image).square().mean() / image.square().mean()
    assert 0.5 < ratio < 2


def test_residual_blocks_begin_as_the_identity():
    network = nn.Sequential(Block(), nn.Sequential(Block()), nn.BatchNorm2d(4))
    assert zero_last_scales(network) == 2
    assert torch.equal(network[0].bn3.weight, torch.zeros(4))
    assert torch.equal(network[1][0].bn3.weight, torch.zeros(4))
    assert torch.equal(network[0].bn1.weight, torch.ones(4))
    assert torch.equal(network[2].weight, torch.ones(4))
    assert zero_last_scales(nn.Sequential(nn.BatchNorm2d(4))) == 0
    without_norms = Block()
    without_norms.bn3 = nn.Identity()
    assert zero_last_scales(nn.Sequential(without_norms, Block())) == 1


@pytest.mark.parametrize(
    ("name", "blocks"), [("deeplabv2", 33), ("fcn3d-residual", 8), ("dual-path", 14)]
)
def test_residual_networks_mark_their_blocks(name, blocks):
    with torch.device("meta"):
        network = building.network(name, in_channels=1, num_classes=2)
    found = [each for each in network.modules() if isinstance(each, ResidualBlock)]
    assert len(found) == blocks
    for block in found:
        assert isinstance(block.last_norm, nn.BatchNorm2d | nn.BatchNorm3d)


def test_every_network_names_its_classifiers():
    """So that they can be exempt from regularisation, and replaced."""
    for name in building.NETWORKS:
        if name.startswith("monai:"):  # is perhaps not installed
            continue
        with torch.device("meta"):
            network = building.network(name, in_channels=1, num_classes=2)
        assert network.classifier_names
        for layer in network.classifier_names:
            assert list(network.get_submodule(layer).parameters()), (name, layer)


def test_learned_upsampling_is_drawn_and_regularised_as_any_layer():
    small = {"features": (2,) * 5, "head_features": 2, "upsampling": "learned"}
    network = building.network("fcn8s", in_channels=1, num_classes=2, **small)
    upscores = [network.upscore2.weight, network.upscore_pool4.weight]
    learned = regularised_weights(
        nn.Sequential(network), list(network.parameters()), with_classifier=True
    )
    assert all(any(weight is each for each in learned) for weight in upscores)
    before = upscores[0].clone()
    initialise(network, "he")
    assert not torch.equal(upscores[0], before)
