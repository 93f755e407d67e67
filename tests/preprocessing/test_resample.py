from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.case import IGNORED
from foveal.geometry import Grid, resampled_grid
from foveal.preprocessing.resample import (
    linear_taps,
    resample_channel,
    resample_label_map,
    resample_mask,
    resampled_shape,
)

lengths = st.integers(1, 12)
shapes = st.tuples(lengths, lengths, lengths)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def interpolated(block, axis, in_length, out_length, rows=slice(None), first=0):
    """Rows of the result from a block that begins at row ``first`` of the original."""
    lower, upper, weight = linear_taps(in_length, out_length)
    shape = [1] * block.ndim
    shape[axis] = -1
    return torch.lerp(
        block.index_select(axis, lower[rows] - first),
        block.index_select(axis, upper[rows] - first),
        weight[rows].reshape(shape),
    )


def test_shape_covers_the_same_extent_and_is_never_empty():
    assert resampled_shape((10, 7, 1), (1.0, 2.0, 1.0), (2.0, 1.0, 9.0)) == (5, 14, 1)


@given(shape=shapes)
def test_the_same_shape_changes_nothing(shape):
    channel = noise(shape)
    label_map = (channel > 0).astype(np.uint8)

    np.testing.assert_array_equal(resample_channel(channel, shape), channel)
    np.testing.assert_array_equal(resample_label_map(label_map, shape), label_map)


@settings(deadline=None)
@given(shape=shapes, target=shapes)
def test_a_constant_stays_constant(shape, target):
    channel = np.full(shape, 3.5, np.float32)

    np.testing.assert_allclose(resample_channel(channel, target), 3.5, rtol=1e-5)


several = st.tuples(*[st.integers(2, 12)] * 3)


@settings(deadline=None)
@given(shape=several, target=several)
def test_finer_voxels_are_those_of_torch_and_coarser_ones_those_with_antialiasing(
    shape, target
):
    channel = torch.from_numpy(noise(shape))
    # PyTorch antialiases planes only: the last two axes, then the first.
    plane = F.interpolate(
        channel[None], size=target[1:], mode="bilinear", antialias=True
    )[0]
    expected = F.interpolate(
        plane.flatten(1)[None, None],
        size=(target[0], target[1] * target[2]),
        mode="bilinear",
        antialias=True,
    ).reshape(target)

    result = resample_channel(channel.numpy(), target)

    np.testing.assert_allclose(result, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("target", [(40, 30, 20), (10, 12, 8), (26, 12, 22)])
def test_a_ramp_keeps_its_place_in_the_world(target):
    grid = Grid((20, 24, 16), np.diag([1.5, 1.0, 4.0, 1.0]))
    i, j, k = np.indices(grid.shape)
    ramp = (1.5 * i + 2 * j - 4 * k).astype(np.float32)

    result = resample_channel(ramp, target)

    new = resampled_grid(grid, target)
    places = np.indices(target).reshape(3, -1)
    x, y, z = new.affine[:3, :3] @ places + new.affine[:3, 3:]
    # Within two voxels of the borders the outer voxels count, and the ramp bends.
    inner = (np.abs(x - 14.25) < 10.5) & (np.abs(y - 11.5) < 9) & (np.abs(z - 30) < 20)
    assert inner.sum() > 100
    expected = x + 2 * y - z
    np.testing.assert_allclose(result.ravel()[inner], expected[inner], atol=1e-4)


def test_coarser_voxels_average_out_a_chequerboard():
    channel = (np.indices((16, 16, 16)).sum(axis=0) % 2).astype(np.float32)

    result = resample_channel(channel, (8, 8, 8))

    np.testing.assert_allclose(result[1:-1, 1:-1, 1:-1], 0.5, atol=1e-6)


def test_linear_taps_by_hand():
    lower, upper, weight = linear_taps(2, 4)

    assert lower.tolist() == [0, 0, 0, 1]
    assert upper.tolist() == [1, 1, 1, 1]
    assert weight.tolist() == [0, 0.25, 0.75, 0]


@settings(deadline=None)
@given(shape=shapes, target=shapes)
def test_linear_taps_are_pytorchs_trilinear_interpolation(shape, target):
    logits = torch.from_numpy(noise((2, *shape)))
    expected = F.interpolate(logits[None], size=target, mode="trilinear")[0]

    result = logits
    for axis, (before, after) in enumerate(zip(shape, target, strict=True), start=1):
        result = interpolated(result, axis, before, after)

    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None)
