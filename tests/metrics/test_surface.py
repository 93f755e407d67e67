import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import cdist

from foveal.errors import GeometryError
from foveal.metrics.surface import border_voxels, surface_distances

SPACINGS = st.tuples(*[st.floats(0.25, 6.0)] * 3)
PAIRS = st.tuples(*[st.integers(1, 6)] * 3).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)
SPARSE_PAIRS = st.tuples(*[st.integers(2, 9)] * 3).flatmap(
    lambda shape: st.tuples(
        *[hnp.arrays(bool, shape, elements=st.booleans(), fill=st.just(False))] * 2
    )
)


def voxels(shape, *indices):
    mask = np.zeros(shape, dtype=bool)
    for index in indices:
        mask[index] = True
    return mask


def pairwise_distances_mm(prediction, reference, spacing_mm):
    """Pooled border distances by definition, without a crop or distance transform."""
    neighbours = ndimage.generate_binary_structure(3, 1)
    borders_mm = [
        np.argwhere(mask & ~ndimage.binary_erosion(mask, neighbours, border_value=1))
        * spacing_mm
        for mask in (prediction, reference)
    ]
    distances = cdist(*borders_mm)
    return np.concatenate([distances.min(axis=1), distances.min(axis=0)])


def test_two_voxels_apart_on_an_anisotropic_grid():
    first, second = voxels((3, 4, 5), (0, 0, 0)), voxels((3, 4, 5), (0, 3, 2))
    found = surface_distances(first, second, (1.0, 1.0, 2.0))
    assert found.hd_mm == found.hd95_mm == found.assd_mm == pytest.approx(5.0)


def test_distances_of_both_directions_are_pooled():
    # From the prediction: 0 and 4 mm; from the reference: 0 mm.
    prediction = voxels((8, 8, 8), (2, 2, 2), (2, 2, 4))
    reference = voxels((8, 8, 8), (2, 2, 2))
    found = surface_distances(prediction, reference, (1.0, 1.0, 2.0))
    assert found.hd_mm == pytest.approx(4.0)
    assert found.assd_mm == pytest.approx(4.0 / 3)
    # Ranks 0, 50 and 100 % hold 0, 0 and 4 mm; 95 % lies nine tenths up the last step.
    assert found.hd95_mm == pytest.approx(0.9 * 4.0)


def test_equal_masks_have_no_distance():
    mask = np.zeros((6, 7, 8), dtype=bool)
    mask[1:5, 2:6, 3:8] = True
    found = surface_distances(mask, mask, (0.7, 0.7, 5.0))
    assert found.hd_mm == found.hd95_mm == found.assd_mm == 0


def test_inner_voxels_are_no_border():
    cube = np.zeros((5, 5, 5), dtype=bool)
    cube[1:4, 1:4, 1:4] = True
    expected = cube.copy()
    expected[2, 2, 2] = False
    np.testing.assert_array_equal(border_voxels(cube), expected)


def test_edge_of_the_image_is_no_border():
    # An organ that the scan cuts off above and below: a tube through the volume.
    tube = np.zeros((5, 5, 4), dtype=bool)
    tube[1:4, 1:4, :] = True
    expected = tube.copy()
    expected[2, 2, :] = False
    np.testing.assert_array_equal(border_voxels(tube), expected)


def test_mask_that_fills_the_image_has_no_border_to_measure_from():
    full, part = np.ones((3, 4, 12), dtype=bool), voxels((3, 4, 12), (0, 0, 0))
    assert not border_voxels(full).any()
    assert surface_distances(full, full, (1.0, 1.0, 1.0)).hd_mm == 0
    assert surface_distances(full, part, (1.0, 1.0, 1.0)).assd_mm == pytest.approx(13)
    assert surface_distances(part, full, (1.0, 1.0, 1.0)).assd_mm == pytest.approx(13)


def test_border_of_a_2d_image_is_its_outline():
    disc = np.zeros((7, 7, 1), dtype=bool)
    disc[1:6, 1:6] = True
    assert border_voxels(disc).sum() == 16
    smaller = np.zeros((7, 7, 1), dtype=bool)
    smaller[2:5, 2:5] = True
    # 16 outer pixels: 12 lie 1 mm from the inner square, 4 corners sqrt(2) mm; 8 inner.
    found = surface_distances(disc, smaller, (1.0, 1.0, 10.0))
    assert found.assd_mm == pytest.approx((12 + 4 * math.sqrt(2) + 8) / 24)


def test_thin_structure_of_a_thick_image_is_all_border():
    plate = np.zeros((7, 7, 5), dtype=bool)
    plate[1:6, 1:6, 2] = True
    centre = voxels((7, 7, 5), (3, 3, 2))
    # The plate's centre is border too, so the single voxel lies on the surface.
    assert surface_distances(centre, plate, (1.0, 1.0, 1.0)).assd_mm == pytest.approx(
        np.linalg.norm(np.argwhere(plate) - (3, 3, 2), axis=1).sum() / 26
    )


def test_two_empty_masks_have_no_distance_at_all():
    found = surface_distances(voxels((3, 3, 3)), voxels((3, 3, 3)), (1.0, 1.0, 1.0))
    assert math.isnan(found.hd_mm)
    assert math.isnan(found.hd95_mm)
    assert math.isnan(found.assd_mm)


@pytest.mark.parametrize("is_missed", [True, False])
def test_missed_or_invented_structure_is_a_diagonal_away(is_missed):
    masks = [voxels((3, 4, 6)), voxels((3, 4, 6), (1, 1, 1))]
    prediction, reference = masks if is_missed else masks[::-1]
    found = surface_distances(prediction, reference, (2.0, 2.0, 4.0))
    # 6, 8 and 24 mm along the axes.
    assert found.hd_mm == found.hd95_mm == found.assd_mm == pytest.approx(26.0)


def test_distances_of_masks_of_different_shape_are_refused():
    with pytest.raises(GeometryError, match="must share one grid"):
        surface_distances(voxels((3, 3, 3)), voxels((3, 3, 1)), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("pairs", [PAIRS, SPARSE_PAIRS], ids=["dense", "sparse"])
def test_distances_equal_those_of_all_pairs_of_border_voxels(pairs, order):
    @given(pairs, SPACINGS)
    @settings(max_examples=60, deadline=None)
    def check(masks, spacing_mm):
        prediction, reference = (np.asarray(mask, order=order) for mask in masks)
        if not 0 < prediction.mean() < 1 or not 0 < reference.mean() < 1:
            return  # No border to measure from; tested by hand above.
        expected = pairwise_distances_mm(prediction, reference, spacing_mm)
        found = surface_distances(prediction, reference, spacing_mm)
        assert found.hd_mm == pytest.approx(expected.max(), rel=1e-5)
        assert found.hd95_mm == pytest.approx(np.percentile(expected, 95), rel=1e-5)
        assert found.assd_mm == pytest.approx(expected.mean(), rel=1e-5)

    check()


@given(PAIRS, SPACINGS)
@settings(max_examples=40, deadline=None)
def test_distances_are_symmetric_and_scale_with_the_voxels(masks, spacing_mm):
    there = surface_distances(*masks, spacing_mm)
    back = surface_distances(*masks[::-1], spacing_mm)
    doubled = surface_distances(*masks, tuple(2 * edge for edge in spacing_mm))
    assert back.hd_mm == pytest.approx(there.hd_mm, nan_ok=True)
    assert back.assd_mm == pytest.approx(there.assd_mm, nan_ok=True)
    assert doubled.hd95_mm == pytest.approx(2 * there.hd95_mm, nan_ok=True, rel=1e-5)
