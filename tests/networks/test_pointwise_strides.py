"""Convolutions of one voxel with a stride, which oneDNN differentiates wrongly."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from foveal.networks.pointwise_strides import subsample_before_pointwise

STEPS = """
import torch
from foveal import building

torch.set_num_threads(2)
network = building.network(
    "unet2d",
    in_channels=1,
    num_classes=2,
    features=[4, 8],
    kernels=[[3, 3]] * 2,
    strides=[[2, 2]],
    residual=True,
)
network = network.to(memory_format=torch.channels_last).train()
image = torch.randn(16, 1, 64, 64)
image = image.as_strided((16, 1, 64, 64), (4096, 1, 64, 1))
for _ in range(3):
    network(image).logits.square().mean().backward()
"""


def test_few_channels_train_without_a_crash():
    done = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("shape", [(8, 6), (7, 9)])
def test_output_gradients_and_names_are_those_of_the_convolution(shape):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 1, stride=(2, 3)))
    changed = copy.deepcopy(plain)
    subsample_before_pointwise(changed)
    changed = copy.deepcopy(changed)
    subsample_before_pointwise(changed)
    assert changed[0].stride == (1, 1)
    image = torch.randn(2, 3, *shape)
    images = [image.clone().requires_grad_(), image.clone().requires_grad_()]
    for layers, each in zip((plain, changed), images, strict=True):
        layers(each).square().sum().backward()
    torch.testing.assert_close(changed(image), plain(image))
    torch.testing.assert_close(images[1].grad, images[0].grad)
    torch.testing.assert_close(changed[0].weight.grad, plain[0].weight.grad)
    assert changed.state_dict().keys() == plain.state_dict().keys()


def test_other_convolutions_keep_their_strides():
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2),
        nn.Conv2d(3, 5, 1, stride=2, padding=1),
        nn.Conv3d(3, 5, 1, stride=2),
    )
    subsample_before_pointwise(layers)
    assert [layer.stride[0] for layer in layers] == [2, 2, 2]
