"""The dual path network's size, depth, geometry and blocks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal import building
from foveal.networks.dual_path import BasicBlock, BottleneckBlock, DualPath

SMALL = {
    "convolution_features": (2,),
    "block_features": (2,),
    "bottleneck_features": ((2, 3),),
    "hidden_features": (3,),
}


def network(in_channels=1, num_classes=2, **options):
    torch.manual_seed(0)
    return building.network(
        "dual-path", in_channels=in_channels, num_classes=num_classes, **options
    )


def count_parameters(made):
    return sum(parameter.numel() for parameter in made.parameters())


def test_the_default_has_the_papers_number_of_parameters():
    assert count_parameters(network()) == 649_251
    assert "649,251" in DualPath.__doc__


def test_the_default_has_19_layers():
    made = network()

    def in_branches(module):
        return sum(
            isinstance(each, nn.Conv3d)
            for name, each in module.named_modules()
            if "shortcut" not in name
        )

    # Shortcuts lie beside layers; the pathways beside each other.
    assert in_branches(made.wide) == in_branches(made.sharp) == 17
    assert in_branches(made.hidden) + 1 == 2


def test_parameters_by_hand():
    plain = 27 * 2 + 2 * 2
    block = 2 * (27 * 2 * 2 + 2 * 2)
    bottleneck = (2 * 2 + 4) + (27 * 2 * 2 + 4) + (2 * 3 + 6)
    projection = 2 * 3 + 6
    head = (6 * 3 + 3 + 6) + (3 * 2 + 2)
    expected = 2 * (plain + block + bottleneck + projection) + head
    assert count_parameters(network(**SMALL)) == expected


@pytest.mark.parametrize(
    ("downsampling", "field", "margins"),
    [("probing", 124, (60, 57)), ("averaging", 127, (60, 60))],
)
def test_geometry_of_the_default(downsampling, field, margins):
    made = network(downsampling=downsampling)
    assert made.receptive_field == (field,) * 3
    assert made.pathway_fields == ((31,) * 3, (field,) * 3)
    assert made.margins == (margins,) * 3
    assert made.alignment == (4, 4, 4)


@pytest.mark.parametrize(
    ("downsampling", "field"), [("probing", 20), ("averaging", 23)]
)
def test_receptive_field_is_the_support_of_the_gradient(downsampling, field):
    options = {"block_features": (), "bottleneck_features": ()}
    options |= {"convolution_features": (2, 2), "hidden_features": ()}
    made = network(downsampling=downsampling, **options).double().eval()
    for parameter in made.parameters():
        parameter.data = parameter.data.abs() + 0.01
    margins = sum(made.margins[0])
    touched = []
    for place in range(8):
        shape = (8 + margins, 4 + margins, 4 + margins)
        image = torch.ones((1, 1, *shape), dtype=torch.double, requires_grad=True)
        made(image).logits[:, :, place].sum().backward()
        voxels = image.grad.abs().sum(dim=(0, 1, 3, 4)).nonzero().flatten()
        touched.append((int(voxels.min()), int(voxels.max())))
    assert min(low for low, _ in touched) == 0
    assert max(high for _, high in touched) == 7 + margins
    low = min(first - place for place, (first, _) in enumerate(touched))
    high = max(last - place for place, (_, last) in enumerate(touched))
    # The layers' own field is 5, four times as much in the wide pathway.
    assert made.receptive_field == (high - low + 1,) * 3 == (field,) * 3


@pytest.mark.parametrize("downsampling", ["probing", "averaging"])
def test_a_tile_says_what_the_whole_says(downsampling):
    made = network(downsampling=downsampling, **SMALL).eval()
    # As after training: the blocks' branches count.
    for block in made.modules():
        if isinstance(block, BasicBlock | BottleneckBlock):
            torch.nn.init.ones_(block.last_norm.weight)
    before, after = made.margins[0]
    image = torch.randn(1, 1, *[12 + before + after] * 3)
    whole = made(image).logits
    assert whole.shape[2:] == (12, 12, 12)
    i, j, k = slice(4, 12), slice(0, 4), slice(4, 8)
    crop = image[
        :, :, *(slice(each.start, each.stop + before + after) for each in (i, j, k))
    ]
    torch.testing.assert_close(
        made(crop).logits, whole[:, :, i, j, k], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("downsampling", ["probing", "averaging"])
def test_the_wide_pathway_sees_blocks_of_four(downsampling):
    made = network(downsampling=downsampling, **SMALL).eval()
    seen = []
    made.wide[0].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    before, after = made.margins[0]
    image = torch.randn(1, 1, *[4 + before + after] * 3)
    made(image)
    (wide,) = seen
    # 4 of 3^3 stand before and after the block of the output.
    assert wide.shape[2:] == (9, 9, 9)
    block = image[0, 0, 16:20, 16:20, 16:20]
    expected = block.mean() if downsampling == "averaging" else block[0, 0, 0]
    torch.testing.assert_close(wide[0, 0, 4, 4, 4], expected)


def test_blocks_by_hand():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 7, 7, 7)
    same = BasicBlock(3, 3).eval()
    torch.testing.assert_close(
        same(features),
        F.relu(same.branch(features) + features[:, :, 2:-2, 2:-2, 2:-2]),
    )
    wider = BottleneckBlock(3, 2, 5).eval()
    shortcut = F.conv3d(features[:, :, 1:-1, 1:-1, 1:-1], wider.shortcut[0].weight)
    # A fresh norm in eval mode divides by the square root of 1 + 1e-5.
    torch.testing.assert_close(
        wider(features),
        F.relu(wider.branch(features) + shortcut / (1 + 1e-5) ** 0.5),
    )


def test_blocks_begin_as_their_shortcut():
    features = torch.randn(1, 2, 5, 5, 5)
    block = network(**SMALL).eval().sharp[2]
    shortcut = F.relu(features[:, :, 2:-2, 2:-2, 2:-2])
    assert torch.equal(block(features), shortcut)
    torch.nn.init.ones_(block.last_norm.weight)
    assert not torch.equal(block(features), shortcut)


def test_dropout_comes_before_each_fully_connected_layer():
    made = network()
    kinds = [type(module).__name__ for module in made.hidden]
    assert kinds == ["Dropout", "Conv3d", "BatchNorm3d", "ReLU", "Dropout"]
    assert made.hidden[0].p == made.hidden[4].p == 0.5


def test_weights_begin_as_glorots():
    weights = network().wide[0][0].weight.data
    bound = (6 / (27 + 27 * 20)) ** 0.5
    assert 0.95 * bound < float(weights.abs().max()) <= bound
