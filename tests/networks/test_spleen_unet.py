"""The spleen U-Net's size, geometry and layers."""

import pytest
import torch
from torch import nn

from foveal.building import network as built
from foveal.networks.spleen_unet import SpleenUNet

COUNTS = [
    (8, 1, "batch", 1_337_090),
    (8, 3, "batch", 1_619_970),
    (10, 1, "batch", 2_088_402),
    (10, 3, "batch", 2_530_402),
    (8, 1, "none", 1_335_618),
    (8, 3, "none", 1_618_498),
]


def spleen_unet(**options):
    return built("unet3d-spleen", in_channels=1, num_classes=2, **options)


@pytest.mark.parametrize(("width", "kernel", "norm", "count"), COUNTS)
def test_numbers_of_parameters_are_those_of_the_report(width, kernel, norm, count):
    network = spleen_unet(width=width, upsampling_kernel=kernel, norm=norm)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert f"{count:,}" in " ".join(SpleenUNet.__doc__.split())


@pytest.mark.parametrize(
    ("kernel", "farthest", "field"), [(1, (2, 13), 215), (3, (3, 12), 245)]
)
def test_receptive_field_is_the_support_of_the_gradient(kernel, farthest, field):
    network = spleen_unet(width=1, upsampling_kernel=kernel, norm="none").double()
    # The mean of the same windows: the gradient of a maximum reaches one voxel.
    for stage in network.encoder[1:]:
        stage[0] = nn.AvgPool3d(2)
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 0.01
    # Of the 16 phases, those that look farthest on and farthest back.
    image = torch.ones(1, 1, 384, 16, 16, dtype=torch.double, requires_grad=True)
    logits = network(image).logits
    reach = []
    for phase in farthest:
        (gradient,) = torch.autograd.grad(
            logits[:, :, 192 + phase].sum(), image, retain_graph=True
        )
        touched = gradient.abs().sum(dim=(0, 1, 3, 4)).nonzero().flatten() - phase
        reach += [int(touched.min()), int(touched.max())]
    assert max(reach) - min(reach) + 1 == field
    assert network.receptive_field == (field,) * 3


def test_dropout_is_drawn_after_every_stage_but_the_first():
    torch.manual_seed(0)
    network = spleen_unet(width=2, norm="none", dropout_fraction=0.5)
    drops = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    assert [drop.p for drop in drops] == [0.5] * 8
    image = torch.randn(1, 1, 16, 16, 16)
    names = ("encoder.0", "encoder.1")
    first, second = (network.train()(image, names).activations for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    assert torch.equal(network.eval()(image).logits, network(image).logits)


def test_taps_and_logits_agree():
    network = spleen_unet(width=2).eval()
    output = network(torch.randn(2, 1, 16, 32, 16), ("encoder.4", "decoder.3"))
    deepest, finest = output.activations
    assert deepest.shape == (2, 32, 1, 2, 1)
    assert output.coarse_logits == ()
    torch.testing.assert_close(network.classifier(finest), output.logits)
    assert network.output_shape((16, 32, 16)) == (16, 32, 16)


def test_signal_neither_dies_nor_grows_without_batch_norm():
    torch.manual_seed(0)
    network = spleen_unet(norm="none")
    deviation = network(torch.randn(1, 1, 32, 32, 32)).logits.std()
    assert 0.1 < deviation < 10
