"""Networks of other libraries: chosen from a list, wrapped, refused where absent."""

import copy
import sys

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from foveal import building
from foveal.errors import SettingsError
from foveal.networks import foreign
from foveal.networks.foreign import ForeignNetwork

TINY = {
    "monai:unet": {"features": (4, 8, 8), "strides": (2, 2)},
    "monai:attentionunet": {"features": (4, 8, 8), "strides": (2, 2)},
    "monai:dynunet": {"features": (4, 8, 8), "strides": (2, 2)},
    "monai:segresnet": {
        "first_features": 8,
        "blocks_down": (1, 1, 1),
        "blocks_up": (1, 1),
    },
    "monai:swinunetr": {
        "first_features": 12,
        "depths": (1, 1, 1, 1),
        "heads": (1, 1, 1, 1),
    },
}

ALIGNMENTS = dict.fromkeys(TINY, 4) | {"monai:swinunetr": 32}

COUNTS = {
    "monai:unet": 4_807_482,
    "monai:attentionunet": 1_466_583,
    "monai:dynunet": 5_600_963,
    "monai:segresnet": 4_700_931,
    "monai:swinunetr": 15_703_029,
}


def made(name, **options):
    torch.manual_seed(0)
    return building.network(name, in_channels=2, num_classes=3, **options)


def test_every_foreign_network_that_can_be_named_is_tested():
    assert {name for name in building.NETWORKS if ":" in name} == TINY.keys()


@pytest.mark.parametrize("name", TINY)
def test_without_monai_the_package_to_install_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(SettingsError, match=r'need MONAI.*pip install "foveal\[monai'):
        made(name)


def test_einops_is_asked_for_by_the_one_that_needs_it(monkeypatch):
    pytest.importorskip("monai")
    monkeypatch.setitem(sys.modules, "einops", None)
    with pytest.raises(SettingsError, match=r"swinunetr\" also needs einops"):
        made("monai:swinunetr", **TINY["monai:swinunetr"])
    for name in TINY.keys() - {"monai:swinunetr"}:
        made(name, **TINY[name])


@pytest.mark.parametrize("name", ["monai:nets.UNet", "monai:vnet", "os:system"])
def test_only_what_is_listed_can_be_named(name):
    with pytest.raises(SettingsError, match="is no network; there are"):
        made(name)


def test_options_are_those_of_the_section():
    with pytest.raises(SettingsError, match="act: no such"):
        made("monai:unet", act="PRELU")
    with pytest.raises(SettingsError, match="needs 4"):
        made("monai:unet", strides=(2, 2))
    with pytest.raises(SettingsError, match="needs 3"):
        made("monai:segresnet", blocks_up=(1,))


@pytest.fixture
def wrapped():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    return ForeignNetwork(body, alignment=(2, 2), classifier="2")


def test_wrapper_gives_the_logits_and_activations_of_its_body(wrapped):
    image = torch.randn(2, 1, 4, 6)
    output = wrapped(image, taps=("1", "0"))
    hidden = wrapped.body[0](image)
    assert torch.equal(output.activations[0], hidden.relu())
    assert torch.equal(output.activations[1], hidden)
    assert torch.equal(output.logits, wrapped.body[2](hidden.relu()))
    assert wrapped(image).activations == ()
    assert wrapped.receptive_field is None
    assert wrapped.classifier_names == ("body.2",)


def test_wrapper_forgets_what_it_was_asked_to_keep(wrapped):
    wrapped(torch.zeros(1, 1, 2, 2), taps=("0",))
    with pytest.raises(RuntimeError):
        wrapped(torch.zeros(1, 5, 2, 2), taps=("0",))
    assert not any(module._forward_hooks for module in wrapped.modules())


@pytest.fixture
def monai():
    pytest.importorskip("einops", reason="MONAI's networks need einops")
    return pytest.importorskip("monai", reason='needs "foveal[monai]"')


@pytest.mark.usefixtures("monai")
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_listed_networks_map_an_image_to_logits_of_its_shape(name, dimensions):
    network = made(name, dimensions=dimensions, **TINY[name]).eval()
    assert network.alignment == (ALIGNMENTS[name],) * dimensions
    shape = network.fitting_shape([ALIGNMENTS[name] + 1] + [1] * (dimensions - 1))
    image = torch.randn(1, 2, *shape)
    (classifier,) = network.classifier_names
    with torch.no_grad():
        output = network(image, taps=[classifier.removeprefix("body.")])
    assert tuple(output.logits.shape) == (1, 3, *network.output_shape(shape))
    # The classifier that is named makes the logits, and nothing follows it.
    assert torch.equal(output.activations[0], output.logits)


@pytest.mark.usefixtures("monai")
@pytest.mark.parametrize("name", TINY)
def test_weights_are_kept_without_doubles_and_survive_a_copy(name):
    network = made(name, **TINY[name]).eval()
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    # Instance norm needs more than one voxel at the coarsest stage.
    image = torch.randn(1, 2, *network.alignment[:2], 2 * network.alignment[2])
    with torch.no_grad():
        expected = network(image).logits
        assert not torch.allclose(other(image).logits, expected)
        other.load_state_dict(load(save(network.state_dict())))
        assert torch.equal(other(image).logits, expected)


@pytest.mark.usefixtures("monai")
@pytest.mark.parametrize("name", TINY)
def test_defaults_have_the_stated_number_of_parameters(name):
    network = building.network(name, in_channels=1, num_classes=3)
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[name]
    stated = getattr(foreign, name.replace(":", "_")).__doc__
    assert f"{COUNTS[name]:,}" in stated
