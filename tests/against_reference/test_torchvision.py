"""Residual networks and VGG-16 against torchvision's, where it is installed."""

import pytest
import torch

from foveal.building import network
from foveal.engine.transfer import Source, matched
from foveal.networks.resnet import ResNet

models = pytest.importorskip("torchvision.models")


def reference_features(resnet, image):
    features = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        features = layer(features)
    return features


@pytest.mark.parametrize(
    ("depth", "output_stride", "dilated"),
    [(18, 32, [False] * 3), (50, 32, [False] * 3), (50, 8, [False, True, True])],
)
def test_resnets_compute_what_torchvisions_do(depth, output_stride, dilated):
    torch.manual_seed(0)
    build = getattr(models, f"resnet{depth}")
    reference = build(weights=None, replace_stride_with_dilation=dilated).eval()
    ours = ResNet(3, depth=depth, first_features=64, output_stride=output_stride)
    weights = reference.state_dict()
    del weights["fc.weight"], weights["fc.bias"]
    ours.load_state_dict(weights)
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = reference_features(reference, image)
        torch.testing.assert_close(ours.eval()(image)["layer4"], expected)


@pytest.mark.parametrize("name", ["deeplabv2", "fcn32s"])
def test_all_convolutions_of_vgg_are_found(name):
    with torch.device("meta"):
        weights = models.vgg16(weights=None).state_dict()
        options = {"backbone": "vgg16"} if name == "deeplabv2" else {}
        ours = network(name, in_channels=3, num_classes=2, **options)
    source = Source(weights, {name: name for name in weights}, 3)
    report = matched(ours, 3, source).report
    assert not [name for name in report.unused if name.startswith("features")]
    assert not report.other_channels