@given(in_length=st.integers(1, 30), out_length=st.integers(1, 30), size=lengths)
def test_slab_by_slab_is_exactly_the_whole(in_length, out_length, size):
    logits = torch.from_numpy(noise((3, in_length, 4, 5)))
    whole = interpolated(logits, 1, in_length, out_length)
    lower, upper, _ = linear_taps(in_length, out_length)

    slabs = []
    for start in range(0, out_length, size):
        rows = slice(start, min(start + size, out_length))
        first, last = int(lower[rows][0]), int(upper[rows][-1])
        slab = logits[:, first : last + 1]
        slabs.append(interpolated(slab, 1, in_length, out_length, rows, first))

    assert torch.equal(torch.cat(slabs, dim=1), whole)


def test_labels_move_to_the_finer_grid_edge_on_edge():
    label_map = np.array([0, 4, 4, 2], np.uint8).reshape(1, 1, 4)

    result = resample_label_map(label_map, (1, 1, 8))

    assert result.ravel().tolist() == [0, 0, 4, 4, 4, 4, 2, 2]


def test_labels_are_chosen_never_mixed():
    label_map = np.zeros((6, 6, 6), np.uint8)
    label_map[:3] = 1
    label_map[3:] = 3

    result = resample_label_map(label_map, (9, 4, 6))

    assert set(np.unique(result)) == {1, 3}


def test_a_structure_wins_over_background_at_equal_shares():
    # Each new voxel lies halfway between two old ones.
    label_map = np.array([0, 5, 0, 0], np.uint8).reshape(4, 1, 1)

    assert resample_label_map(label_map, (2, 1, 1)).ravel().tolist() == [5, 0]


def test_of_two_structures_at_equal_shares_the_lower_wins_and_ignored_comes_after():
    pairs = np.array([7, 2, IGNORED, 9, IGNORED, 0], np.uint8).reshape(6, 1, 1)

    result = resample_label_map(pairs, (3, 1, 1))

    assert result.ravel().tolist() == [2, 9, IGNORED]


def test_background_wins_with_the_largest_share():
    label_map = np.zeros((2, 2, 1), np.uint8)
    label_map[0, 0] = 1
    label_map[1, 1] = 2

    # A quarter each of 1 and 2, half of background.
    assert resample_label_map(label_map, (1, 1, 1)).item() == 0


@settings(deadline=None, max_examples=60)
@given(shape=shapes, target=shapes, seed=st.integers(0, 100))
def test_labels_have_the_largest_share_of_one_hot_interpolation(shape, target, seed):
    generator = np.random.default_rng(seed)
    values = np.array([0, 0, 0, 0, 1, 3, IGNORED], np.uint8)
    label_map = generator.choice(values, size=shape)

    result = resample_label_map(label_map, target)

    # Background last, so that it loses where shares are equal.
    order = [1, 3, IGNORED, 0]
    one_hot = torch.from_numpy(np.stack([label_map == value for value in order]))
    shares = F.interpolate(one_hot[None].double(), size=target, mode="trilinear")[0]
    chosen = np.select([result == value for value in order], range(4))
    share = shares.gather(0, torch.from_numpy(chosen)[None].long())[0]
    torch.testing.assert_close(share, shares.max(dim=0).values, atol=1e-5, rtol=0)


def test_a_mask_takes_the_nearest_voxel_and_of_two_the_later():
    mask = np.array([True, False, True, False]).reshape(4, 1, 1)

    assert resample_mask(mask, (2, 1, 1)).ravel().tolist() == [False, False]
    finer = resample_mask(mask, (8, 2, 1))
    assert (
        finer[:, 1, 0].tolist() == [True] * 2 + [False] * 2 + [True] * 2 + [False] * 2
    )


@given(shape=shapes, target=shapes)
def test_a_mask_resampled_holds_no_voxel_of_another_place(shape, target):
    places = np.random.default_rng(0).random(shape) > 0.5

    result = resample_mask(places, target)

    for index in np.ndindex(*target):
        voxel = [
            int((place + Fraction(1, 2)) * before / after)
            for place, before, after in zip(index, shape, target, strict=True)
        ]
        assert result[index] == places[tuple(voxel)]


@given(shape=shapes, target=shapes, zeros=st.floats(0, 0.99))
def test_weights_resampled_are_not_negative(shape, target, zeros):
    weights = np.abs(noise(shape))
    weights[np.random.default_rng(1).random(shape) < zeros] = 0

    result = resample_channel(weights, target)

    assert result.min() >= 0
    assert result.max() <= weights.max() * (1 + 1e-5)
