"""Activations of layers come to lie where they belong on the grid of the logits."""

import pytest
import torch

from foveal import building
from foveal.config.networks.registry import NETWORK_SECTIONS
from foveal.errors import SettingsError
from foveal.networks.crf_rnn import CrfRnn, MeanFieldLayer
from foveal.networks.interface import UnknownLayerError, late_layers
from foveal.networks.places import spread
from foveal.networks.slices import SliceBySlice

VGG = {"features": (2, 2, 4, 4, 4)}
FCN = VGG | {"head_features": 4, "input_padding": 100}
RESNET = {"backbone": "resnet18", "first_features": 4}
PLANE = {
    "features": (2, 4),
    "kernels": ((3, 3),) * 2,
    "strides": ((2, 4),),
    "norm": "none",
}
DEEPMEDIC = {
    "features": (2, 2, 3, 3),
    "factors": (1, 3),
    "residual_layers": (),
    "hidden_features": (4, 4),
    "hidden_dropout_fractions": (0.0,),
}
NETWORKS = {
    "fcn8s, little padding": ("fcn8s", FCN | {"input_padding": 1}, 32),
    "fcn8s": ("fcn8s", FCN, 32),
    "segnet": ("segnet", VGG, 32),
    "deconvnet": ("deconvnet", VGG | {"head_features": 4}, 64),
    "decouplednet": (
        "decouplednet",
        VGG | {"head_features": 4, "bridge_features": 4},
        32,
    ),
    "deeplabv2": ("deeplabv2", RESNET, 8),
    "deeplabv2, vgg16": (
        "deeplabv2",
        {"backbone": "vgg16", "first_features": 4},
        8,
    ),
    "deeplabv3": ("deeplabv3", RESNET | {"output_stride": 16, "head_features": 4}, 16),
    "unet2d": ("unet2d", PLANE, 4),
    "deepmedic2d": ("deepmedic2d", DEEPMEDIC, 3),
}
"""Network, options, and voxels under one of the coarsest layer."""


def made(name, options, **more):
    torch.manual_seed(0)
    network = building.network(name, in_channels=1, num_classes=2, **options, **more)
    return network.eval()


def test_a_part_is_filled_with_the_voxels_that_cover_it():
    layer = torch.tensor([10.0, 20.0, 30.0]).reshape(1, 1, 3, 1)
    # Blocks of 4 that begin 3 voxels before the logits do.
    whole = spread(layer, (slice(0, 11), slice(0, 2)), (4, 1), (-3, 0))
    column = [10, 20, 20, 20, 20, 30, 30, 30, 30, 30, 30]
    assert whole[0, 0].tolist() == [[value, value] for value in column]
    part = spread(layer, (slice(4, 6), slice(0, 1)), (4, 1), (-3, 0))
    assert part.flatten().tolist() == [20, 30]
    # A layer that begins later, and one that ends before the part does.
    late = spread(layer, (slice(0, 6), slice(0, 1)), (2, 1), (5, 0))
    assert late.flatten().tolist() == [10] * 6
    beyond = spread(layer, (slice(20, 22), slice(0, 1)), (4, 1), (0, 0))
    assert beyond.flatten().tolist() == [30, 30]


@pytest.mark.parametrize("case", NETWORKS)
def test_a_changed_voxel_changes_activations_around_its_place(case):
    name, options, coarsest = NETWORKS[case]
    network = made(name, options)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.abs_()
    output_shape = (117, 131)
    shape = network.fitting_shape(
        [
            before + length + after
            for length, (before, after) in zip(
                output_shape, network.all_margins, strict=True
            )
        ]
    )
    places = (60, 64)
    image = torch.rand(1, 1, *shape)
    changed = image.clone()
    at = [
        before + place
        for place, (before, _) in zip(places, network.all_margins, strict=True)
    ]
    # Every pathway sees one of these voxels.
    changed[:, :, at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2] += 3
    layers = network.adapted_layers
    with torch.no_grad():
        first, second = network(image, layers), network(changed, layers)
        predicted = first.logits.shape[2:]
        window = (slice(56, 69), slice(45, 58))
        for tap, before, after in zip(
            layers, first.activations, second.activations, strict=True
        ):
            shown, moved = (
                network.at_output(tap, each, predicted) for each in (before, after)
            )
            assert shown.shape == (1, before.shape[1], *predicted), tap
            part = network.at_output(tap, before, predicted, window)
            assert torch.equal(part, shown[:, :, *window]), tap
            effect = (moved - shown).abs().sum(dim=(0, 1))
            assert effect.sum() > 0, tap
            for axis, place in enumerate(places):
                along = effect.sum(dim=1 - axis)
                mean = (along * torch.arange(len(along))).sum() / along.sum()
                assert abs(mean - place) <= coarsest / 2 + 1, (tap, axis)


