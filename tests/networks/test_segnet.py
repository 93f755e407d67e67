"""SegNet's size, any image size, unpooling and geometry."""

import pytest
import torch
import torch.nn.functional as F
from vgg_geometry import leaning, seen_from, with_generic_weights

from foveal import building
from foveal.networks.segnet import SegNet


def small(num_classes=2, features=(2, 2, 3, 3, 3)):
    return building.network(
        "segnet", in_channels=1, num_classes=num_classes, features=features
    )


def test_published_size():
    with torch.device("meta"):
        network = building.network("segnet", in_channels=3, num_classes=11)
    assert sum(each.numel() for each in network.parameters()) == 29_449_355
    assert "29,449,355" in SegNet.__doc__


def test_published_image_has_its_two_odd_sizes():
    pooled = small(features=(1,) * 5).eval().encoder(torch.zeros(1, 1, 360, 480))
    assert [each.shape for each in pooled[3:]] == [(45, 60), (23, 30)]
    assert pooled[-1].maps.shape[2:] == (12, 15)


@pytest.mark.parametrize("shape", [(1, 1), (33, 31), (45, 60), (64, 32)])
def test_any_size_comes_out_as_it_went_in(shape):
    network = small().eval()
    logits = network(torch.rand(1, 1, *shape)).logits
    assert tuple(logits.shape[2:]) == shape == network.output_shape(shape)
    assert logits.isfinite().all()


def test_values_return_to_where_the_maxima_were():
    torch.manual_seed(0)
    network = small().eval()
    image = torch.randn(1, 1, 32, 64)
    pool4, pool5, coarsest = network(
        image, taps=("pool4", "pool5", "decoder.0")
    ).activations
    stage = network.encoder.stages[4]
    _, indices = F.max_pool2d(stage(pool4), 2, return_indices=True)
    spread = F.max_unpool2d(pool5, indices, 2)
    torch.testing.assert_close(network.decoder.stages[0](spread), coarsest)


def test_taps_give_the_activations_asked_for():
    network = small().eval()
    output = network(torch.rand(2, 1, 32, 32), taps=("decoder.4",))
    torch.testing.assert_close(network.classifier(output.activations[0]), output.logits)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = small().train()
    network(torch.rand(2, 1, 64, 64)).logits.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # Batch norm takes out the bias before it.
        if not name.endswith("bias"):
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("axis", [0, 1])
def test_receptive_field_is_what_one_voxel_reaches(axis):
    reach = []
    for end in ("first", "last"):
        torch.manual_seed(0)
        network = leaning(with_generic_weights(small(features=(1,) * 5)), end)
        reach += seen_from(network, 1024, axis, end)
    assert max(reach) - min(reach) + 1 == network.receptive_field[axis] == 423
