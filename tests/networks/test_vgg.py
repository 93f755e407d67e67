"""VGG16: names and numbers of the common classifier, unpooling, learning at all."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal import building
from foveal.networks.vgg import VggEncoder, at_least, convolution_names, unpooled

PUBLISHED = (64, 128, 256, 512, 512)


def common_vgg16(features, head_features, in_channels=1):
    """The common classifier by its description; names as everywhere."""
    layers = []
    for stage, convolutions in enumerate((2, 2, 3, 3, 3)):
        for _ in range(convolutions):
            layers += [nn.Conv2d(in_channels, features[stage], 3, padding=1), nn.ReLU()]
            in_channels = features[stage]
        layers.append(nn.MaxPool2d(2))
    classifier = nn.Sequential(
        nn.Linear(49 * features[-1], head_features),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(head_features, head_features),
    )
    return nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": classifier})


def with_weights_of(network, vgg16):
    weights = vgg16.state_dict()
    ours = dict(network.named_parameters())
    for name, theirs in network.pretrained_names().items():
        ours[name].data = weights[theirs].view(ours[name].shape)
    return network


def test_published_size():
    with torch.device("meta"):
        encoder = VggEncoder(3, PUBLISHED, norm=False)
    assert sum(each.numel() for each in encoder.parameters()) == 14_714_688
    assert "14,714,688" in VggEncoder.__doc__


def test_names_are_those_of_the_common_file():
    names = convolution_names("encoder")
    assert len(names) == 2 * 13
    assert names["encoder.stages.0.conv1.weight"] == "features.0.weight"
    assert names["encoder.stages.2.conv1.bias"] == "features.10.bias"
    assert names["encoder.stages.4.conv3.weight"] == "features.28.weight"


@pytest.mark.parametrize(
    ("name", "prefix"), [("fcn32s", ""), ("decouplednet", "classification.")]
)
def test_fully_connected_layers_as_convolutions_give_the_same_numbers(name, prefix):
    torch.manual_seed(0)
    features, head = (2, 3, 4, 4, 5), 6
    vgg16 = common_vgg16(features, head)
    network = building.network(
        name, in_channels=1, num_classes=3, features=features, head_features=head
    )
    with_weights_of(network, vgg16).eval()
    image = torch.rand(2, 1, 224, 224)
    maps = network.get_submodule(f"{prefix}encoder")(image)[-1].maps
    if name == "fcn32s":  # whose padding is not the classifier's
        network.encoder.stages[0].conv1.padding = (1, 1)
        maps = network.encoder(image)[-1].maps
    expected = vgg16["features"](image)
    torch.testing.assert_close(maps, expected)
    fc6 = network.get_submodule(f"{prefix}fc6")(maps).relu()
    fc7 = network.get_submodule(f"{prefix}fc7")(fc6)
    vector = vgg16["classifier"].eval()(expected.flatten(1))
    middle = fc7.shape[2] // 2
    torch.testing.assert_close(fc7[:, :, middle, middle], vector)


@pytest.mark.parametrize("name", ["fcn8s", "segnet", "deconvnet", "decouplednet"])
def test_pretrained_names_are_parameters_of_the_published_shapes(name):
    with torch.device("meta"):
        network = building.network(name, in_channels=3, num_classes=21)
        vgg16 = common_vgg16(PUBLISHED, 4096, in_channels=3).state_dict()
    ours = dict(network.named_parameters())
    names = network.pretrained_names()
    assert len(names) == 26 + (0 if name == "segnet" else 4)
    for name, theirs in names.items():
        assert ours[name].numel() == vgg16[theirs].numel()


@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (1, 2)])
def test_unpooling_puts_maxima_back(shape):
    torch.manual_seed(0)
    image = torch.randn(2, 3, *shape)
    maps, indices = F.max_pool2d(image, 2, ceil_mode=True, return_indices=True)
    expected = F.max_unpool2d(maps, indices, 2, output_size=shape)
    torch.testing.assert_close(unpooled(maps, indices, shape), expected)
    half = unpooled(maps.bfloat16(), indices, shape)
    torch.testing.assert_close(half, expected.bfloat16())


def test_maps_smaller_than_a_kernel_lie_in_the_middle_of_zeros():
    padded, (rows, columns) = at_least(torch.ones(1, 1, 2, 9), 7)
    assert padded.shape == (1, 1, 7, 9)
    assert (rows, columns) == (slice(2, 4), slice(0, 9))
    assert padded.sum() == 18 == padded[0, 0, rows, columns].sum()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fcn8s", {"head_features": 16, "input_padding": 1, "dropout_fraction": 0.0}),
        ("segnet", {}),
        ("deconvnet", {"head_features": 16}),
    ],
)
def test_each_learns_where_the_bright_squares_are(name, options):
    torch.manual_seed(0)
    network = building.network(
        name, in_channels=1, num_classes=2, features=(8,) * 5, **options
    )
    image = torch.zeros(4, 1, 32, 32)
    for n, corner in enumerate((0, 5, 10, 15)):
        image[n, 0, corner : corner + 16, corner // 2 : corner // 2 + 20] = 1
    label_map = image[:, 0].long()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(35):
        loss = F.cross_entropy(network(image).logits, label_map)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    predicted = network(image).logits.argmax(dim=1)
    overlap = (predicted * label_map).sum()
    assert 2 * overlap / (predicted.sum() + label_map.sum()) > 0.85