def test_where_dual_path_sees_the_wide_context():
    network = made(
        "dual-path",
        {
            "convolution_features": (2, 2),
            "block_features": (2, 3, 3),
            "bottleneck_features": ((2, 4),),
            "hidden_features": (5,),
        },
    )
    margin, length = network.margins[0], 8
    shape = (margin[0] + length + margin[1],) * 3
    # Pathways that do nothing but lose their borders.
    cropping = [
        torch.nn.Identity() if n in (1, 3) else Crop(module)
        for n, module in enumerate(network.sharp)
    ]
    image = torch.arange(float(shape[0]))[:, None, None].expand(1, 1, *shape)
    assert network.adapted_layers == (
        *("sharp.3", "sharp.5", "sharp.7", "wide.3", "wide.5", "wide.7"),
        "hidden.3",
    )
    output_shape, places = (length,) * 3, torch.arange(8.0) + margin[0]
    pathways = network.adapted_layers[:-1]
    with torch.no_grad():
        sharp = network._sharp_input(image, output_shape)
        wide = network._wide_input(image, output_shape)
        for name, features in (("sharp", sharp), ("wide", wide)):
            # The first voxel of every block of four stands for it.
            expected = places - (places - margin[0]) % (4 if name == "wide" else 1)
            for n, module in enumerate(cropping):
                features = module(features)
                if f"{name}.{n}" in pathways:
                    shown = network.at_output(f"{name}.{n}", features, output_shape)
                    assert shown[0, 0, :, 3, 3].tolist() == expected.tolist()


class Crop(torch.nn.Module):
    """Loses the borders that a module's convolutions lose."""

    def __init__(self, module):
        super().__init__()
        blocks = {"BasicBlock": 2, "BottleneckBlock": 1, "Sequential": 1}
        self.border = blocks[type(module).__name__]

    def forward(self, image):
        inside = slice(self.border, -self.border)
        return image[:, :, inside, inside, inside]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["unet2d", "deepmedic2d"])
def test_slices_come_back_to_their_patches(name, axis):
    network = made(*NETWORKS[name][:2])
    volume = SliceBySlice(network, axis)
    assert volume.adapted_layers == network.adapted_layers
    plane = network.fitting_shape((20, 24))
    shape = [*plane[:axis], 3, *plane[axis:]]
    image = torch.randn(2, 1, *shape)
    layers = volume.adapted_layers
    with torch.no_grad():
        output = volume(image, layers)
        predicted = output.logits.shape[2:]
        window = [slice(1, length) for length in predicted]
        for tap, activation in zip(layers, output.activations, strict=True):
            shown = volume.at_output(tap, activation, predicted)
            part = volume.at_output(tap, activation, predicted, window)
            assert torch.equal(part, shown[:, :, *window])
            of_slice = network(image[1].select(axis + 1, 2)[None], (tap,))
            alone = network.at_output(
                tap, of_slice.activations[0], of_slice.logits.shape[2:]
            )
            torch.testing.assert_close(shown[1].select(axis + 1, 2), alone[0])


def test_a_crf_behind_it_changes_nothing():
    network = made("unet2d", PLANE)
    layer = MeanFieldLayer(
        2,
        (1.0, 1.0),
        iterations=1,
        prediction_iterations=1,
        smoothness_mm=1.0,
        appearance_mm=2.0,
        appearance_deviations=(1.0,),
        smoothness_weight=1.0,
        appearance_weight=1.0,
        normalisation="symmetric",
    )
    refined = CrfRnn(network, layer)
    activation = torch.randn(1, 4, 4, 2)
    assert refined.adapted_layers == network.adapted_layers
    assert torch.equal(
        refined.at_output("encoder.1", activation, (8, 8)),
        network.at_output("encoder.1", activation, (8, 8)),
    )


def test_decouplednet_has_no_map_of_an_image_behind_its_bridge():
    network = made("decouplednet", NETWORKS["decouplednet"][1])
    with pytest.raises(SettingsError, match=r"a map per class .*any of pool1 to pool5"):
        network.at_output("decoder.0", torch.zeros(2, 1, 1, 1), (32, 32))


@pytest.mark.parametrize(
    ("layers", "late"), [(8, [4, 6, 8]), (11, [6, 9, 11]), (4, [2, 3, 4]), (1, [1])]
)
def test_late_layers_are_the_middle_one_that_at_three_quarters_and_the_last(
    layers, late
):
    assert late_layers(layers) == late


def test_deepmedic_adapts_the_layers_of_the_thesis():
    with torch.device("meta"):
        thesis = made("deepmedic-thesis", {})
        three = made("deepmedic", {})
    assert thesis.adapted_layers == (
        *("sharp.4", "sharp.6", "sharp.8", "wide.4", "wide.6", "wide.8"),
        "hidden.2",
    )
    assert "wide2.8" in three.adapted_layers
    assert len(three.adapted_layers) == 10


def test_every_own_network_has_layers_that_are_adapted():
    for name, section in NETWORK_SECTIONS.items():
        options = section(name=name).model_dump(exclude={"name"})
        if ":" in name:
            continue
        with torch.device("meta"):
            network = building.network(name, in_channels=1, num_classes=2, **options)
        assert network.adapted_layers, name


def test_a_wrong_layer_is_answered_with_those_there_are():
    network = made("unet2d", PLANE)
    with pytest.raises(UnknownLayerError) as caught:
        network(torch.zeros(1, 1, 8, 8), ("decoder.7",))
    assert caught.value.names == ("encoder.0", "encoder.1", "decoder.0")
