"""Draws from sets of voxels: exactly by weight, and without reading whole volumes."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_volumes import LabelledVolume
from scipy import stats

from foveal.sampling.samplers import BaseSampler, drawn_index
from foveal.sampling.voxels import (
    BLOCK_LENGTH,
    ByWeightMap,
    Centres,
    InMask,
    OfClasses,
    voxel_tables,
)

LARGEST_SHARE = np.nextafter(1.0, 0.0)


def blocks(shape):
    starts = (range(0, length, BLOCK_LENGTH) for length in shape)
    for corner in itertools.product(*starts):
        yield tuple(
            slice(start, min(start + BLOCK_LENGTH, length))
            for start, length in zip(corner, shape, strict=True)
        )


def in_block_order(weights):
    """Voxels and weights of a whole volume, block after block."""
    voxels = np.stack(np.indices(weights.shape), -1)
    return (
        np.concatenate([voxels[w].reshape(-1, 3) for w in blocks(weights.shape)]),
        np.concatenate([weights[w].ravel() for w in blocks(weights.shape)]),
    )


def table_of(weights):
    (table,) = voxel_tables(weights.shape, [lambda window: weights[window]])
    return table


shapes = st.tuples(st.integers(1, 70), st.integers(1, 40), st.integers(1, 5))
shares = st.one_of(
    st.floats(0, LARGEST_SHARE),
    st.sampled_from([0.0, 5e-324, 2**-53, 0.5, 1 - 2**-24, LARGEST_SHARE]),
)


@settings(max_examples=40)
@given(shapes, st.integers(0, 2**32 - 1), shares, st.booleans())
def test_table_is_the_inverse_distribution_of_the_whole_volume(
    shape, seed, share, is_sparse
):
    random = np.random.default_rng(seed)
    # Integers, so that sums are exact in any order.
    weights = random.integers(0, 5, shape).astype(np.float64)
    if is_sparse:
        weights *= random.random(shape) < 0.01
    weights[tuple(random.integers(0, shape))] = 3
    voxels, in_order = in_block_order(weights)
    ends = in_order.cumsum()
    place = int(np.searchsorted(ends, share * ends[-1], side="right"))
    # A share just below 1 may round to the whole.
    expected = voxels[min(place, int(in_order.nonzero()[0][-1]))]
    table = table_of(weights)
    assert table.total == weights.sum()
    drawn = table.voxel(share, lambda window: weights[window])
    assert drawn == tuple(expected.tolist())


@settings(max_examples=40)
@given(shapes, st.integers(0, 2**32 - 1), shares)
def test_voxel_without_weight_is_never_drawn_however_sums_round(shape, seed, share):
    random = np.random.default_rng(seed)
    weights = 10.0 ** random.uniform(-18, 18, shape) * (random.random(shape) < 0.05)
    weights[tuple(random.integers(0, shape))] = 1e-18
    drawn = table_of(weights).voxel(share, lambda window: weights[window])
    assert weights[drawn] > 0


def test_table_of_no_weight_has_total_zero():
    assert table_of(np.zeros((5, 40, 2))).total == 0


def test_draw_reads_one_block():
    weights = np.ones((64, 64, 40))
    table = table_of(weights)
    read = []

    def counted(window):
        read.append(weights[window].size)
        return weights[window]

    table.voxel(0.7, counted)
    assert read in ([BLOCK_LENGTH**3], [BLOCK_LENGTH**2 * 8])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6), st.integers(0, 10**6))
def test_index_without_weight_is_never_drawn(weights, seed):
    if not any(weights):
        weights[-1] = 1e-300
    drawn = drawn_index(weights, torch.Generator().manual_seed(seed))
    assert weights[drawn] > 0


def made_up_case():
    random = np.random.default_rng(0)
    label_map = random.integers(0, 4, (6, 5, 4)).astype(np.uint8)
    label_map[0, 0, 0] = 255
    return LabelledVolume(
        label_map,
        4,
        mask=(random.random((6, 5, 4)) < 0.3).astype(np.uint8),
        weight_map=(random.random((6, 5, 4)) * random.integers(0, 2, (6, 5, 4))).astype(
            np.float32
        ),
    )


@pytest.mark.parametrize(
    "voxels",
    [
        Centres((3, 2, 9)),
        OfClasses((0,)),
        OfClasses((1,)),
        OfClasses((2, 3)),
        InMask(),
        ByWeightMap(),
    ],
    ids=str,
)
def test_draws_follow_the_weights_and_the_total_is_their_sum(voxels):
    case = made_up_case()
    whole = tuple(slice(0, length) for length in case.shape)
    weights = voxels.weights(case, whole)
    sampler = BaseSampler(lambda *_: [])
    assert sampler.total(case, voxels) == pytest.approx(weights.sum())
    random = torch.Generator().manual_seed(7)
    counts = np.zeros(case.shape)
    for _ in range(600):
        counts[sampler.voxel(case, voxels, random)] += 1
    assert not counts[weights == 0].any()
    likely = weights > 0
    expected = weights[likely] / weights.sum() * 600
    # Rare voxels are pooled, as the test wants five expected draws of each.
    rare = expected < 5
    seen = np.append(counts[likely][~rare], counts[likely][rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    keep = wanted > 0
    assert stats.chisquare(seen[keep], wanted[keep]).pvalue > 1e-3


def test_case_without_a_mask_is_drawn_from_everywhere():
    case = made_up_case()
    case.mask = None
    assert InMask().total(case) == 120
    random = torch.Generator().manual_seed(0)
    drawn = {InMask().drawn(case, random) for _ in range(1200)}
    assert len(drawn) == 120


def test_weights_of_centres_are_those_of_the_window():
    case = made_up_case()
    box = Centres((3, 2, 4))
    whole = box.weights(case, tuple(slice(0, n) for n in case.shape))
    # Patches of 3 x 2 x 4 begin at 0 to 3, 0 to 3 and 0, and hold their centre.
    assert whole.sum() == 4 * 4 * 1
    assert whole[1:5, 1:5, 2].all()
    part = (slice(1, 4), slice(0, 3), slice(2, 4))
    assert np.array_equal(box.weights(case, part), whole[part])
