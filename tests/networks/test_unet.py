"""The U-Nets' sizes, geometry and layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal.building import network as built
from foveal.config.networks.registry import NETWORK_SECTIONS
from foveal.errors import GeometryError, SettingsError
from foveal.inference.numerics import apply_layout
from foveal.networks.blocks import InstanceNorm
from foveal.networks.unet import ResidualConvolutions, UNet

SIZES = [
    ("unet3d", 1, 3, 1_401_299),
    ("unet2d", 1, 3, 7_762_531),
    ("unet3d-residual", 1, 3, 1_412_547),
    ("unet3d-sum", 4, 5, 5_023_237),
    ("unet3d-concatenated", 4, 5, 5_603_845),
]


def unet(name="unet3d", in_channels=1, num_classes=2, **options):
    return built(name, in_channels=in_channels, num_classes=num_classes, **options)


def small(dimensions=3, stages=3, **options):
    """A narrow U-Net of so many axes."""
    return unet(
        f"unet{dimensions}d",
        **{
            "features": (2, 4, 4)[:stages],
            "kernels": ((3,) * dimensions,) * stages,
            "strides": ((2,) * dimensions,) * (stages - 1),
        }
        | options,
    )


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "in_channels", "num_classes", "count"), SIZES)
def test_defaults_have_the_stated_numbers_of_parameters(
    name, in_channels, num_classes, count
):
    network = unet(name, in_channels, num_classes)
    assert count_parameters(network) == count
    assert f"{count:,}" in UNet.__doc__


@pytest.mark.parametrize("extra", [{}, {"skips": "summed"}, {"residual": True}])
def test_parameters_by_hand(extra):
    network = unet(
        "unet3d",
        2,
        3,
        features=(4, 8),
        kernels=((3, 3, 3), (1, 3, 3)),
        strides=((1, 2, 2),),
        **extra,
    )
    norms = 2 * (4 + 4 + 8 + 8 + 4 + 4)
    encoder = 27 * (2 * 4 + 4 * 4) + 9 * (4 * 8 + 8 * 8)
    up = 4 * 8 * 4 + 4
    decoder = 27 * ((4 if extra.get("skips") == "summed" else 8) * 4 + 4 * 4)
    shortcuts = 2 * 4 + 2 * 4 + 4 * 8 + 2 * 8 if extra.get("residual") else 0
    classifier = 4 * 3 + 3
    assert count_parameters(network) == (
        norms + encoder + up + decoder + shortcuts + classifier
    )


def test_names_and_draws_of_the_planners_network_stay():
    torch.manual_seed(0)
    network = unet("unet3d", 1, 3)
    state = network.state_dict()
    assert list(state)[:3] == [
        "encoder.0.0.0.weight",
        "encoder.0.0.1.weight",
        "encoder.0.0.1.bias",
    ]
    assert list(state)[-4:] == [
        "decoder.2.1.1.weight",
        "decoder.2.1.1.bias",
        "classifiers.0.weight",
        "classifiers.0.bias",
    ]
    image = (0.37 * torch.arange(4096.0)).sin().reshape(1, 1, 16, 16, 16)
    logits = network.eval()(image).logits
    torch.testing.assert_close(
        logits[0, :, 3, 8, 13],
        torch.tensor([0.645957, -0.409740, -0.896853]),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("kernels", "strides"),
    [
        (((3, 3, 3),) * 3, ((2, 2, 2),) * 2),
        (((1, 3, 3), (3, 3, 3), (3, 5, 3)), ((1, 2, 2), (2, 2, 1))),
        (((3, 1), (3, 3), (3, 5)), ((1, 2), (2, 2))),
    ],
)
@pytest.mark.parametrize("convolutions", [1, 2])
@pytest.mark.parametrize(
    "variant",
    [{}, {"downsampling": "max_pool", "skips": "summed"}, {"residual": True}],
    ids=lambda variant: "-".join(variant),
)
def test_receptive_field_is_the_support_of_the_gradient(
    kernels, strides, convolutions, variant
):
    torch.manual_seed(0)
    dimensions = len(kernels[0])
    network = small(
        dimensions,
        features=(1, 1, 1),
        kernels=kernels,
        strides=strides,
        norm="none",
        convolutions=convolutions,
        **variant,
    ).double()
    see_all_that_is_pooled(network)
    # Positive weights and inputs: no contribution is cut off or cancelled.
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 0.01
    for axis in range(dimensions):
        shape = [1, 1, *network.alignment]
        shape[2 + axis] = network.alignment[axis] * 24
        middle = shape[2 + axis] // 2
        image = torch.ones(shape, dtype=torch.double, requires_grad=True)
        logits = network(image).logits
        reach = []
        for phase in range(network.alignment[axis]):
            (gradient,) = torch.autograd.grad(
                logits.select(2 + axis, middle + phase).sum(), image, retain_graph=True
            )
            others = [d for d in range(2 + dimensions) if d != 2 + axis]
            touched = gradient.abs().sum(dim=others).nonzero().flatten() - phase
            reach += [int(touched.min()), int(touched.max())]
        assert network.receptive_field[axis] == max(reach) - min(reach) + 1


def see_all_that_is_pooled(network):
    """The mean of the same windows: the gradient of a maximum reaches one voxel."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool3d):
                setattr(module, name, nn.AvgPool3d(child.kernel_size))
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size))


