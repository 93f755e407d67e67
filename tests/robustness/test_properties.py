"""What must hold for every geometry, resampling, labelling and division of patients."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from scipy.spatial.transform import Rotation

from foveal.case import IGNORED, CaseFiles, ChannelFile
from foveal.errors import CaseError, GeometryError
from foveal.geometry import (
    Grid,
    corner_distance_voxels,
    cropped_grid,
    reorientation,
    resampled_grid,
    same_grid,
)
from foveal.metrics.overlap import dice
from foveal.planning.splits import make_splits
from foveal.preprocessing.labels import inside_label_map
from foveal.preprocessing.resample import resample_channel, resample_label_map

ORIENTATIONS = [
    "".join(letters)
    for order in permutations(("RL", "AP", "SI"))
    for letters in product(*order)
]

lengths = st.integers(1, 9)
shapes = st.tuples(lengths, lengths, lengths)
orientations = st.sampled_from(ORIENTATIONS)


@st.composite
def grids(draw):
    """Any orientation, spacing and place, oblique by up to 40 degrees."""
    shape = draw(shapes)
    spacing_mm = draw(st.tuples(*[st.floats(0.2, 8)] * 3))
    origin_mm = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    axis = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 3)))
    tilt = Rotation.from_rotvec(
        np.radians(draw(st.floats(0, 40))) * axis / max(np.linalg.norm(axis), 1)
    )
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    affine = np.eye(4)
    affine[:3, :3] = tilt.as_matrix() @ (np.eye(3)[:, order] * signs * spacing_mm)
    affine[:3, 3] = origin_mm
    return Grid(shape, affine)


def places_mm(grid):
    """World position of every voxel, ``(i, j, k, 3)``."""
    indices = np.moveaxis(np.indices(grid.shape), 0, 3)
    return indices @ grid.affine[:3, :3].T + grid.affine[:3, 3]


# ------------------------------------------------------------------------- geometry


@given(grids(), orientations)
def test_reorientation_there_and_back_is_the_original(grid, orientation):
    change = reorientation(grid, orientation)
    array = np.arange(2 * np.prod(grid.shape)).reshape(2, *grid.shape)

    np.testing.assert_array_equal(change.undo(change.apply(array)), array)
    np.testing.assert_array_equal(change.undo(change.apply(array[0])), array[0])


@given(grids(), orientations)
def test_every_voxel_keeps_its_place_when_axes_are_turned(grid, orientation):
    change = reorientation(grid, orientation)
    turned = change.apply_to_grid(grid)

    carried = change.apply(np.moveaxis(places_mm(grid), 3, 0))

    assert turned.orientation == orientation
    assert turned.shape == carried.shape[1:]
    np.testing.assert_allclose(
        np.moveaxis(carried, 0, 3), places_mm(turned), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(turned.voxel_volume_ml, grid.voxel_volume_ml)
    np.testing.assert_allclose(turned.diagonal_mm, grid.diagonal_mm)


@given(grids())
def test_an_orientation_that_is_already_there_changes_nothing(grid):
    change = reorientation(grid, grid.orientation)

    assert change.permutation == (0, 1, 2)
    assert change.reversed_axes == ()


@pytest.mark.parametrize("orientation", ["RA", "RRS", "RAX", "RLS", ""])
def test_what_names_no_orientation_is_refused(orientation):
    with pytest.raises(GeometryError, match="must name three world axes"):
        reorientation(Grid((1, 1, 1), np.eye(4)), orientation)


@given(grids(), st.data())
def test_a_crop_lies_where_it_was_cut_out(grid, data):
    window = []
    for length in grid.shape:
        start = data.draw(st.integers(0, length - 1))
        window.append(slice(start, data.draw(st.integers(start + 1, length))))

    crop = cropped_grid(grid, window)

    expected = places_mm(grid)[tuple(window)]
    np.testing.assert_allclose(places_mm(crop), expected, rtol=0, atol=1e-9)


@given(grids(), shapes)
def test_a_resampled_grid_covers_the_same_extent_and_comes_back(grid, shape):
    resampled = resampled_grid(grid, shape)

    for place in product((0, 1), repeat=3):
        edges = [
            one.affine[:3, :3] @ (np.multiply(place, one.shape) - 0.5)
            + one.affine[:3, 3]
            for one in (grid, resampled)
        ]
        np.testing.assert_allclose(edges[0], edges[1], rtol=0, atol=1e-8)
    back = resampled_grid(resampled, grid.shape)
    np.testing.assert_allclose(back.affine, grid.affine, rtol=0, atol=1e-8)


@given(grids(), st.floats(0, 0.1), st.integers(0, 2))
def test_grids_are_the_same_within_a_hundredth_of_a_voxel(grid, voxels, axis):
    affine = grid.affine.copy()
    direction = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
    affine[:3, 3] += direction * voxels * min(grid.spacing_mm)
    shifted = Grid(grid.shape, affine)

    distance = corner_distance_voxels(grid, shifted)
    np.testing.assert_allclose(distance, voxels, rtol=0, atol=1e-6)
    np.testing.assert_allclose(distance, corner_distance_voxels(shifted, grid))
    if abs(voxels - 0.01) > 1e-6:
        assert same_grid(grid, shifted) == (voxels < 0.01)


# ----------------------------------------------------------------------- resampling


def other_shape(shape, factors):
    return tuple(
        max(1, round(length * factor))
        for length, factor in zip(shape, factors, strict=True)
    )


factors = st.tuples(*[st.floats(0.5, 2)] * 3)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(16, 28)] * 3), factors, st.integers(0, 99))
def test_a_smooth_image_survives_resampling_there_and_back(shape, factors, seed):
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 4, mode="nearest")
    smooth = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)

    there = resample_channel(smooth, other_shape(shape, factors))
    back = resample_channel(there, shape)

    # Linear interpolation flattens curves, and most where the border repeats.
    inside = (slice(3, -3),) * 3
    assert np.abs(back - smooth).mean() < 0.03
    assert np.abs(back - smooth)[inside].max() < 0.1
    assert back.min() >= smooth.min() - 1e-6
    assert back.max() <= smooth.max() + 1e-6


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(28, 34)] * 3), factors, st.integers(0, 99))
def test_large_structures_survive_resampling_there_and_back(shape, factors, seed):
    generator = np.random.default_rng(seed)
    axes = np.indices(shape)
    label_map = np.zeros(shape, np.uint8)
    for label in (1, 2):
        centre = [generator.uniform(0.35, 0.65) * (length - 1) for length in shape]
        centre[0] = shape[0] * (0.25 if label == 1 else 0.75)
        radii = np.array(shape) * (0.22, 0.32, 0.32)
        distance = sum(
            ((axis - middle) / radius) ** 2
            for axis, middle, radius in zip(axes, centre, radii, strict=True)
        )
        label_map[distance <= 1] = label

    there = resample_label_map(label_map, other_shape(shape, factors))
    back = resample_label_map(there, shape)

    for label in (1, 2):
        assert dice(back == label, label_map == label) > 0.9
    assert set(np.unique(there)) <= {0, 1, 2}


@given(
    arrays.arrays(np.uint8, shapes, elements=st.sampled_from([0, 1, 2, IGNORED])),
    shapes,
)
def test_resampling_invents_no_label(label_map, shape):
    resampled = resample_label_map(label_map, shape)

    assert resampled.shape == shape
    assert set(np.unique(resampled)) <= set(np.unique(label_map)) | {0}


# --------------------------------------------------------------------------- labels


@given(st.data())
def test_label_values_become_classes_and_come_back(data):
    values = data.draw(
        st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=12, unique=True)
    )
    if 0 not in values:
        values[0] = 0
    has_ignore = data.draw(st.booleans()) and values[-1] != 0
    ignore_value = values[-1] if has_ignore else None
    structures = [value for value in values if value not in (0, ignore_value)]
    class_of = {0: 0} | {value: n for n, value in enumerate(structures, start=1)}
    label_map = data.draw(
        arrays.arrays(np.int32, shapes, elements=st.sampled_from(values))
    )

    inside = inside_label_map(label_map, class_of, ignore_value)

    value_of = np.zeros(256, np.int32)
    for value, number in class_of.items():
        value_of[number] = value
    if ignore_value is not None:
        value_of[IGNORED] = ignore_value
    np.testing.assert_array_equal(value_of[inside], label_map)


@given(st.integers(-(2**31), 2**31 - 1).filter(lambda value: value not in (0, 5, 7)))
def test_a_value_without_a_class_is_always_refused(value):
    label_map = np.array([[[0, 5], [7, value]]], np.int32)

    with pytest.raises(CaseError, match=str(value)):
        inside_label_map(label_map, {0: 0, 5: 1}, 7)


# --------------------------------------------------------------------------- splits


@st.composite
def case_lists(draw):
    """Cases of several scans per patient; some patients are kept for the test."""
    cases = []
    for number in range(draw(st.integers(6, 20))):
        split = draw(st.sampled_from([None, None, None, "train", "test"]))
        domain = draw(st.sampled_from([None, "CT", "MR"]))
        for scan in range(draw(st.integers(1, 3))):
            name = f"patient {number} scan {scan}"
            files = (ChannelFile(Path(f"{name}.nii")),)
            label_map = Path(f"{name}_label.nii")
            cases.append(
                CaseFiles(
                    name,
                    f"patient {number}",
                    files,
                    label_map,
                    split=split,
                    domain=domain,
                )
            )
    return cases


@given(case_lists(), st.integers(2, 5), st.integers(0, 99), st.randoms())
def test_every_patient_has_one_place_whatever_the_order(cases, folds, seed, order):
    tested = {case.patient for case in cases if case.split == "test"}
    others = {case.patient for case in cases} - tested
    if len(others) < folds:
        return

    splits = make_splits(cases, folds, seed)

    validated = [patient for fold in splits.folds for patient in fold.validation]
    assert sorted(validated) == sorted(others)
    for fold in splits.folds:
        assert set(fold.test) == tested
        assert not set(fold.train) & set(fold.validation)
        assert set(fold.train) | set(fold.validation) == others
    shuffled = list(cases)
    order.shuffle(shuffled)
    assert make_splits(shuffled, folds, seed) == splits
