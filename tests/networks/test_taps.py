"""Layers whose activations are asked for by name."""

import pytest
import torch

from foveal import building
from foveal.networks.foreign import ForeignNetwork

VGG = {"features": (2,) * 5}


@pytest.mark.parametrize(
    ("name", "options", "there"),
    [
        ("unet2d", {"features": (2, 2), "strides": ((2, 2),)}, "encoder.1, decoder.0"),
        ("segnet", VGG, "decoder.4"),
        ("fcn8s", {**VGG, "head_features": 2, "input_padding": 1}, "fc6, fc7"),
        ("deeplabv3", {"backbone": "resnet18", "first_features": 2}, "layer4"),
        ("deepmedic2d", {}, "wide.8, hidden.1, hidden.2"),
    ],
)
def test_an_unknown_one_is_answered_with_those_there_are(name, options, there):
    if "strides" in options:
        options = {**options, "kernels": ((3, 3),) * 2}
    network = building.network(name, in_channels=1, num_classes=2, **options).eval()
    image = torch.zeros(1, 1, *network.fitting_shape((48, 48)))
    with torch.no_grad(), pytest.raises(ValueError, match=f"called fc9; .*{there}"):
        network(image, taps=("fc9",))


def test_of_dual_path_and_of_foreign_networks_too():
    network = building.network("dual-path", in_channels=1, num_classes=2).eval()
    image = torch.zeros(1, 1, *network.fitting_shape((1, 1, 1)))
    with torch.no_grad(), pytest.raises(ValueError, match=r"wide\.10, hidden\.0"):
        network(image, taps=("coarse.0",))
    body = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1))
    foreign = ForeignNetwork(body, alignment=(1, 1), classifier="0")
    with pytest.raises(ValueError, match="no layer is called 1; there are 0"):
        foreign(torch.zeros(1, 1, 2, 2), taps=("1",))