def test_instance_norm_sees_the_whole_input():
    assert unet().receptive_field is None
    assert unet("unet2d").receptive_field is None
    assert unet("unet3d-sum").receptive_field == (103, 103, 103)


def test_output_shape_is_what_comes_out():
    network = small(stages=2, strides=((1, 2, 2),)).eval()
    logits = network(torch.zeros(1, 1, 5, 6, 8)).logits
    assert tuple(logits.shape[2:]) == network.output_shape((5, 6, 8)) == (5, 6, 8)
    with pytest.raises(GeometryError, match="divisible"):
        network.output_shape((5, 7, 8))


def test_a_network_of_pictures_takes_pictures():
    network = unet("unet2d", num_classes=4, features=(2, 2, 2, 2, 2)).eval()
    assert network.alignment == (16, 16)
    assert network.output_shape((32, 48)) == (32, 48)
    assert network(torch.zeros(2, 1, 32, 48)).logits.shape == (2, 4, 32, 48)
    with pytest.raises(GeometryError, match="has 3 axes; the network is for 2"):
        network.output_shape((32, 48, 16))
    with pytest.raises(SettingsError, match="kernels"):
        unet("unet2d", kernels=((3, 3, 3),) * 5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_deep_supervision_speaks_only_in_training(dimensions):
    network = small(dimensions, deep_supervision=True)
    image = torch.zeros(1, 1, *(8,) * dimensions)
    output = network.train()(image)
    assert [tuple(z.shape[2:]) for z in output.coarse_logits] == [(4,) * dimensions]
    assert network.eval()(image).coarse_logits == ()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_taps_give_the_activations_asked_for(dimensions):
    network = small(dimensions, stages=2).eval()
    image = torch.randn(1, 1, *(4,) * dimensions)
    output = network(image, taps=("decoder.0", "encoder.1"))
    assert [tuple(a.shape) for a in output.activations] == [
        (1, 2, *(4,) * dimensions),
        (1, 4, *(2,) * dimensions),
    ]
    torch.testing.assert_close(
        network.classifiers[-1](output.activations[0]), output.logits
    )


def test_max_pooling_keeps_the_largest_voxel():
    network = small(stages=2, downsampling="max_pool").eval()
    features = network.encoder[0](torch.randn(1, 1, 4, 4, 4))
    torch.testing.assert_close(
        network.encoder[1](features),
        network.encoder[1][1:](F.max_pool3d(features, 2)),
    )


def test_skips_are_added():
    network = small(2, stages=2, skips="summed").eval()
    output = network(torch.randn(1, 1, 4, 6), taps=("encoder.0", "encoder.1"))
    skip, deepest = output.activations
    decoded = network.decoder[0](skip + network.upsampling[0](deepest))
    torch.testing.assert_close(network.classifiers[0](decoded), output.logits)


def test_a_residual_block_without_scale_passes_its_input_on():
    block = small(stages=1, features=(3,), residual=True, convolutions=2).encoder[0][0]
    assert isinstance(block, ResidualConvolutions)
    block.last_norm.weight.data.zero_()
    image = torch.randn(1, 1, 4, 4, 4)
    torch.testing.assert_close(block(image), F.leaky_relu(block.shortcut(image), 0.01))


@pytest.mark.parametrize("name", [name for name, *_ in SIZES])
def test_gradients_are_finite_and_reach_every_parameter(name):
    torch.manual_seed(0)
    section = NETWORK_SECTIONS[name]()
    network = unet(name, features=(4,) * len(section.features)).train()
    image = torch.randn(2, 1, *(2 * step for step in network.alignment))
    network(image).logits.square().mean().backward()
    for parameter in network.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("dimensions", [2, 3])
def test_channels_last_is_kept_through_all_stages(dimensions):
    last = torch.channels_last if dimensions == 2 else torch.channels_last_3d
    network = small(dimensions, features=(4, 8, 8)).eval()
    image = torch.randn(2, 1, *(8,) * dimensions)
    expected = network(image).logits
    apply_layout(network, "channels_last")
    names = ("encoder.0", "encoder.2", "decoder.1")
    output = network(image.contiguous(memory_format=last), names)
    for activation in output.activations:
        assert activation.is_contiguous(memory_format=last)
        assert not activation.is_contiguous()
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 6, 4, 5, 6), (3, 6, 9, 11)])
def test_channels_last_instance_norm_equals_pytorchs(dtype, shape):
    torch.manual_seed(0)
    norm = InstanceNorm(6)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    image = torch.randn(shape).to(dtype)
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    ours = image.contiguous(memory_format=last).requires_grad_()
    reference = image.float().requires_grad_()
    expected = F.instance_norm(reference, weight=norm.weight, bias=norm.bias)
    weight_gradient, bias_gradient, image_gradient = torch.autograd.grad(
        (expected**3).sum(), [norm.weight, norm.bias, reference]
    )
    result = norm(ours)
    (result.float() ** 3).sum().backward()
    if dtype == torch.float32:
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.grad, image_gradient, rtol=1e-4, atol=1e-4)
    assert (result - expected).abs().max() < 0.01 * expected.abs().max()
    error = (ours.grad - image_gradient).abs().max()
    assert error < 0.02 * image_gradient.abs().max()
    scale = weight_gradient.abs().max()
    assert (norm.weight.grad - weight_gradient).abs().max() < 0.02 * scale
    assert (norm.bias.grad - bias_gradient).abs().max() < 0.02 * scale
