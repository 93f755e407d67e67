"""Weight gradients of thin volumes in bfloat16 on a processor."""

import copy

import pytest
import torch
from torch import nn

from foveal.engine.thin_convolutions import compute_thin_convolutions_in_float32


def gradient(layer, image, *, bfloat16):
    layer.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        output = layer(image)
    # As in a network, where layers around it stay in bfloat16.
    (output.to(torch.bfloat16) if bfloat16 else output).float().pow(2).sum().backward()
    return layer.weight.grad.clone()


@pytest.mark.parametrize(
    ("layer", "depth"),
    [
        (nn.Conv3d(16, 16, 3, padding=1), 2),
        (nn.Conv3d(16, 16, 5, padding=2), 3),
        (nn.Conv3d(16, 16, (3, 1, 1), padding=(1, 0, 0)), 2),
        (nn.ConvTranspose3d(16, 16, 3, padding=1), 2),
        (nn.Conv3d(16, 16, 3, padding=1), 4),
    ],
)
@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last_3d], ids=["rows", "last"]
)
def test_gradient_is_that_of_float32(layer, depth, layout):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).to(memory_format=layout)
    image = torch.randn(2, 16, depth, 8, 8).contiguous(memory_format=layout)
    expected = gradient(layer, image, bfloat16=False)
    compute_thin_convolutions_in_float32(layer)
    for _ in range(3):
        found = gradient(layer, image, bfloat16=True)
        assert (found - expected).norm() < 0.02 * expected.norm()


def test_autocast_goes_on_after_the_layer_and_a_copy_is_safe_too():
    torch.manual_seed(0)
    first, second = nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 4, 1)
    layers = nn.Sequential(first, second)
    compute_thin_convolutions_in_float32(layers)
    layers = copy.deepcopy(layers)
    image = torch.randn(1, 4, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layers[0](image).dtype == torch.float32
        assert layers(image).dtype == torch.bfloat16
        with torch.no_grad():
            assert layers[0](image).dtype == torch.bfloat16
        with pytest.raises(RuntimeError):
            layers[0](torch.randn(1, 3, 2, 4, 4))
        assert torch.is_autocast_enabled("cpu")


def test_thick_volumes_stay_in_bfloat16():
    layer = nn.Conv3d(4, 4, 3, padding=1)
    compute_thin_convolutions_in_float32(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 4, 3, 4, 4)).dtype == torch.bfloat16
        assert layer(torch.randn(1, 4, 1, 4, 4)).dtype == torch.bfloat16
