"""Which weights another network's become, and what is said of the rest."""

import pytest
import torch
from torch import nn

from foveal.building import network
from foveal.engine.transfer import (
    Source,
    for_other_channels,
    matched,
    without_slices_prefix,
)
from foveal.errors import RunError
from foveal.networks.interface import Network, Output
from foveal.networks.resnet import ResNet
from foveal.networks.slices import SliceBySlice

UNET = {"features": (2, 4), "kernels": ((3, 3, 3),) * 2, "strides": ((2, 2, 2),)}


def unet(in_channels, num_classes, **options):
    return network(
        "unet3d", in_channels=in_channels, num_classes=num_classes, **UNET | options
    )


def deeplab(in_channels=1, **options):
    small = {"backbone": "resnet18", "first_features": 2, "head_features": 2}
    return network(
        "deeplabv3", in_channels=in_channels, num_classes=2, **small | options
    )


def of_run(network, in_channels):
    return Source(network.state_dict(), {}, in_channels)


def foreign(in_channels=3, **options):
    """Weights as torchvision names them, with a classifier of 1000 classes."""
    small = {"depth": 18, "first_features": 2, "output_stride": 32}
    resnet = ResNet(in_channels, **small | options)
    weights = {**resnet.state_dict(), "fc.weight": torch.randn(1000, 16)}
    return Source(weights, {name: name for name in weights})


def test_a_network_of_the_same_kind_takes_everything():
    torch.manual_seed(0)
    there, here = unet(1, 3), unet(1, 3)
    transfer = matched(here, 1, of_run(there, 1))
    transfer.apply(here)
    image = torch.randn(1, 1, 4, 4, 4)
    assert torch.equal(here(image).logits, there(image).logits)
    report = transfer.report
    assert set(report.loaded) == here.state_dict().keys()
    assert (report.replaced, report.not_found, report.unused) == ((), (), ())
    assert report.sentences == ["transfer: 14 layers loaded"]


def test_other_classes_and_channels_keep_all_between():
    torch.manual_seed(0)
    there, here = unet(3, 5), unet(1, 2)
    drawn = here.classifiers[0].weight.detach().clone()
    transfer = matched(here, 1, of_run(there, 3))
    transfer.apply(here)
    assert torch.equal(here.classifiers[0].weight, drawn)
    grey = torch.randn(1, 1, 4, 4, 4)
    torch.testing.assert_close(
        here(grey, taps=("decoder.0",)).activations[0],
        there(grey.expand(-1, 3, -1, -1, -1), taps=("decoder.0",)).activations[0],
    )
    words = " ".join(transfer.report.sentences)
    assert "encoder.0.0.0.weight was learned from images with 3 channels" in words
    assert "sees 1 here" in words
    assert "classifiers.0.weight is not loaded but drawn anew" in words
    assert "5 x 2 x 1 x 1 x 1 there and 2 x 2 x 1 x 1 x 1 here" in words


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 4), (4, 2)])
def test_an_image_alike_in_all_channels_gives_what_it_gave(before, after):
    torch.manual_seed(0)
    weight = torch.randn(5, before, 3, 3)
    grey = torch.randn(2, 1, 6, 6)
    torch.testing.assert_close(
        nn.functional.conv2d(
            grey.expand(-1, after, -1, -1), for_other_channels(weight, after)
        ),
        nn.functional.conv2d(grey.expand(-1, before, -1, -1), weight),
    )


def test_torchvisions_weights_become_the_backbone():
    torch.manual_seed(0)
    source, here = foreign(), deeplab(3)
    transfer = matched(here, 3, source)
    transfer.apply(here)
    weights = here.backbone.state_dict()
    assert all(torch.equal(weights[n], source.weights[n]) for n in weights)
    assert transfer.report.unused == ("fc.weight",)
    assert "classifier.weight" in transfer.report.not_found
    assert not any(n.startswith("backbone") for n in transfer.report.not_found)
    loaded, anew, unused = transfer.report.sentences
    assert loaded == "transfer: 40 layers loaded"
    assert anew == (
        "transfer: begun afresh, as the file has none: 13 layers, parallel.0.0, "
        "parallel.0.1, parallel.1.0, parallel.1.1, parallel.2.0 and 8 more"
    )
    assert unused == "transfer: in the file, but not in this network: 1 layer, fc"


