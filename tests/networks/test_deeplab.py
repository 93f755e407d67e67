"""Sizes, geometry and layers of DeepLabv2 and DeepLabv3."""

import pytest
import torch
from torch import nn

from foveal.building import network
from foveal.networks.deeplab import ImageMean, upsampled
from foveal.networks.resnet import ResNet

SMALL = {"backbone": "resnet18", "first_features": 2}


def made(name, in_channels=1, num_classes=2, **options):
    return network(
        name, in_channels=in_channels, num_classes=num_classes, **SMALL | options
    )


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "backbone", "num_classes", "count"),
    [
        ("deeplabv2", "resnet101", 21, 44_048_532),
        ("deeplabv2", "resnet101", 2, 42_647_624),
        ("deeplabv2", "vgg16", 21, 37_877_652),
        ("deeplabv3", "resnet101", 21, 58_040_661),
        ("deeplabv3", "resnet50", 21, 39_048_533),
    ],
)
def test_published_sizes(name, backbone, num_classes, count):
    with torch.device("meta"):
        published = network(
            name, in_channels=3, num_classes=num_classes, backbone=backbone
        )
    assert count_parameters(published) == count
    assert f"{count:,}" in type(published).__doc__


def test_large_field_of_view_is_the_smaller_vgg_of_20_million():
    with torch.device("meta"):
        large_field = network(
            "deeplabv2", in_channels=3, num_classes=21, backbone="vgg16", rates=[12]
        )
    features = 14_714_688
    fc6, fc7, fc8 = 9 * 512 * 1024 + 1024, 1024 * 1024 + 1024, 1024 * 21 + 21
    assert count_parameters(large_field) == features + fc6 + fc7 + fc8


