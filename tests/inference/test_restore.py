"""Rows on their way back to the case's own grid."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.geometry import Grid, reorientation
from foveal.inference.restore import (
    in_equal_blocks,
    most_probable,
    resampled_rows,
    uncropped_rows,
)

LENGTHS = st.tuples(*[st.integers(1, 23)] * 3)


def blocks_of(volume, sizes):
    """Cut a volume into blocks of rows of the sizes given, over and over."""
    first = n = 0
    while first < volume.shape[1]:
        size = sizes[n % len(sizes)]
        yield volume[:, first : first + size]
        first, n = first + size, n + 1


@settings(max_examples=60, deadline=None)
@given(
    shape=LENGTHS,
    target=LENGTHS,
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
)
def test_streamed_rows_equal_the_whole_volume_resampled(shape, target, sizes):
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(2, *shape, generator=generator)
    expected = F.interpolate(volume[None], target, mode="trilinear")[0]
    blocks = list(resampled_rows(blocks_of(volume, sizes), shape, target))
    torch.testing.assert_close(torch.cat(blocks, dim=1), expected, rtol=1e-4, atol=1e-4)


def test_outside_the_crop_is_background():
    crop = torch.full((3, 4, 2, 3), 1 / 3)
    window = (slice(2, 6), slice(1, 3), slice(0, 3))
    whole = torch.cat(
        list(uncropped_rows(blocks_of(crop, [3]), window, (25, 5, 4), 3)), dim=1
    )
    assert whole.shape == (3, 25, 5, 4)
    torch.testing.assert_close(whole.sum(dim=0), torch.ones(25, 5, 4))
    assert (whole[1:, 2:6, 1:3, 0:3] == 1 / 3).all()
    assert whole[1:].sum() == pytest.approx(2 / 3 * 24)


@given(
    length=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    count=st.integers(1, 9),
)
def test_equal_blocks_hold_the_same_rows(length, sizes, count):
    volume = torch.arange(float(length)).reshape(1, length, 1, 1)
    blocks = list(in_equal_blocks(blocks_of(volume, sizes), count))
    assert torch.equal(torch.cat(blocks, dim=1), volume)
    assert all(block.shape[1] == count for block in blocks[:-1])
    assert blocks[-1].shape[1] <= count


@pytest.mark.parametrize("orientation", ["RAS", "PLI", "SAR"])
def test_labels_return_to_their_stored_place(orientation):
    affine = np.eye(4)
    grid = Grid((3, 4, 5), affine)
    turn = reorientation(grid, orientation)
    stored = np.zeros((3, 4, 5), np.uint8)
    stored[1, 2, 3], stored[0, 3, 4] = 1, 2
    turned = torch.from_numpy(turn.apply(stored).copy()).long()
    rows = F.one_hot(turned, 3).movedim(-1, 0).float()
    label_map = most_probable(blocks_of(rows, [2]), grid, orientation, (40, -7))
    assert label_map.dtype == np.int16
    expected = np.array([0, 40, -7])[stored]
    np.testing.assert_array_equal(label_map, expected)
