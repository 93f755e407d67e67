"""EMMA's fully convolutional networks: size, geometry and the two decoders."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal import building
from foveal.errors import SettingsError
from foveal.networks.fcn3d import FCN3d

TINY = {"features": (2, 3, 4), "strides": ((2, 2, 2), (2, 2, 2)), "convolutions": 1}


def made(name="fcn3d", in_channels=1, num_classes=3, **options):
    torch.manual_seed(0)
    return building.network(
        name, in_channels=in_channels, num_classes=num_classes, **options
    ).eval()


@pytest.mark.parametrize(
    ("name", "count", "field"),
    [
        ("fcn3d", 881_667, 89),
        ("fcn3d-residual", 2_068_915, 149),
        ("fcn3d-shallow", 510_195, 69),
    ],
)
def test_variants_have_the_stated_size_and_field(name, count, field):
    network = made(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert f"{count:,}" in FCN3d.__doc__
    assert network.receptive_field == (field,) * 3
    assert network.padding == "same"


def test_parameters_by_hand():
    network = made(
        in_channels=2,
        num_classes=5,
        features=(4, 8),
        strides=((1, 2, 2),),
        residual=True,
    )
    convolutions = 27 * (2 * 4 + 3 * 4 * 4 + 4 * 8 + 3 * 8 * 8)
    shortcuts = 2 * 4 + 4 * 8
    norms = 2 * (4 * 5 + 8 * 5)
    scores = 8 * 5 + 4 * 5 + 5
    upsampling = 5 * 5 * 1 * 4 * 4
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == convolutions + shortcuts + norms + scores + upsampling


def test_third_variant_has_one_downsampling_less():
    assert made("fcn3d-residual").alignment == (8, 8, 8)
    assert made("fcn3d-shallow").alignment == (4, 4, 4)


@pytest.mark.parametrize("decoder", ["sum", "concatenate"])
@pytest.mark.parametrize(
    ("strides", "score_kernel", "residual"),
    [
        (((2, 2, 2), (2, 2, 2)), 1, False),
        (((2, 2, 2), (2, 2, 2)), 3, False),
        (((1, 2, 3),), 3, True),
    ],
)
def test_receptive_field_is_the_support_of_the_gradient(
    decoder, strides, score_kernel, residual
):
    network = made(
        features=(2,) * (len(strides) + 1),
        strides=strides,
        convolutions=1,
        residual=residual,
        decoder=decoder,
        score_kernel=score_kernel,
    ).double()
    # Positive weights: no contribution is cut off or cancelled.
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 0.01
    # The largest value alone has a gradient; the average of the same voxels shows all.
    for stage, stride in zip(network.encoder[1:], strides, strict=True):
        stage[0] = nn.AvgPool3d(stride)
    for axis in range(3):
        field = network.receptive_field[axis]
        shape = list(network.alignment)
        shape[axis] *= 2 * (field // shape[axis]) + 3
        middle = shape[axis] // 2 // network.alignment[axis] * network.alignment[axis]
        reach = []
        for phase in range(network.alignment[axis]):
            image = torch.ones((1, 1, *shape), dtype=torch.double, requires_grad=True)
            logits = network(image).logits
            assert tuple(logits.shape[2:]) == network.output_shape(shape)
            logits.select(2 + axis, middle + phase).sum().backward()
            others = [d for d in range(5) if d != 2 + axis]
            touched = image.grad.abs().sum(dim=others).nonzero().flatten() - phase
            reach += [int(touched.min()), int(touched.max())]
        assert field == max(reach) - min(reach) + 1


def written_as_sum(network, **options):
    """The same function in the other arrangement (eq. 2.89 to 2.92 of the thesis)."""
    sums = made(**options, decoder="sum")
    sums.encoder.load_state_dict(network.encoder.state_dict())
    sums.scores[0].load_state_dict(network.scores[0].state_dict())
    for n, (upsampling, score) in enumerate(
        zip(network.upsampling, network.scores[1:], strict=True)
    ):
        classes = score.weight.shape[0]
        reads_scores, reads_features = (
            score.weight[:, :classes],
            score.weight[:, classes:],
        )
        sums.upsampling[n].weight.data = F.conv3d(
            upsampling.weight, reads_scores, padding=score.weight.shape[-1] - 1
        )
        sums.scores[1 + n].weight.data = reads_features
        if score.bias is not None:
            sums.scores[1 + n].bias.data = score.bias
    return sums


@pytest.mark.parametrize(
    ("score_kernel", "border"),
    # At half the resolution the outermost voxel differs; upsampling takes that to the
    # third voxel of the image, and the last convolution to the fourth.
    [(1, 0), (3, 4)],
)
def test_concatenating_can_be_written_as_a_sum(score_kernel, border):
    options = {**TINY, "score_kernel": score_kernel}
    network = made(**options, decoder="concatenate")
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    image = torch.randn(1, 1, 24, 24, 24)
    with torch.no_grad():
        expected = network(image).logits
        result = written_as_sum(network, **options)(image).logits
    inside = (..., *[slice(border, 24 - border)] * 3)
    torch.testing.assert_close(result[inside], expected[inside], atol=1e-5, rtol=1e-5)
    if border:
        assert (result - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("score_kernel", "saved"),
    # Per stage step: kernels of 4 (then 1), or of 6 against 4 then 3; 3 x 3 classes.
    [(1, -9), (3, 9 * (6**3 - 4**3 - 3**3))],
)
def test_sum_has_more_weights_where_kernels_follow_each_other(score_kernel, saved):
    sums, concatenates = (
        sum(
            parameter.numel()
            for parameter in made(
                **TINY, decoder=decoder, score_kernel=score_kernel
            ).parameters()
        )
        for decoder in ("sum", "concatenate")
    )
    assert sums - concatenates == 2 * saved


def test_both_arrangements_begin_as_the_same_function():
    sums, concatenates = (made(**TINY, decoder=name) for name in ("sum", "concatenate"))
    for ours, theirs in zip(sums.scores[1:], concatenates.scores[1:], strict=True):
        ours.weight.data = theirs.weight.data[:, 3:]
    sums.encoder.load_state_dict(concatenates.encoder.state_dict())
    sums.scores[0].load_state_dict(concatenates.scores[0].state_dict())
    image = torch.randn(2, 1, 8, 8, 12)
    torch.testing.assert_close(sums(image).logits, concatenates(image).logits)


def test_sum_of_upsampled_scores_is_one_classifier_of_all_upsampled_features():
    network = made(**TINY)
    image = torch.randn(1, 1, 8, 12, 8)
    pyramid = network(image, taps=("encoder.0", "encoder.1", "encoder.2")).activations

    def upsampled(features):
        # The deconvolution as it begins: linear interpolation of every channel.
        channels = features.shape[1]
        kernel = network.upsampling[0].weight[:1, :1].expand(channels, 1, -1, -1, -1)
        return F.conv_transpose3d(
            features, kernel, stride=2, padding=1, groups=channels
        )

    features = torch.cat(
        [pyramid[0], upsampled(pyramid[1]), upsampled(upsampled(pyramid[2]))], dim=1
    )
    weight = torch.cat([score.weight for score in reversed(network.scores)], dim=1)
    classified = F.conv3d(features, weight, network.scores[-1].bias)
    torch.testing.assert_close(network(image).logits, classified, atol=1e-5, rtol=1e-5)


def test_upsampling_begins_as_linear_interpolation():
    network = made(**TINY, num_classes=2)
    scores = torch.randn(1, 2, 5, 6, 7)
    expected = F.interpolate(scores, scale_factor=2, mode="trilinear")
    inside = (..., *[slice(1, -1)] * 3)
    torch.testing.assert_close(network.upsampling[0](scores)[inside], expected[inside])


def test_taps_give_the_activations_asked_for():
    output = made(**TINY)(torch.randn(1, 1, 8, 8, 8), taps=("scores.1", "encoder.2"))
    assert [tuple(a.shape) for a in output.activations] == [
        (1, 3, 4, 4, 4),
        (1, 4, 2, 2, 2),
    ]


@pytest.mark.parametrize("name", ["fcn3d", "fcn3d-residual", "fcn3d-shallow"])
def test_learns_a_box(name):
    network = made(name, num_classes=2, features=(4, 8), strides=((2, 2, 2),)).train()
    image = torch.zeros(1, 1, 8, 8, 8)
    image[..., 2:6, 3:7, 1:5] = 1
    target = image[:, 0].long()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(25):
        optimiser.zero_grad()
        F.cross_entropy(network(image + 0.1).logits, target).backward()
        optimiser.step()
    assert (network(image + 0.1).logits.argmax(1) == target).float().mean() > 0.98


def test_residual_blocks_can_begin_as_the_identity():
    network = made("fcn3d-residual", features=(2,), strides=(), convolutions=2)
    block = network.encoder[0][1]
    nn.init.zeros_(block.last_norm.weight)
    features = torch.rand(1, 2, 3, 3, 3)
    assert torch.equal(block(features), features)


def test_stages_must_agree():
    with pytest.raises(SettingsError, match="needs 1"):
        made(features=(2, 4), strides=())
    with pytest.raises(SettingsError, match="must be odd"):
        made(score_kernel=2)
