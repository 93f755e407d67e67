"""How a volume is cut never changes the answer of a valid network."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from two_pathways import MARGIN, TwoPathways, TwoPathways2d

from foveal.inference.numerics import Numerics, apply_layout
from foveal.inference.predict import patch_function, stream_logits
from foveal.inference.tiling import (
    MOST_VOXELS,
    AdjoiningTiles,
    adjoining_tiles,
    large_output_shape,
)
from foveal.networks.slices import SliceBySlice

FLOAT32 = Numerics("float32", "contiguous")
CPU = torch.device("cpu")


def fixed_weights(network):
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return fixed_weights(TwoPathways(2, 3))


def random_image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def tiled(network, image, patch_size=None, batch_size=2, numerics=FLOAT32):
    tiles = AdjoiningTiles(
        network.all_margins, network.alignment, batch_size, patch_size
    )
    rows = stream_logits(patch_function(network, numerics, CPU), image, tiles, 3)
    return torch.cat(list(rows), dim=1).softmax(dim=0)


def whole(network, image):
    """One pass over the volume, which is padded by the margins and up to the grid."""
    padding = []
    for length in reversed(image.shape[1:]):
        padding += [MARGIN[0], MARGIN[1] + -length % 3]
    with torch.no_grad():
        logits = network(torch.nn.functional.pad(image, padding)[None]).logits[0]
    i, j, k = image.shape[1:]
    return logits[:, :i, :j, :k].softmax(dim=0)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    blocks=st.tuples(*[st.integers(1, 5)] * 3),
    batch_size=st.integers(1, 5),
)
def test_every_tile_and_batch_gives_what_the_whole_volume_gives(
    network, shape, blocks, batch_size
):
    image = random_image(2, *shape)
    patch_size = tuple(3 * count + sum(MARGIN) for count in blocks)
    expected = whole(network, image)
    assert expected.shape == (3, *shape)
    result = tiled(network, image, patch_size, batch_size)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    chosen = tiled(network, image, None, batch_size)
    torch.testing.assert_close(chosen, expected, rtol=0, atol=1e-5)


def test_every_voxel_is_what_its_own_smallest_patch_says(network):
    """The patch-by-patch classifier, at every aligned block of three voxels cubed."""
    image = random_image(2, 7, 6, 8)
    dense = tiled(network, image, (25, 16, 19))
    surrounded = torch.nn.functional.pad(image, [6, 10, 6, 10, 6, 10])
    for i, j, k in ((0, 0, 0), (3, 3, 6), (6, 0, 3)):
        patch = surrounded[:, i : i + 13, j : j + 13, k : k + 13]
        with torch.no_grad():
            block = network(patch[None]).logits[0].softmax(dim=0)
        inside = dense[:, i : i + 3, j : j + 3, k : k + 3]
        block = block[:, : inside.shape[1], : inside.shape[2], : inside.shape[3]]
        torch.testing.assert_close(inside, block, rtol=0, atol=1e-5)


def test_a_tile_off_the_grid_would_change_the_answer(network):
    """So the property above is no accident of a network without phase."""
    image = random_image(2, 9, 9, 9)
    shifted = tiled(network, image[:, 1:])
    difference = (shifted - tiled(network, image)[:, 1:])[:, 3:-3].abs().max()
    assert difference > 0.01


@pytest.mark.parametrize("axis", [0, 2])
def test_slices_of_a_valid_2d_network_may_be_cut_too(axis):
    network = fixed_weights(TwoPathways2d(2, 3))
    shape = [10, 7, 8]
    shape.insert(axis, shape.pop(0))
    image = random_image(2, *shape)
    by_slice = SliceBySlice(network, axis)
    for patch_size in ([13, 16, 16], [25, 19, 19]):
        patch_size[axis] = 3
        result = tiled(by_slice, image, tuple(patch_size))
        for n in range(image.shape[1 + axis]):
            one = image.select(1 + axis, n)
            i, j = one.shape[1:]
            padding = [MARGIN[0], MARGIN[1] + -j % 3, MARGIN[0], MARGIN[1] + -i % 3]
            with torch.no_grad():
                logits = network(torch.nn.functional.pad(one, padding)[None]).logits[0]
            expected = logits[:, :i, :j].softmax(dim=0)
            result_n = result.select(1 + axis, n)
            torch.testing.assert_close(result_n, expected, rtol=0, atol=1e-5)


def test_tiles_adjoin_and_the_last_reaches_beyond_the_end():
    tiling = adjoining_tiles(10, 6, (4, 2))
    assert tiling.starts == (0, 6)
    assert tiling.size == 12
    assert tiling.padding == (4, 4)
    assert tiling.output_length == 12
    assert tiling.weights.unique().tolist() == [1.0]
    # All that is read lies in the padded volume, to its last voxel.
    assert tiling.starts[-1] + tiling.size == 4 + 10 + 4


def test_rows_stream_a_tile_at_a_time(network):
    tiles = AdjoiningTiles(network.all_margins, network.alignment, 1, (16, 16, 16))
    image = random_image(2, 20, 4, 4)
    function = patch_function(network, FLOAT32, CPU)
    blocks = stream_logits(function, image, tiles, 3)
    assert [rows.shape[1] for rows in blocks] == [6, 6, 6, 2]


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 600)] * 3),
    margins=st.tuples(*[st.tuples(st.integers(0, 60), st.integers(0, 60))] * 3),
    alignment=st.tuples(*[st.integers(1, 16)] * 3),
    most_voxels=st.integers(1, 10**6),
)
def test_chosen_tiles_are_small_enough_and_no_larger_than_the_volume_needs(
    shape, margins, alignment, most_voxels
):
    chosen = large_output_shape(shape, margins, alignment, most_voxels)
    for size, length, step in zip(chosen, shape, alignment, strict=True):
        assert size % step == 0
        assert 0 < size < length + step
    assert math.prod(chosen) <= max(most_voxels, math.prod(alignment))


def test_chosen_tiles_by_hand():
    deepmedic = ((26, 24),) * 3
    # Of a brain scan: cut where it is longest, in parts of about equal size.
    assert large_output_shape((240, 240, 155), deepmedic, (3, 3, 3), MOST_VOXELS) == (
        81,
        81,
        78,
    )
    # What is small enough stays whole.
    assert large_output_shape((35, 51, 40), deepmedic, (3, 3, 3), MOST_VOXELS) == (
        36,
        51,
        42,
    )
    # Slices of a 2D network are apart anyway.
    in_plane = ((90, 90), (90, 90), (0, 0))
    assert large_output_shape((512, 512, 100), in_plane, (16, 16, 1), 2**19) == (
        512,
        512,
        2,
    )


def test_2d_convolutions_get_channels_last():
    layout = "channels_last"
    network = fixed_weights(TwoPathways2d(2, 3))
    apply_layout(network, layout)
    assert network.classifier.weight.is_contiguous(memory_format=torch.channels_last)
    seen = []
    network.sharp[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = random_image(2, 7, 6, 4)
    numerics = Numerics("float32", layout)
    result = tiled(SliceBySlice(network, 2), image, (16, 16, 3), numerics=numerics)
    assert len(seen) == 2
    assert all(given.stride(1) == 1 for given in seen)
    apply_layout(network, "contiguous")
    expected = tiled(SliceBySlice(network, 2), image, (16, 16, 3))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