def test_slices_of_volumes_change_nothing():
    torch.manual_seed(0)
    source, here = foreign(), SliceBySlice(deeplab(), 2)
    transfer = matched(here, 1, source)
    transfer.apply(here)
    torch.testing.assert_close(
        here.network.backbone.conv1.weight,
        source.weights["conv1.weight"].sum(dim=1, keepdim=True),
    )
    there = SliceBySlice(deeplab(), 0)
    again = Source(without_slices_prefix(there.state_dict(), there), {}, 1)
    matched(here, 1, again).apply(here)
    assert torch.equal(here.network.classifier.weight, there.network.classifier.weight)


class Wrapped(Network):
    """A network whose weights all lie under one name."""

    padding = "same"
    alignment = (1, 1, 1)
    receptive_field = (1, 1, 1)

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Conv3d(1, 2, 1)

    def forward(self, image, taps=()):
        return Output(self.network(image))


def test_names_that_only_look_like_those_of_slices_are_kept():
    there, here = Wrapped(), Wrapped()
    source = Source(without_slices_prefix(there.state_dict(), there), {}, 1)
    matched(here, 1, source).apply(here)
    assert torch.equal(here.network.weight, there.network.weight)


def test_old_files_without_batch_counters_are_whole():
    source = foreign()
    weights = {n: w for n, w in source.weights.items() if "num_batches" not in n}
    here = deeplab()
    report = matched(here, 1, Source(weights, source.published_names)).report
    assert not any(name.startswith("backbone") for name in report.not_found)


class Flattened(Network):
    """One convolution that was a fully connected layer."""

    alignment = (1, 1)
    padding = "same"
    classifier_names = ()
    receptive_field = None

    def __init__(self, kernel):
        super().__init__()
        self.fc6 = nn.Conv2d(4, 6, kernel)

    def forward(self, image, taps=()):
        return Output(self.fc6(image))

    def pretrained_names(self):
        return {"fc6.weight": "classifier.0.weight", "fc6.bias": "classifier.0.bias"}


def test_a_fully_connected_layer_becomes_a_convolution():
    torch.manual_seed(0)
    layer, here = nn.Linear(4 * 3 * 3, 6), Flattened(3)
    weights = {"classifier.0.weight": layer.weight, "classifier.0.bias": layer.bias}
    source = Source(weights, {name: name for name in weights})
    matched(here, 1, source).apply(here)
    image = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(here(image).logits.flatten(1), layer(image.flatten(1)))
    with pytest.raises(RunError, match=r"fc6.weight is 6 x 36 there and 6 x 4 x 5 x 5"):
        matched(Flattened(5), 1, source)


def test_runs_of_other_networks_meet_at_torchvisions_names():
    torch.manual_seed(0)
    there = network("fcn32s", in_channels=1, num_classes=5, features=[2, 4, 8, 16, 16])
    here = network(
        "deeplabv2", in_channels=1, num_classes=2, backbone="vgg16", first_features=2
    )
    source = Source(there.state_dict(), there.pretrained_names(), 1)
    transfer = matched(here, 1, source)
    transfer.apply(here)
    assert transfer.report.sentences[0] == "transfer: 13 layers loaded"
    assert torch.equal(
        here.backbone.stages[4].conv3.weight, there.encoder.stages[4].conv3.weight
    )


def test_weights_of_another_width_are_refused_with_their_shapes():
    with pytest.raises(
        RunError,
        match=r"of another network.*encoder.0.0.0.weight is 3 x 1 x 3 x 3 x 3 there "
        r"and 2 x 1 x 3 x 3 x 3 here.* more",
    ):
        matched(unet(1, 2), 1, of_run(unet(1, 2, features=(3, 4)), 1))
    with pytest.raises(RunError, match=r"backbone.layer1.0.conv1.weight"):
        matched(deeplab(), 1, foreign(depth=50))


def test_weights_of_which_nothing_fits_are_refused_with_the_names_that_would():
    with pytest.raises(
        RunError,
        match=r"none of its layers \(other\) is in this one \(backbone.conv1, .*"
        r"takes conv1, bn1",
    ):
        matched(deeplab(), 1, Source({"other.weight": torch.zeros(1)}, {}))
