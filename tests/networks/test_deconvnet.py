"""DeconvNet's size, sizes of images, layers and geometry."""

import pytest
import torch
from torch import nn
from vgg_geometry import leaning, seen_from, with_generic_weights

from foveal import building
from foveal.networks.deconvnet import DeconvNet


def small(num_classes=2, features=(2, 2, 3, 3, 3), head_features=4):
    return building.network(
        "deconvnet",
        in_channels=1,
        num_classes=num_classes,
        features=features,
        head_features=head_features,
    )


def test_published_size():
    with torch.device("meta"):
        network = building.network("deconvnet", in_channels=3, num_classes=21)
    convolutions = sum(
        each.numel()
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        for each in module.parameters()
    )
    assert convolutions == 251_772_245
    total = sum(each.numel() for each in network.parameters())
    assert total - convolutions == 33_408
    assert "251,772,245" in DeconvNet.__doc__
    assert "33,408" in DeconvNet.__doc__


def test_at_224_the_middle_is_one_vector():
    network = small().eval()
    hidden = []
    network.head.fc7.register_forward_hook(lambda *args: hidden.append(args[-1].shape))
    network(torch.zeros(1, 1, 224, 224))
    network(torch.zeros(1, 1, 32, 288))
    assert hidden == [(1, 4, 1, 1), (1, 4, 1, 3)]


@pytest.mark.parametrize("shape", [(1, 1), (33, 31), (64, 96), (224, 225)])
def test_any_size_comes_out_as_it_went_in(shape):
    network = small().eval()
    logits = network(torch.rand(1, 1, *shape)).logits
    assert tuple(logits.shape[2:]) == shape == network.output_shape(shape)
    assert logits.isfinite().all()


def test_drawn_as_published():
    torch.manual_seed(0)
    network = small(features=(8, 8, 16, 16, 16), head_features=32)
    drawn = network.head.fc6.weight
    assert drawn.std().item() == pytest.approx(0.01, rel=0.02)
    assert network.head.deconv.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert network.decoder.stages[0].conv1.weight.std().item() == pytest.approx(
        0.01, rel=0.05
    )


def test_taps_give_the_activations_asked_for():
    network = small().eval()
    image = torch.rand(2, 1, 64, 64)
    pool5, head, last = network(image, taps=("pool5", "head", "decoder.4")).activations
    torch.testing.assert_close(network.head(pool5), head)
    torch.testing.assert_close(network.classifier(last), network(image).logits)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = small().train()
    network(torch.rand(3, 1, 64, 64)).logits.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_receptive_field_is_what_one_voxel_reaches():
    reach = []
    for end in ("first", "last"):
        torch.manual_seed(0)
        network = with_generic_weights(small(features=(1,) * 5, head_features=1))
        leaning(network, end)
        reach += seen_from(network, 1856, 0, end)
    assert max(reach) - min(reach) + 1 == network.receptive_field[0] == 807
