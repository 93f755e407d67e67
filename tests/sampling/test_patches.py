from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.sampling.patches import corner_around, uniform_corner

triples = st.tuples(*[st.integers(1, 12)] * 3)


def test_patch_is_centred_on_its_voxel():
    assert corner_around((10, 10, 10), (4, 5, 6), (20, 20, 20)) == (8, 8, 7)


def test_patch_is_shifted_no_more_than_needed_to_stay_inside():
    assert corner_around((0, 1, 19), (4, 4, 4), (20, 20, 20)) == (0, 0, 16)


def test_volume_shorter_than_the_patch_lies_in_its_middle():
    assert corner_around((1, 2, 0), (8, 8, 8), (4, 3, 1)) == (-2, -2, -3)
    drawn = uniform_corner((8, 8, 8), (4, 3, 1), torch.Generator())
    assert drawn == (-2, -2, -3)


@given(triples, triples, st.data())
def test_patch_around_a_voxel_contains_it_and_no_more_outside_than_needed(
    size, shape, data
):
    voxel = tuple(data.draw(st.integers(0, length - 1)) for length in shape)
    corner = corner_around(voxel, size, shape)
    for index, start, length, extent in zip(voxel, corner, size, shape, strict=True):
        assert start <= index < start + length
        overlap = min(start + length, extent) - max(start, 0)
        assert overlap == min(length, extent)


def test_every_corner_that_fits_is_equally_likely():
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(
        uniform_corner((3, 4, 9), (5, 5, 4), generator) for _ in range(6000)
    )
    assert set(drawn) == {(i, j, -2) for i in range(3) for j in range(2)}
    assert all(abs(count - 1000) < 120 for count in drawn.values())
