"""Four ways to classify every voxel with a network that has strides, all alike."""

import itertools

import pytest
import torch
from torch import nn

from foveal.errors import GeometryError
from foveal.inference.atrous import atrous
from foveal.inference.chains import Chain, interleaved, shifted_copies
from foveal.inference.fast_scanning import fast_scanning
from foveal.inference.patch_by_patch import patch_by_patch
from foveal.inference.shift_and_stitch import shift_and_stitch

FAST_WAYS = [shift_and_stitch, fast_scanning]


def chain(axes, *, pools, kernel=3, dtype=torch.double):
    """Convolution and pooling in turn, then a classifier that was fully connected."""
    torch.manual_seed(0)
    convolution = (nn.Conv2d, nn.Conv3d)[axes - 2]
    pooling = (nn.MaxPool2d, nn.MaxPool3d)[axes - 2]
    norm = (nn.BatchNorm2d, nn.BatchNorm3d)[axes - 2]
    layers = nn.Sequential()
    channels = 2
    for size, stride in pools:
        layers.append(
            nn.Sequential(convolution(channels, 3, kernel), norm(3), nn.LeakyReLU())
        )
        layers.append(pooling(size, stride))
        channels = 3
    layers.append(nn.Sequential(convolution(channels, 4, 2), nn.Tanh()))
    layers.append(convolution(4, 2, 1))
    for layer in layers.modules():
        if isinstance(layer, norm):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    return layers.eval().to(dtype)


CHAINS = {
    "one pooling of 2": (2, {"pools": [(2, 2)]}),
    "three of 2": (2, {"pools": [(2, 2)] * 3}),
    "2, then 3, even kernels": (2, {"pools": [(2, 2), (3, 3)], "kernel": 2}),
    "overlapping pooling, size 3 and stride 2": (2, {"pools": [(3, 2), (3, 2)]}),
    "axes unlike one another": (2, {"pools": [((2, 3), (2, 3)), ((2, 1), (2, 1))]}),
    "two of 2, volume": (3, {"pools": [(2, 2), (2, 2)], "kernel": 2}),
    "one of 3, volume": (3, {"pools": [(3, 3)]}),
}


@pytest.mark.parametrize("way", FAST_WAYS)
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("excess", [0, 1, 4])
def test_each_way_equals_the_atrous_network(way, name, excess):
    axes, options = CHAINS[name]
    layers = chain(axes, **options)
    shape = [n + excess + axis for axis, n in enumerate(Chain(layers).receptive_field)]
    image = torch.randn(2, 2, *shape, dtype=torch.double)
    with torch.no_grad():
        expected = atrous(layers)(image)
    result = way(layers, image)
    assert result.shape == expected.shape
    assert (result - expected).abs().max() < 1e-12


@pytest.mark.parametrize("way", FAST_WAYS)
@pytest.mark.parametrize("name", CHAINS)
def test_each_way_equals_the_atrous_network_in_single_precision(way, name):
    axes, options = CHAINS[name]
    layers = chain(axes, **options, dtype=torch.float32)
    shape = [n + 3 for n in Chain(layers).receptive_field]
    image = torch.randn(1, 2, *shape)
    with torch.no_grad():
        expected = atrous(layers)(image)
    assert (way(layers, image) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("name", CHAINS)
def test_atrous_network_equals_the_classifier_of_patches(name):
    axes, options = CHAINS[name]
    layers = chain(axes, **options)
    shape = [n + 2 + axis for axis, n in enumerate(Chain(layers).receptive_field)]
    image = torch.randn(2, 2, *shape, dtype=torch.double)
    dense = patch_by_patch(layers, image)
    assert dense.shape[2:] == Chain(layers).dense_shape(shape)
    with torch.no_grad():
        assert (atrous(layers)(image) - dense).abs().max() < 1e-12
    # One of them by hand, in the middle.
    field = Chain(layers).receptive_field
    patch = image[:, :, *(slice(1, 1 + size) for size in field)]
    with torch.no_grad():
        by_hand = layers(patch).flatten(1)
    torch.testing.assert_close(dense[:, :, *(1 for _ in field)], by_hand)


def test_strided_network_is_every_nth_prediction():
    layers = chain(2, pools=[(2, 2), (3, 3)])
    image = torch.randn(1, 2, 41, 44, dtype=torch.double)
    with torch.no_grad():
        sparse = layers(image)
    dense = fast_scanning(layers, image)
    assert Chain(layers).stride == (6, 6)
    torch.testing.assert_close(dense[..., ::6, ::6], sparse)


def test_convolutions_with_stride_and_dilation_are_handled_like_pooling():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, dilation=2), nn.Conv2d(3, 2, 2, stride=(1, 3))
    ).double()
    image = torch.randn(1, 1, 13, 15, dtype=torch.double)
    with torch.no_grad():
        expected = atrous(layers)(image)
        for way in FAST_WAYS:
            torch.testing.assert_close(way(layers, image), expected)


