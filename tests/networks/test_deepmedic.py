"""DeepMedic's sizes, geometry and layers; dense output against single patches."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from foveal import building
from foveal.config.networks.deepmedic import DeepMedicConfig
from foveal.config.networks.registry import NETWORK_SECTIONS
from foveal.errors import GeometryError
from foveal.networks.deepmedic import DeepMedic

PLAIN = {
    "residual_layers": (),
    "hidden_residual_layers": (),
    "hidden_kernel": 1,
    "hidden_dropout_fractions": (0.0,),
}

SMALL = PLAIN | {"features": (2, 3), "hidden_features": (4,)}

SMALL_2D = SMALL | {"dimensions": 2}

DEEP = (30, 30, 40, 40, 40, 40, 50, 50)


def network(name="deepmedic", in_channels=1, num_classes=2, **options):
    torch.manual_seed(0)
    return building.network(
        name, in_channels=in_channels, num_classes=num_classes, **options
    )


def lively(made):
    """With norms that do something, and in eval mode."""
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 1:
                parameter.data.uniform_(0.1, 1.0)
    return made.eval()


def count_parameters(made):
    return sum(parameter.numel() for parameter in made.parameters())


@pytest.mark.parametrize(
    ("name", "in_channels", "num_classes", "expected"),
    [
        ("deepmedic-thesis", 5, 2, 664_332),
        ("deepmedic-thesis", 4, 2, 662_710),
        ("deepmedic-thesis", 4, 5, 663_163),
        ("deepmedic-residual", 5, 2, 664_332 + 26 * 100 * 150),
        ("deepmedic", 2, 5, 2_008_901),
        ("deepmedic-wide", 2, 5, 5_141_051),
        ("deepmedic2d", 5, 2, 248_532),
    ],
)
def test_parameters_of_the_authors_networks(name, in_channels, num_classes, expected):
    assert count_parameters(network(name, in_channels, num_classes)) == expected


@pytest.mark.parametrize("number", ["664,332", "2,008,901", "5,141,051", "248,532"])
def test_the_class_states_its_sizes(number):
    assert number in DeepMedic.__doc__


def test_parameters_of_the_authors_smallest_example():
    tiny = network(
        "deepmedic-thesis",
        2,
        5,
        features=(4, 5, 6),
        hidden_features=(),
        hidden_dropout_fractions=(0.0,),
    )
    assert count_parameters(tiny) == 3_291


@pytest.mark.parametrize(
    ("name", "voxels", "norm_numbers", "features", "hidden", "pathways"),
    [
        # Without batch norm there is one bias per channel, with it scale and shift.
        ("deepmedic-shallow", 5**3, 1, (30, 40, 40, 50), (), 1),
        ("deepmedic-deep", 3**3, 2, DEEP, (), 1),
        ("deepmedic-bigdeep", 3**3, 2, tuple(2 * n for n in DEEP), (150, 150), 1),
        ("deepmedic2d-wider", 3**2, 2, tuple(2 * n for n in DEEP), (200, 200), 2),
        (
            "deepmedic2d-deeper",
            3**2,
            2,
            [round(30 + 20 * n / 15) for n in range(16)],
            (150, 150),
            2,
        ),
        (
            "deepmedic2d-large",
            3**2,
            2,
            [round(45 + 35 * n / 11) for n in range(12)],
            (200, 200),
            2,
        ),
    ],
)
def test_parameters_of_table_3_1_by_hand(
    name, voxels, norm_numbers, features, hidden, pathways
):
    channels = [5, *features]
    pathway = voxels * sum(a * b for a, b in zip(channels, features, strict=False)) + 5
    pathway += (norm_numbers + 1) * sum(features[:-1])
    after = [pathways * features[-1], *hidden]
    head = sum(a * b for a, b in zip(after, [*hidden, 2], strict=True)) + 2
    head += (norm_numbers + 1) * sum(after)
    assert count_parameters(network(name, 5, 2)) == pathways * pathway + head


def test_geometry_of_the_thesis():
    thesis = network("deepmedic-thesis")
    assert thesis.receptive_field == (51, 51, 51)
    assert thesis.pathway_fields == ((17,) * 3, (51,) * 3)
    assert thesis.margins == ((24, 22),) * 3
    assert thesis.alignment == (3, 3, 3)
    assert thesis.output_shape((55, 55, 52)) == (9, 9, 6)
    assert thesis.fitting_shape((50, 49, 1)) == (52, 49, 49)
    with pytest.raises(GeometryError, match="plus multiples of"):
        thesis.output_shape((25, 25, 25))


@pytest.mark.parametrize("name", ["deepmedic-shallow", "deepmedic-deep"])
def test_kernels_of_3_and_5_see_as_much(name):
    assert network(name).receptive_field == (17, 17, 17)


@pytest.mark.parametrize("name", [n for n in NETWORK_SECTIONS if "deepmedic" in n])
def test_published_patches_fit(name):
    section = NETWORK_SECTIONS[name]
    made = network(name)
    assert len(section.published_output) == len(made.alignment)
    for length, step in zip(section.published_output, made.alignment, strict=True):
        assert length % step == 0


GEOMETRIES = {
    "one pathway": {"factors": (1,)},
    "odd factor": {"factors": (1, 3)},
    "even factor": {"factors": (1, 2)},
    "factor 4": {"factors": (1, 4)},
    "three pathways": {"factors": (1, 2, 3)},
    "factors per axis": {"factors": (1, (1, 3))},
    "first hidden kernel 3": {"factors": (1, 3), "hidden_kernel": 3},
    "even kernels": {"factors": (1, 3), "kernels": ((2, 4), (3, 2))},
    "pathways of other depth": {"factors": (1, 3), "features": ((2, 2, 2), (2,))},
}


@pytest.mark.parametrize("upsampling", ["repetition", "linear", "deconvolution"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_receptive_field_is_the_support_of_the_gradient(geometry, upsampling):
    made = network(**(SMALL_2D | geometry), upsampling=upsampling).double().eval()
    # Positive weights and inputs: no contribution is cut off or cancelled.
    for parameter in made.parameters():
        parameter.data = parameter.data.abs() + 0.01
    for axis in range(2):
        output = list(made.alignment)
        output[axis] *= 3
        shape = made.fitting_shape(
            [n + sum(m) for n, m in zip(output, made.margins, strict=True)]
        )
        before, after = made.margins[axis]
        touched = []
        for place in range(output[axis]):
            image = torch.ones((1, 1, *shape), dtype=torch.double, requires_grad=True)
            made(image).logits.select(2 + axis, place).sum().backward()
            others = [d for d in range(4) if d != 2 + axis]
            voxels = image.grad.abs().sum(dim=others).nonzero().flatten()
            touched.append((int(voxels.min()), int(voxels.max())))
        # Nothing of the patch is in vain, ...
        assert min(first for first, _ in touched) == 0
        assert max(last for _, last in touched) == shape[axis] - 1
        # ... the field is the union over the phases, ...
        phases = list(enumerate(touched))
        low = min(first - place for place, (first, _) in phases)
        high = max(last - place for place, (_, last) in phases)
        assert made.receptive_field[axis] == high - low + 1
        # ... and every voxel is in its own field, at the place that is promised.
        assert all(first <= before + place <= last for place, (first, last) in phases)
        assert output[axis] + before + after == shape[axis]


@pytest.mark.parametrize("upsampling", ["repetition", "linear", "deconvolution"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_a_tile_says_what_the_whole_says(geometry, upsampling):
    made = lively(network(**(SMALL_2D | geometry), upsampling=upsampling))
    for deconvolution in made.modules():
        if isinstance(deconvolution, nn.ConvTranspose2d):
            nn.init.normal_(deconvolution.weight, std=0.5)
    step = made.alignment
    output = tuple(4 * length for length in step)
    margins = [sum(each) for each in made.margins]
    image = torch.randn(2, 1, *(n + m for n, m in zip(output, margins, strict=True)))
    whole = made(image).logits
    assert tuple(whole.shape[2:]) == output
    tile = tuple(slice(length, 3 * length) for length in step)
    crop = image[
        :,
        :,
        *(slice(s.start, s.stop + m) for s, m in zip(tile, margins, strict=True)),
    ]
    torch.testing.assert_close(
        made(crop).logits, whole[:, :, *tile], rtol=1e-5, atol=1e-5
    )


def classify_patch(made, image, voxel):
    """The thesis' classifier (Fig. 2.20a): one patch per pathway, one voxel's class."""
    found = []
    for pathway in made.pathways.values():
        window = []
        for centre, factor in zip(voxel, pathway.factors, strict=True):
            reach = factor * len(pathway.chain.layers)
            window.append(slice(centre - reach, centre + reach + 1, factor))
        features = image[:, :, *window]
        for layer in pathway.chain.layers:
            normed = layer.activation(layer.norm(features))
            features = F.conv3d(normed, layer.convolution.weight)
        assert features.shape[2:] == (1, 1, 1)
        found.append(features.flatten(1))
    features = torch.cat(found, dim=1)
    for layer in [*made.hidden.layers, made.classifier]:
        convolution = layer.convolution
        connected = nn.Linear(convolution.in_channels, convolution.out_channels)
        # A layer that connects all features, on one voxel: no convolution at all.
        connected.weight.data = convolution.weight.flatten(1)
        connected.bias.data.zero_()
        if convolution.bias is not None:
            connected.bias.data = convolution.bias.data
        shaped = features[:, :, None, None, None]
        features = connected(layer.activation(layer.norm(shaped)).flatten(1))
    return features


@pytest.mark.parametrize("factors", [(1,), (1, 3), (1, 2), (1, 2, 3), (1, (3, 1, 2))])
def test_dense_output_is_the_patchwise_classifiers(factors):
    options = SMALL | {"features": (2, 3, 3), "hidden_features": (4, 5)}
    made = lively(network(in_channels=2, factors=factors, **options))
    output = [2 * step for step in made.alignment]
    shape = [n + sum(m) for n, m in zip(output, made.margins, strict=True)]
    image = torch.randn(1, 2, *shape)
    logits = made(image).logits
    # Everywhere with one pathway, as every voxel is aligned then.
    steps = made.alignment
    places = [range(0, n, step) for n, step in zip(output, steps, strict=True)]
    for i in places[0]:
        for j in places[1]:
            for k in places[2]:
                voxel = [
                    before + place
                    for (before, _), place in zip(made.margins, (i, j, k), strict=True)
                ]
                expected = classify_patch(made, image, voxel)
                torch.testing.assert_close(
                    logits[:, :, i, j, k], expected, rtol=1e-5, atol=1e-5
                )


def test_linear_upsampling_is_the_classifiers_at_aligned_voxels_too():
    made = lively(network(factors=(1, 3), upsampling="linear", **SMALL))
    image = torch.randn(1, 1, *(6 + sum(m) for m in made.margins))
    expected = classify_patch(made, image, [m[0] + 3 for m in made.margins])
    torch.testing.assert_close(made(image).logits[:, :, 3, 3, 3], expected)


def test_a_layer_is_norm_slope_convolution_in_this_order():
    made = lively(network(factors=(1,), **SMALL))
    layer = made.pathways["sharp"].chain.layers[1]
    features = torch.randn(2, 2, 4, 4, 4)
    norm, slopes = layer.norm, layer.activation.weight
    scale = norm.weight / norm.running_var.sqrt()
    x = (features - norm.running_mean[:, None, None, None]) * scale[:, None, None, None]
    x = x + norm.bias[:, None, None, None]
    x = x.clamp(min=0) + slopes[:, None, None, None] * x.clamp(max=0)
    torch.testing.assert_close(layer(features), F.conv3d(x, layer.convolution.weight))


def test_the_image_only_gets_a_bias_before_the_first_convolution():
    made = lively(network(factors=(1,), **SMALL))
    layer = made.pathways["sharp"].chain.layers[0]
    image = torch.randn(2, 1, 4, 4, 4)
    expected = F.conv3d(image + layer.norm.bias, layer.convolution.weight)
    torch.testing.assert_close(layer(image), expected)
    assert layer.convolution.bias is None


def test_slopes_begin_at_a_hundredth():
    made = network(**SMALL)
    slopes = [m.weight for m in made.modules() if isinstance(m, nn.PReLU)]
    assert all((each == 0.01).all() for each in slopes)
    # The second layer of three pathways, the hidden one and the classifier.
    assert len(slopes) == 5


@pytest.mark.parametrize("features", [(2, 3, 4), (4, 4, 3)])
def test_residual_layer_adds_the_input_of_the_layer_before(features):
    options = SMALL | {"features": features, "residual_layers": (3,)}
    made = lively(network(factors=(1,), **options))
    image = torch.randn(1, 1, *(1 + sum(m) for m in made.margins))
    first, third = made(image, taps=("sharp.1", "sharp.3")).activations
    plain = made.pathways["sharp"].chain.layers
    without = plain[2](plain[1](first))
    # Two layers of 3^3 lie between; channels that one side lacks count as 0.
    shared = min(features[0], features[2])
    expected = without.clone()
    expected[:, :shared] += first[:, :shared, 2:-2, 2:-2, 2:-2]
    torch.testing.assert_close(third, expected)


def test_hidden_residual_layer_adds_the_concatenation():
    options = SMALL | {
        "hidden_features": (4, 5),
        "hidden_residual_layers": (2,),
        "hidden_kernel": 3,
    }
    made = lively(network(factors=(1,), **options))
    image = torch.randn(1, 1, *(2 + sum(m) for m in made.margins))
    concatenated, last = made(image, taps=("sharp.2", "hidden.2")).activations
    one, two = made.hidden.layers
    expected = two(one(concatenated))
    expected[:, :3] += concatenated[:, :, 1:-1, 1:-1, 1:-1]
    torch.testing.assert_close(last, expected)


def test_linear_upsampling_by_hand():
    made = network(factors=(1, 3), upsampling="linear", **SMALL_2D)
    pathway = made.pathways["wide"]
    features = torch.tensor([[[[0.0, 3.0, 9.0]] * 2]])
    rows = pathway.upsampled(features, (3, 6))[0, 0]
    assert rows.shape == (3, 6)
    torch.testing.assert_close(rows[1], torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0, 7.0]))


def test_deconvolution_begins_as_repetition():
    options = {"factors": (1, (3, 2)), **SMALL_2D}
    repeating = network(upsampling="repetition", **options)
    learned = network(upsampling="deconvolution", **options)
    assert count_parameters(learned) - count_parameters(repeating) == 3 * 3 * 6
    left_out = learned.load_state_dict(repeating.state_dict(), strict=False)
    assert left_out.missing_keys == ["pathways.wide.deconvolution.weight"]
    image = torch.randn(1, 1, *learned.fitting_shape((1, 1)))
    expected = repeating.eval()(image).logits
    torch.testing.assert_close(learned.eval()(image).logits, expected)


def test_dropout_is_of_training_only():
    options = SMALL_2D | {
        "norm": "none",
        "dropout_fractions": (0.0, 0.5),
        "hidden_dropout_fractions": (0.5,),
    }
    made = network(factors=(1,), **options)
    image = torch.randn(1, 1, *made.fitting_shape((20, 20)))
    made.train()
    assert not torch.equal(made(image).logits, made(image).logits)
    made.eval()
    assert torch.equal(made(image).logits, made(image).logits)
    fractions = [m.p for m in made.modules() if isinstance(m, nn.Dropout)]
    assert fractions == [0.0, 0.5, 0.5, 0.5]


def test_taps_of_every_pathway_on_the_output_grid():
    names = ("wide.1", "sharp.1", "wide.2", "hidden.1")
    options = SMALL_2D | {"hidden_kernel": 3, "factors": (1, 3)}
    made = lively(network(**options))
    # An image that tells each voxel's place, and a pathway that shows it.
    shape = made.fitting_shape([sum(m) + 6 for m in made.margins])
    image = torch.arange(float(shape[1])).expand(1, 1, *shape).clone()
    for pathway in made.pathways.values():
        for n, layer in enumerate(pathway.chain.layers):
            layer.norm = layer.activation = nn.Identity()
            layer.convolution.weight.data.zero_()
            layer.convolution.weight.data[:, :, 1, 1] = 1.0 / (1 if n == 0 else 2)
    output = made(image, taps=names)
    (before, _), places = made.margins[1], torch.arange(6)
    expected = {"sharp": before + places, "wide": before + places // 3 * 3}
    for name, activation in zip(names, output.activations, strict=True):
        shown = made.at_output(name, activation, output.logits.shape[2:])
        assert shown.shape[2:] == output.logits.shape[2:] == (6, 6)
        pathway = name.split(".")[0]
        if pathway in expected:
            torch.testing.assert_close(shown[0, 0, 0], expected[pathway].float())


def test_initial_weights_have_the_stated_deviation():
    he = network("deepmedic-thesis", 4, 2).pathways["wide"].chain.layers[3].convolution
    deviation = math.sqrt(2 / (40 * 27))
    assert float(he.weight.data.std()) == pytest.approx(deviation, rel=0.02)
    shallow = network("deepmedic-shallow", 4, 2)
    weights = shallow.pathways["sharp"].chain.layers[1].convolution.weight.data
    assert float(weights.std()) == pytest.approx(0.01, rel=0.02)
    assert not any(isinstance(m, nn.BatchNorm3d) for m in shallow.modules())


def test_a_constant_batch_has_finite_gradients():
    made = network(**SMALL_2D)
    image = torch.zeros(2, 1, *made.fitting_shape((1, 1)))
    made.train()(image).logits.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": (3, 1)}, "must begin with the sharp pathway"),
        ({"factors": (1, (3, 3))}, r"\(3, 3\) has 2 axes"),
        ({"features": ((2, 2), (3, 3))}, r"lists for 2 pathways.*has 3"),
        ({"kernels": (3, 3)}, "network.kernels has 2 entries; it needs 1 or 8"),
        ({"residual_layers": (9,)}, "names layer 9; there are 8"),
        ({"hidden_dropout_fractions": (0.0, 0.5)}, "needs 1 or 3"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        DeepMedicConfig(**options)