@pytest.mark.parametrize(
    ("depth", "count", "entries"),
    [
        (18, 11_176_512, 120),
        (34, 21_284_672, 216),
        (50, 23_508_032, 318),
        (101, 42_500_160, 624),
    ],
)
def test_resnets_are_torchvisions_without_the_classifier(depth, count, entries):
    with torch.device("meta"):
        resnet = ResNet(3, depth=depth, first_features=64, output_stride=32)
    assert count_parameters(resnet) == count
    assert len(resnet.state_dict()) == entries
    names = resnet.state_dict().keys()
    assert {"conv1.weight", "bn1.running_var", "layer4.0.downsample.1.bias"} <= names
    assert f"{count:,}" in ResNet.__doc__


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_keeps_what_the_strided_network_computes(depth, output_stride):
    torch.manual_seed(0)
    strided = ResNet(1, depth=depth, first_features=2, output_stride=32).eval()
    dense = ResNet(1, depth=depth, first_features=2, output_stride=output_stride).eval()
    dense.load_state_dict(strided.state_dict())
    image = torch.randn(1, 1, 70, 97)
    with torch.no_grad():
        coarse, fine = strided(image)["layer4"], dense(image)["layer4"]
    step = 32 // output_stride
    assert fine.shape[2] == -(-70 // output_stride)
    assert coarse.std() > 0.01
    torch.testing.assert_close(fine[:, :, ::step, ::step], coarse)


def test_multi_grid_multiplies_the_rates_of_the_last_layer():
    def rates(output_stride):
        with torch.device("meta"):
            resnet = ResNet(
                1,
                depth=50,
                first_features=2,
                output_stride=output_stride,
                multi_grid=(1, 2, 4),
            )
        return [block.conv2.dilation[0] for block in resnet.layer4]

    assert rates(16) == [2, 4, 8]
    assert rates(8) == [4, 8, 16]


@pytest.mark.parametrize("name", ["deeplabv2", "deeplabv3"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (40, 17)])
def test_any_size_comes_out_as_it_went_in(name, shape):
    network = made(name, num_classes=3).eval()
    logits = network(torch.zeros(2, 1, *shape)).logits
    assert tuple(logits.shape) == (2, 3, *shape)
    assert network.output_shape(shape) == shape


def test_logits_lie_where_their_features_do():
    coarse = torch.tensor([[[[0.0, 8.0, 0.0]]]])
    fine = upsampled(coarse, 8, (3, 20))
    row = [*range(8), *range(8, -1, -1), 0, 0, 0]
    torch.testing.assert_close(fine[0, 0], torch.tensor([row] * 3, dtype=torch.float))


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16"])
def test_receptive_field_of_v2_is_the_support_of_the_gradient(backbone, monkeypatch):
    torch.manual_seed(0)
    network = made("deeplabv2", backbone=backbone, rates=(2, 5)).double().eval()
    # Positive weights and inputs: no contribution is cut off or cancelled. Maxima pass
    # a gradient to one voxel only, means to all.
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 0.01
    monkeypatch.setattr(nn.functional, "max_pool2d", nn.functional.avg_pool2d)
    network.backbone.maxpool = nn.AvgPool2d(3, 2, 1)
    touched = []
    for phase in range(8):
        image = torch.ones(1, 1, 1, 801, dtype=torch.double, requires_grad=True)
        network(image).logits[..., 400 + phase].sum().backward()
        found = image.grad.flatten().nonzero().flatten() - phase
        touched += [int(found.min()), int(found.max())]
    assert min(touched) > 0
    assert max(touched) < 800
    assert network.receptive_field == (max(touched) - min(touched) + 1,) * 2


def test_v3_sees_the_whole_image():
    network = made("deeplabv3").double().eval()
    assert network.receptive_field is None
    image = torch.randn(1, 1, 40, 40, dtype=torch.double, requires_grad=True)
    network(image).logits[0, :, 0, 0].sum().backward()
    assert float(image.grad[0, 0, -4:, -4:].abs().max()) > 0


def test_v2_sums_its_classifiers():
    torch.manual_seed(0)
    network = made("deeplabv2").eval()
    image = torch.randn(1, 1, 9, 17)
    output = network(image, taps=("layer4",))
    whole = sum(classify(output.activations[0]) for classify in network.classifiers)
    torch.testing.assert_close(output.logits[..., ::8, ::8], whole)
    weights = torch.cat([c.weight.detach().flatten() for c in network.classifiers])
    assert abs(float(weights.std()) - 0.01) < 0.001
    assert all(not bool(c.bias.any()) for c in network.classifiers)


def test_v3_takes_the_same_weights_at_both_output_strides():
    coarse, fine = made("deeplabv3").eval(), made("deeplabv3", output_stride=8).eval()
    fine.load_state_dict(coarse.state_dict())
    assert [way[0].dilation[0] for way in coarse.parallel] == [1, 6, 12, 18]
    assert [way[0].dilation[0] for way in fine.parallel] == [1, 12, 24, 36]
    image = torch.randn(1, 1, 32, 32)
    assert coarse(image, taps=("layer4",)).activations[0].shape[2:] == (2, 2)
    assert fine(image, taps=("layer4",)).activations[0].shape[2:] == (4, 4)


def test_a_single_patch_trains_and_leaves_the_means_statistics():
    torch.manual_seed(0)
    network = made("deeplabv3").train()
    network(torch.randn(1, 1, 33, 33)).logits.square().sum().backward()
    norm = network.image_mean.norm
    assert not bool(norm.running_mean.any())
    assert norm.weight.grad.isfinite().all()
    assert network.project[1].running_mean.any()


def test_the_image_mean_of_a_batch_is_normalised():
    torch.manual_seed(0)
    mean = ImageMean(3, 4).train()
    features = torch.randn(5, 3, 2, 6)
    result = mean(features)
    expected = nn.functional.relu(
        nn.functional.batch_norm(
            mean.convolution(features.mean(dim=(2, 3), keepdim=True)),
            None,
            None,
            training=True,
        )
    )
    torch.testing.assert_close(result, expected.expand(-1, -1, 2, 6))


@pytest.mark.parametrize(
    ("name", "backbone", "count", "example"),
    [
        ("deeplabv3", "resnet101", 624, ("layer3.22.conv3.weight",) * 2),
        ("deeplabv2", "resnet101", 624, ("layer4.2.bn3.num_batches_tracked",) * 2),
        ("deeplabv2", "vgg16", 26, ("stages.4.conv3.bias", "features.28.bias")),
    ],
)
def test_backbones_are_named_as_torchvision_does(name, backbone, count, example):
    with torch.device("meta"):
        network = made(name, in_channels=3, backbone=backbone)
    names = network.pretrained_names()
    assert len(names) == count
    here, there = example
    assert names[f"backbone.{here}"] == there
    assert names.keys() <= network.state_dict().keys()