def test_receptive_field_and_stride_by_hand():
    layers = chain(2, pools=[(2, 2), (2, 2)])
    # 3 and 2 at stride 1, 3 and 2 at stride 2, 2 at stride 4.
    assert Chain(layers).receptive_field == (1 + 2 + 1 + 4 + 2 + 4,) * 2
    assert Chain(layers).stride == (4, 4)
    with torch.no_grad():
        patch = torch.zeros(1, 2, 14, 14, dtype=torch.double)
        assert layers(patch).shape[2:] == (1, 1)


def test_copies_are_put_back_in_their_places():
    maps = torch.arange(48.0).reshape(2, 1, 4, 6)
    copies = shifted_copies(maps, (2, 3))
    assert len(copies) == 6
    every_nth = torch.cat([copy[..., ::2, ::3] for copy in copies])
    assert torch.equal(interleaved(every_nth, (2, 3)), maps)


def test_atrous_network_shares_weights_and_leaves_the_layers_alone():
    layers = chain(2, pools=[(2, 2)])
    dense = atrous(layers)
    ours, theirs = list(dense.parameters()), list(layers.parameters())
    assert all(a is b for a, b in zip(ours, theirs, strict=True))
    pooling, classifier = layers[1], layers[2][0]
    assert (pooling.stride, classifier.dilation) == (2, (1, 1))
    assert [layer.dilation for layer in dense if hasattr(layer, "dilation")] == [
        (1, 1),
        (1, 1),
        (2, 2),
        (2, 2),
    ]


@pytest.mark.parametrize(
    ("layers", "error", "match"),
    [
        ([nn.Conv2d(1, 1, 3, padding=1)], ValueError, r"pads by \(1, 1\)"),
        ([nn.Conv2d(1, 1, 3, padding="same")], ValueError, "pads by same"),
        ([nn.MaxPool2d(2, padding=1)], ValueError, "pads by 1"),
        ([nn.MaxPool2d(2, ceil_mode=True)], ValueError, "rounds up"),
        ([nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)], ValueError, "call eval"),
        ([nn.Conv2d(1, 1, 3), nn.Conv3d(1, 1, 3)], ValueError, "all 2D or all 3D"),
        ([nn.ReLU()], ValueError, "needs convolutions"),
        ([nn.Conv2d(1, 1, 3), nn.InstanceNorm2d(1)], TypeError, "InstanceNorm2d"),
        ([nn.AvgPool2d(2)], TypeError, "AvgPool2d"),
    ],
)
@pytest.mark.parametrize("way", [*FAST_WAYS, patch_by_patch])
def test_what_cannot_be_shifted_is_refused(way, layers, error, match):
    with pytest.raises(error, match=match):
        way(layers, torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("way", [*FAST_WAYS, patch_by_patch])
def test_image_smaller_than_a_patch_is_refused(way):
    with pytest.raises(GeometryError, match=r"\(7, 9\) must be at least \(8, 8\)"):
        way(chain(2, pools=[(3, 2)], kernel=4), torch.zeros(1, 2, 7, 9))


def test_every_shift_is_made_once():
    maps = torch.zeros(1, 1, 5, 5, 5)
    maps[0, 0, 1, 1, 1] = 1
    first = [bool(copy[0, 0, 0, 0, 0]) for copy in shifted_copies(maps, (2, 2, 2))]
    offsets = list(itertools.product((0, 1), repeat=3))
    assert [offset for offset, is_there in zip(offsets, first, strict=True) if is_there]
    assert sum(first) == 1


@pytest.mark.parametrize("way", FAST_WAYS)
def test_a_first_layer_that_works_in_place_sees_every_voxel_once(way):
    layers = chain(2, pools=[(2, 2), (2, 2)])
    first = nn.LeakyReLU(0.5, inplace=True)
    image = torch.randn(1, 2, 17, 17, dtype=torch.double)
    kept = image.clone()
    expected = way(layers, first(image.clone()))
    torch.testing.assert_close(way([first, *layers], image), expected)
    assert torch.equal(image, kept)
