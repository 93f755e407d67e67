"""Rows on their way back to the case's own grid."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.geometry import Grid, reorientation
from foveal.inference.restore import (
    decided_classes,
    in_equal_blocks,
    label_map_of,
    resampled_rows,
    structure_probabilities,
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
    label_map = label_map_of(turn.apply(stored), grid, orientation, (40, -7))
    assert label_map.dtype == np.int16
    expected = np.array([0, 40, -7])[stored]
    np.testing.assert_array_equal(label_map, expected)


def test_an_organ_that_is_sure_is_not_lost_to_doubt_about_its_lesion():
    # Background 0.4, organ alone 0.3, lesion in the organ 0.3: the organ has 0.6.
    probabilities = torch.tensor([0.4, 0.3, 0.3]).reshape(3, 1, 1, 1)
    organ_and_lesion = ((1, 2), (2,))
    assert decided_classes(probabilities, organ_and_lesion).item() == 1
    assert decided_classes(probabilities, ((1,), (2,))).item() == 0
    np.testing.assert_allclose(
        structure_probabilities(probabilities, organ_and_lesion).ravel(), [0.6, 0.3]
    )


@given(seed=st.integers(0, 1000))
def test_a_structure_is_there_where_its_probability_is_above_one_half(seed):
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, 3, 4, 5, generator=random)
    # Every combination of two structures is a class.
    structures = ((1, 3), (2, 3))
    probabilities = logits.softmax(dim=0)
    decided = decided_classes(probabilities, structures)
    of_structures = structure_probabilities(probabilities, structures)
    for classes, probability in zip(structures, of_structures, strict=True):
        found = torch.isin(decided, torch.tensor(classes))
        assert torch.equal(found, probability > 0.5)


def test_labels_that_no_structure_tells_apart_are_told_by_their_probability():
    probabilities = torch.tensor([0.05, 0.05, 0.9]).reshape(3, 1, 1, 1)
    whole = ((1, 2),)
    assert decided_classes(probabilities, whole).item() == 2
