"""The U-Net's size, geometry and layers."""

import pytest
import torch
import torch.nn.functional as F

from foveal.errors import GeometryError
from foveal.networks.blocks import InstanceNorm3d
from foveal.networks.unet3d import UNet3d


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_default_has_the_stated_number_of_parameters():
    network = UNet3d(1, 3)
    assert count_parameters(network) == 1_401_299
    assert "1,401,299" in UNet3d.__doc__


def test_parameters_by_hand():
    network = UNet3d(
        2, 3, features=(4, 8), kernels=((3, 3, 3), (1, 3, 3)), strides=((1, 2, 2),)
    )
    norms = 2 * (4 + 4 + 8 + 8 + 4 + 4)
    encoder = 27 * (2 * 4 + 4 * 4) + 9 * (4 * 8 + 8 * 8)
    up = 4 * 8 * 4 + 4
    decoder = 27 * (8 * 4 + 4 * 4)
    classifier = 4 * 3 + 3
    assert count_parameters(network) == norms + encoder + up + decoder + classifier


@pytest.mark.parametrize(
    ("kernels", "strides"),
    [
        (((3, 3, 3),) * 3, ((2, 2, 2),) * 2),
        (((1, 3, 3), (3, 3, 3), (3, 5, 3)), ((1, 2, 2), (2, 2, 1))),
    ],
)
@pytest.mark.parametrize("convolutions", [1, 2])
def test_receptive_field_is_the_support_of_the_gradient(kernels, strides, convolutions):
    torch.manual_seed(0)
    network = UNet3d(
        1,
        2,
        features=(2, 2, 2),
        kernels=kernels,
        strides=strides,
        norm="none",
        convolutions=convolutions,
    ).double()
    # Positive weights and inputs: no contribution is cut off or cancelled.
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 0.01
    for axis in range(3):
        shape = [1, 1, *network.alignment]
        shape[2 + axis] = network.alignment[axis] * 20
        middle = shape[2 + axis] // 2
        reach = []
        for phase in range(network.alignment[axis]):
            image = torch.ones(shape, dtype=torch.double, requires_grad=True)
            logits = network(image).logits
            logits.select(2 + axis, middle + phase).sum().backward()
            others = [d for d in range(5) if d != 2 + axis]
            touched = image.grad.abs().sum(dim=others).nonzero().flatten() - phase
            reach += [int(touched.min()), int(touched.max())]
        assert network.receptive_field[axis] == max(reach) - min(reach) + 1


def test_instance_norm_sees_the_whole_input():
    assert UNet3d(1, 2).receptive_field is None


def test_output_shape_is_what_comes_out():
    network = UNet3d(
        1, 2, features=(2, 4), kernels=((3, 3, 3),) * 2, strides=((1, 2, 2),)
    ).eval()
    logits = network(torch.zeros(1, 1, 5, 6, 8)).logits
    assert tuple(logits.shape[2:]) == network.output_shape((5, 6, 8)) == (5, 6, 8)
    with pytest.raises(GeometryError, match="divisible"):
        network.output_shape((5, 7, 8))


def test_deep_supervision_speaks_only_in_training():
    network = UNet3d(
        1,
        2,
        features=(2, 4, 4),
        kernels=((3, 3, 3),) * 3,
        strides=((2, 2, 2),) * 2,
        deep_supervision=True,
    )
    image = torch.zeros(1, 1, 8, 8, 8)
    output = network.train()(image)
    assert [tuple(z.shape[2:]) for z in output.coarse_logits] == [(4, 4, 4)]
    assert network.eval()(image).coarse_logits == ()


def test_taps_give_the_activations_asked_for():
    network = UNet3d(
        1, 2, features=(2, 4), kernels=((3, 3, 3),) * 2, strides=((2, 2, 2),)
    ).eval()
    output = network(torch.randn(1, 1, 4, 4, 4), taps=("decoder.0", "encoder.1"))
    assert [tuple(a.shape) for a in output.activations] == [
        (1, 2, 4, 4, 4),
        (1, 4, 2, 2, 2),
    ]
    torch.testing.assert_close(
        network.classifiers[-1](output.activations[0]), output.logits
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_instance_norm_equals_pytorchs(dtype):
    torch.manual_seed(0)
    norm = InstanceNorm3d(6)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    image = torch.randn(3, 6, 4, 5, 6).to(dtype)
    ours = image.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    reference = image.float().requires_grad_()
    expected = F.instance_norm(reference, weight=norm.weight, bias=norm.bias)
    weight_gradient, bias_gradient, image_gradient = torch.autograd.grad(
        (expected**3).sum(), [norm.weight, norm.bias, reference]
    )
    result = norm(ours)
    (result.float() ** 3).sum().backward()
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-4}
        if dtype == torch.float32
        else {"rtol": 5e-2, "atol": 2e-1}
    )
    torch.testing.assert_close(result.float(), expected, **tolerance)
    torch.testing.assert_close(ours.grad.float(), image_gradient, **tolerance)
    scale = weight_gradient.abs().max()
    assert (norm.weight.grad - weight_gradient).abs().max() < 0.02 * scale
    assert (norm.bias.grad - bias_gradient).abs().max() < 0.02 * scale
