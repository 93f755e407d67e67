"""An identity network gives the image back, whatever the sizes."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.inference.predict import stream_logits
from foveal.inference.tiling import (
    OverlappingTiles,
    overlapping_tiles,
    tile_starts,
)


def identity(patches):
    return patches


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 21)] * 3),
    patch=st.tuples(*[st.integers(1, 9)] * 3),
    overlap=st.floats(0, 0.9),
    batch_size=st.integers(1, 5),
)
def test_identity_network_returns_the_image(shape, patch, overlap, batch_size):
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    rows = list(
        stream_logits(identity, image, OverlappingTiles(patch, overlap, batch_size), 2)
    )
    torch.testing.assert_close(torch.cat(rows, dim=1), image)


@given(length=st.integers(1, 200), size=st.integers(1, 64), overlap=st.floats(0, 0.9))
def test_windows_reach_both_ends_and_overlap_enough(length, size, overlap):
    size = min(size, length)
    starts = tile_starts(length, size, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - size
    steps = [b - a for a, b in pairwise(starts)]
    assert all(0 < step <= max(1, round(size * (1 - overlap)) + 1) for step in steps)


def test_weights_are_positive_and_sum_to_one():
    tiling = overlapping_tiles(21, 8, 0.5)
    total = torch.zeros(21)
    for start, weights in zip(tiling.starts, tiling.weights, strict=True):
        assert (weights > 0).all()
        total[start : start + 8] += weights
    torch.testing.assert_close(total, torch.ones(21))


def test_centres_count_more_than_borders():
    # Two windows say 0 and 1; halfway between them the answer is a half.
    calls = []

    def nth(patches):
        calls.append(len(patches))
        return torch.full_like(patches, len(calls) - 1.0)

    image = torch.arange(12.0).reshape(1, 12, 1, 1)
    (rows,) = [
        torch.cat(
            list(stream_logits(nth, image, OverlappingTiles((8, 1, 1), 0.5, 1), 1)),
            dim=1,
        )
    ]
    profile = rows[0, :, 0, 0]
    assert profile[:4].max() == 0
    assert profile[8:].min() == pytest.approx(1)
    assert profile[4] < 0.1 < 0.9 < profile[7]
    assert (profile[5] + profile[6]).item() == pytest.approx(1)


def test_batches_span_all_axes_and_change_no_sum():
    image = torch.randn(1, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    # Air, which is computed once and waits for its turn behind others.
    image[:, 1:4, :, 2:] = 0.0
    sizes = []

    def network(patches):
        sizes.append(len(patches))
        return patches * patches.sum(dim=(2, 3, 4), keepdim=True)

    found = [
        torch.cat(list(stream_logits(network, image, tiles, 1)), dim=1)
        for tiles in (OverlappingTiles((1, 5, 5), 0.3, size) for size in (1, 5))
    ]
    assert torch.equal(*found)
    assert sizes == [1] * 10 + [5, 5]
