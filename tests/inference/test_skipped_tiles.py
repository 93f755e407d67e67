"""Tiles that need not be computed: outside the region, and of one value like another."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.inference import predict
from foveal.inference.predict import stream_logits
from foveal.inference.restore import resampled_rows, uncropped_rows, voxels_behind
from foveal.inference.tiling import OverlappingTiles

TILES = OverlappingTiles((4, 4, 4), 0.5, 2)


class Counted:
    """Two classes that depend on all of a patch, and how many patches were seen."""

    def __init__(self):
        self.patches = 0

    def __call__(self, patches):
        self.patches += len(patches)
        mean = patches.mean(dim=(2, 3, 4), keepdim=True)
        return torch.cat([patches + mean, patches * mean], dim=1)


def streamed(network, image, tiles=TILES, **options):
    return torch.cat(list(stream_logits(network, image, tiles, 2, **options)), dim=1)


@pytest.fixture
def image():
    return torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(0))


def test_tiles_outside_are_not_computed_and_nothing_inside_changes(image):
    wanted = torch.zeros(16, 12, 12, dtype=torch.bool)
    wanted[9:11, 2:5, 1] = True
    every, few = Counted(), Counted()
    expected = streamed(every, image)
    found = streamed(few, image, wanted=wanted)
    assert torch.equal(found[:, wanted], expected[:, wanted])
    # Along i two or three tiles hold the rows, of 7; along j all but 3 of 5, ….
    assert few.patches < every.patches / 5
    assert found.shape == expected.shape


def test_an_empty_region_computes_nothing(image):
    network = Counted()
    wanted = torch.zeros(16, 12, 12, dtype=torch.bool)
    assert not streamed(network, image, wanted=wanted).any()
    assert network.patches == 0


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 12)] * 3),
    own=st.tuples(*[st.integers(2, 12)] * 3),
    seed=st.integers(0, 100),
)
def test_voxels_behind_the_region_are_all_that_it_is_made_of(shape, own, seed):
    random = np.random.default_rng(seed)
    region = random.random(own) < 0.1
    behind = voxels_behind(region, shape)
    volume = torch.from_numpy(random.normal(size=(2, *shape)).astype(np.float32))
    spoilt = torch.where(behind, volume, torch.full_like(volume, 1e6))
    right, other = (
        torch.cat(list(resampled_rows(iter([rows]), shape, own)), dim=1)
        for rows in (volume, spoilt)
    )
    inside = torch.from_numpy(region)
    assert torch.equal(right[:, inside], other[:, inside])


def test_outside_the_region_is_background():
    rows = torch.full((3, 4, 2, 3), 1 / 3)
    region = np.zeros((4, 2, 3), bool)
    region[2, 1, 0] = True
    window = (slice(2, 6), slice(1, 3), slice(0, 3))
    whole = torch.cat(
        list(
            uncropped_rows(
                iter(rows.split(3, dim=1)), window, (8, 5, 4), 3, inside=region
            )
        ),
        dim=1,
    )
    expected = F.one_hot(torch.zeros(8, 5, 4, dtype=torch.long), 3).movedim(-1, 0)
    expected = expected.float()
    expected[:, 4, 2, 0] = 1 / 3
    torch.testing.assert_close(whole, expected)


def test_tiles_of_the_same_value_are_computed_once(image, monkeypatch):
    image[:, :, 4:] = -1.0
    image[:, :, 8:, :] = 2.0
    once, each = Counted(), Counted()
    one_by_one = OverlappingTiles((4, 4, 4), 0.5, 1)
    found = streamed(once, image, one_by_one)
    monkeypatch.setattr(predict, "KEPT_BYTES", 0)
    assert torch.equal(found, streamed(each, image, one_by_one))
    # In each of 7 layers the rows of 5 tiles from voxels 4 and 8 on hold one value each,
    # which replace each other as the last one seen.
    assert each.patches == 7 * 5 * 5
    assert once.patches == each.patches - 7 * 2 * 4
