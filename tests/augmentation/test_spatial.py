from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from foveal.augmentation.spatial import (
    Deformation,
    PatchTransform,
    SpatialAugmentation,
    Spline,
    in_voxels,
    num_control_points,
    rotation_matrix,
    spline_weights,
)
from foveal.case import IGNORED

NOTHING = SpatialAugmentation(
    rotation_probability=0.0,
    rotation_degrees=(30.0, 30.0, 30.0),
    scaling_probability=0.0,
    scaling=(0.7, 1.4),
    shear_probability=0.0,
    shear_degrees=6.0,
    shear_axes=(0, 1, 2),
    spacing_jitter_probability=0.0,
    spacing_jitter_mm=0.1,
    translation_probability=0.0,
    translation_voxels=4.0,
    elastic_probability=0.0,
    elastic_spacing_voxels=8.0,
    elastic_voxels=3.0,
    mirror_probability=0.0,
    mirror_axes=(0, 1, 2),
    sagittal_axis=0,
    swapped_classes=(0, 2, 1, 3),
    swapped_structures=(1, 0, 2),
)
EVERYTHING = replace(
    NOTHING,
    rotation_probability=1.0,
    scaling_probability=1.0,
    shear_probability=1.0,
    spacing_jitter_probability=1.0,
    translation_probability=1.0,
    elastic_probability=1.0,
    mirror_probability=0.5,
)
ISOTROPIC = (1.0, 1.0, 1.0)
ALL_ANNOTATED = torch.ones(3, dtype=torch.bool)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def deformed(size, matrix=None, translation=(0.0, 0.0, 0.0), spline=None):
    """Transform without mirroring."""
    matrix = torch.eye(3) if matrix is None else matrix
    deformation = Deformation(matrix, torch.tensor(translation), spline)
    return PatchTransform(size, deformation, (), None, None)


def mirrored(size, axes, new_classes=None, new_structures=None):
    return PatchTransform(size, None, axes, new_classes, new_structures)


def read(volume, window, outside):
    """Window of a volume that may reach beyond its borders."""
    spatial = volume.shape[-3:]
    before = [max(-axis.start, 0) for axis in window]
    after = [
        max(axis.stop - length, 0) for axis, length in zip(window, spatial, strict=True)
    ]
    widths = [(0, 0)] * (volume.ndim - 3) + list(zip(before, after, strict=True))
    padded = np.pad(volume.numpy(), widths, constant_values=outside)
    shifted = tuple(
        slice(axis.start + extra, axis.stop + extra)
        for axis, extra in zip(window, before, strict=True)
    )
    return torch.from_numpy(padded[(..., *shifted)].copy())


def patch_of(transform, image, corner, label_map=None, annotated=ALL_ANNOTATED):
    window = transform.source_window(corner, transform.patch_size)
    return transform.apply(
        read(image, window, 0.0),
        None if label_map is None else read(label_map, window, IGNORED),
        annotated,
    )


@pytest.fixture
def image():
    return torch.randn(2, 20, 22, 24, generator=seeded(0))


@pytest.fixture
def label_map():
    return torch.randint(0, 4, (20, 22, 24), generator=seeded(0), dtype=torch.uint8)


def ramps(shape):
    """Image whose three channels are the voxel indices i, j and k."""
    axes = [torch.arange(float(length)) for length in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


# ------------------------------------------------------------- without interpolation


def test_nothing_chosen_reads_the_patch_and_returns_it_untouched(image, label_map):
    transform = NOTHING.draw((6, 7, 8), seeded(), ISOTROPIC)
    window = transform.source_window((3, 4, 5), (6, 7, 8))
    assert window == (slice(3, 9), slice(4, 11), slice(5, 13))
    patch, labels, annotated = patch_of(transform, image, (3, 4, 5), label_map)
    assert torch.equal(patch, image[:, 3:9, 4:11, 5:13])
    assert torch.equal(labels, label_map[3:9, 4:11, 5:13])
    assert torch.equal(annotated, ALL_ANNOTATED)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_mirroring_reverses_voxels_exactly(image, label_map, axes):
    transform = mirrored((6, 7, 8), axes)
    patch, labels, _ = patch_of(transform, image, (3, 4, 5), label_map)
    expected = image[:, 3:9, 4:11, 5:13].flip([axis + 1 for axis in axes])
    assert torch.equal(patch, expected)
    assert torch.equal(labels, label_map[3:9, 4:11, 5:13].flip(axes))


def test_mirroring_twice_gives_the_patch_back(image, label_map):
    transform = mirrored((6, 7, 8), (0, 2), (0, 2, 1, 3))
    flags = torch.tensor([True, True, False, True])
    once = patch_of(transform, image, (3, 4, 5), label_map, flags)
    image_twice, labels_twice, flags_twice = transform.apply(*once)
    assert torch.equal(image_twice, image[:, 3:9, 4:11, 5:13])
    assert torch.equal(labels_twice, label_map[3:9, 4:11, 5:13])
    assert torch.equal(flags_twice, flags)


def test_mirroring_left_and_right_swaps_classes_and_their_annotation():
    labels = torch.tensor([0, 1, 2, 3, IGNORED], dtype=torch.uint8).reshape(5, 1, 1)
    flags = torch.tensor([True, False, True])
    transform = mirrored((5, 1, 1), (0,), (0, 2, 1, 3), (1, 0, 2))
    _, swapped, swapped_flags = transform.apply(torch.zeros(1, 5, 1, 1), labels, flags)
    assert swapped.flatten().tolist() == [IGNORED, 3, 1, 2, 0]
    assert swapped_flags.tolist() == [False, True, True]


def test_classes_swap_only_when_the_sagittal_axis_is_mirrored():
    always = replace(NOTHING, mirror_probability=1.0)
    sagittal = replace(always, mirror_axes=(0,)).draw((4, 4, 4), seeded(), ISOTROPIC)
    others = replace(always, mirror_axes=(1, 2)).draw((4, 4, 4), seeded(), ISOTROPIC)
    assert (sagittal.mirrored_axes, sagittal.new_classes) == ((0,), (0, 2, 1, 3))
    assert (sagittal.new_structures, others.new_structures) == ((1, 0, 2), None)
    assert (others.mirrored_axes, others.new_classes) == ((1, 2), None)


def test_each_axis_is_mirrored_with_the_probability_given():
    some = replace(NOTHING, mirror_probability=0.3, mirror_axes=(0, 2))
    random = seeded()
    drawn = Counter(
        some.draw((4, 4, 4), random, ISOTROPIC).mirrored_axes for _ in range(2000)
    )
    expected = {(): 0.49, (0,): 0.21, (2,): 0.21, (0, 2): 0.09}
    assert set(drawn) == set(expected)
    for axes, share in expected.items():
        assert abs(drawn[axes] / 2000 - share) < 0.04


def test_unlabelled_patch_stays_unlabelled(image):
    transform = EVERYTHING.draw((6, 7, 8), seeded(), ISOTROPIC)
    assert patch_of(transform, image, (3, 4, 5))[1] is None


def test_window_of_another_patch_size_is_refused():
    transform = NOTHING.draw((6, 7, 8), seeded(), ISOTROPIC)
    with pytest.raises(ValueError, match=r"drawn for"):
        transform.source_window((0, 0, 0), (8, 8, 8))


# --------------------------------------------------------------- one map at a time


@pytest.mark.parametrize(("axis", "turned"), [(0, (2, 3)), (1, (3, 1)), (2, (1, 2))])
def test_rotation_by_90_degrees_is_rot90(image, label_map, axis, turned):
    degrees = [90.0 if other == axis else 0.0 for other in range(3)]
    transform = deformed((9, 9, 9), rotation_matrix(degrees))
    patch, labels, _ = patch_of(transform, image, (5, 6, 7), label_map)
    window = (slice(5, 14), slice(6, 15), slice(7, 16))
    expected = torch.rot90(image[:, *window], -1, turned)
    assert torch.allclose(patch, expected, atol=1e-4)
    plane = [other - 1 for other in turned]
    assert torch.equal(labels, torch.rot90(label_map[window], -1, plane))


def test_rotation_turns_what_is_seen_in_millimetres():
    # Voxel i + 4 lies 4 mm away, as does voxel j + 2.
    spacing = torch.tensor([1.0, 2.0, 3.0])
    matrix = in_voxels(rotation_matrix((0.0, 0.0, 90.0)), spacing, spacing)
    assert torch.allclose(matrix @ torch.tensor([4.0, 0, 0]), torch.tensor([0, 2.0, 0]))
    assert torch.allclose(
        matrix @ torch.tensor([0, 2.0, 0]), torch.tensor([-4.0, 0, 0])
    )


def test_rotations_follow_each_other_about_i_then_j_then_k():
    both = rotation_matrix((90.0, 90.0, 0.0))
    assert torch.allclose(both @ torch.tensor([0, 1.0, 0]), torch.tensor([1.0, 0, 0]))
    assert torch.allclose(both @ both.T, torch.eye(3), atol=1e-6)


def test_translation_by_whole_voxels_is_a_shift(image, label_map):
    transform = deformed((6, 7, 8), translation=(2.0, -1.0, 3.0))
    patch, labels, _ = patch_of(transform, image, (3, 4, 5), label_map)
    assert torch.allclose(patch, image[:, 5:11, 3:10, 8:16], atol=1e-4)
    assert torch.equal(labels, label_map[5:11, 3:10, 8:16])


def test_scaling_by_2_halves_the_steps_about_the_middle():
    doubled = replace(NOTHING, scaling_probability=1.0, scaling=(2.0, 2.0))
    transform = doubled.draw((9, 9, 9), seeded(), (1.0, 2.0, 5.0))
    patch, _, _ = patch_of(transform, ramps((20, 20, 20)), (4, 5, 6))
    middle = torch.tensor([8.0, 9.0, 10.0])
    steps = torch.arange(-4, 5) / 2
    assert torch.allclose(patch[0, :, 0, 0], middle[0] + steps, atol=1e-4)
    assert torch.allclose(patch[1, 0, :, 0], middle[1] + steps, atol=1e-4)
    assert torch.allclose(patch[2, 0, 0, :], middle[2] + steps, atol=1e-4)


def test_scaling_factors_are_uniform_in_their_logarithm():
    scaling = replace(NOTHING, scaling_probability=1.0, scaling=(0.5, 2.0))
    random = seeded()
    transforms = [scaling.draw((4, 4, 4), random, ISOTROPIC) for _ in range(1500)]
    factors = np.array([1 / float(t.deformation.matrix[0, 0]) for t in transforms])
    assert 0.5 <= factors.min() < 0.51
    assert 1.96 < factors.max() <= 2.0
    assert abs(np.median(factors) - 1.0) < 0.05


def test_rotation_stays_about_the_allowed_axes_and_within_the_largest_angle():
    in_plane = replace(
        NOTHING, rotation_probability=1.0, rotation_degrees=(0.0, 0.0, 30.0)
    )
    random = seeded()
    angles = []
    for _ in range(500):
        matrix = in_plane.draw((4, 4, 4), random, (1.0, 1.0, 5.0)).deformation.matrix
        assert matrix[2].tolist() == [0, 0, 1]
        assert matrix[:, 2].tolist() == [0, 0, 1]
        angles.append(np.degrees(np.arctan2(float(matrix[1, 0]), float(matrix[0, 0]))))
    assert -30 <= min(angles) < -29
    assert 29 < max(angles) <= 30


def test_shear_stays_in_the_planes_across_the_allowed_axes():
    sheared = replace(NOTHING, shear_probability=1.0, shear_axes=(2,))
    matrix = sheared.draw((4, 4, 4), seeded(), ISOTROPIC).deformation.matrix
    is_moved = matrix != torch.eye(3)
    assert is_moved.nonzero().tolist() == [[0, 1], [1, 0]]
    assert (matrix - torch.eye(3)).abs().max() <= np.tan(np.radians(6.0))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 1.3, 6.0)])
def test_each_axis_is_turned_up_to_an_angle_of_its_own(spacing_mm):
    turned = replace(
        NOTHING, rotation_probability=1.0, rotation_degrees=(10.0, 4.0, 2.0)
    )
    random = seeded()
    spacing = np.array(spacing_mm)
    matrices = [
        turned.draw((9, 9, 9), random, spacing_mm).deformation.matrix.double().numpy()
        for _ in range(400)
    ]
    in_mm = np.array([matrix * spacing[:, None] / spacing for matrix in matrices])
    # Extrinsic: about the fixed axes i, then j, then k.
    angles = Rotation.from_matrix(in_mm).as_euler("xyz", degrees=True)
    largest = np.abs(angles).max(0)
    assert (largest <= np.array([10, 4, 2]) + 1e-3).all()
    assert (largest > 0.98 * np.array([10, 4, 2])).all()
    assert np.abs(angles.mean(0) / [10, 4, 2]).max() < 0.1
    # Uniform: half of the angles lie in the middle half of the range.
    is_inner = np.abs(angles) < np.array([5, 2, 1])
    assert np.abs(is_inner.mean(0) - 0.5).max() < 0.08
    assert np.abs(np.corrcoef(angles.T) - np.eye(3)).max() < 0.15


def test_largest_shear_angle_is_reached():
    sheared = replace(NOTHING, shear_probability=1.0, shear_degrees=10.0)
    random = seeded()
    leans = torch.stack(
        [
            sheared.draw((4, 4, 4), random, ISOTROPIC).deformation.matrix - torch.eye(3)
            for _ in range(400)
        ]
    )
    degrees = leans.atan().rad2deg().abs().amax(0)
    expected = 10 * (1 - torch.eye(3))
    assert torch.allclose(degrees, expected, atol=0.2)
    assert degrees.max() <= 10 + 1e-4


# -------------------------------------------------------------------- spacing jitter


def test_voxels_of_twice_the_edge_length_halve_a_distance():
    # Bright voxels 4 voxels apart along i, in a patch of twice that edge length.
    volume = torch.zeros(1, 16, 8, 8)
    volume[0, 6, 4, 4] = volume[0, 10, 4, 4] = 1.0
    spacing = torch.tensor([1.5, 1.0, 4.0])
    patch_spacing = spacing * torch.tensor([2.0, 1.0, 1.0])
    matrix = in_voxels(torch.eye(3), patch_spacing, spacing)
    patch, _, _ = patch_of(deformed((5, 5, 5), matrix), volume, (6, 2, 2))
    # The middle of the patch, its voxel 2, is voxel 8 of the volume.
    expected = torch.zeros(5, 5, 5)
    expected[1, 2, 2] = expected[3, 2, 2] = 1.0
    assert torch.allclose(patch[0], expected, atol=1e-5)


def test_voxels_of_half_the_edge_length_double_a_distance():
    spacing = torch.tensor([1.0, 1.0, 3.0])
    matrix = in_voxels(torch.eye(3), spacing * torch.tensor([1.0, 1.0, 0.5]), spacing)
    patch, _, _ = patch_of(deformed((3, 3, 9), matrix), ramps((9, 9, 20)), (2, 3, 4))
    # Voxels 0 and 8 are 8 voxels apart, and what they show 4 voxels of the volume.
    assert float(patch[2, 1, 1, 8] - patch[2, 1, 1, 0]) == pytest.approx(4.0, abs=1e-5)
    assert float(patch[0, 2, 1, 1] - patch[0, 0, 1, 1]) == pytest.approx(2.0, abs=1e-5)


def test_rotation_turns_the_patchs_own_millimetres():
    # Voxels 2 mm long along j, turned by 90 degrees in a volume of 1 mm: voxel j + 1 is
    # 2 mm from the middle, as is what it shows, along i.
    matrix = in_voxels(
        rotation_matrix((0.0, 0.0, 90.0)),
        torch.tensor([1.0, 2.0, 1.0]),
        torch.tensor([1.0, 1.0, 1.0]),
    )
    assert torch.allclose(
        matrix @ torch.tensor([0.0, 1, 0]), torch.tensor([-2.0, 0, 0])
    )
    assert torch.allclose(
        matrix @ torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0]), atol=1e-6
    )


def test_jitter_is_uniform_in_millimetres_and_drawn_for_each_axis():
    jittered = replace(NOTHING, spacing_jitter_probability=1.0, spacing_jitter_mm=0.1)
    random = seeded()
    spacing = torch.tensor([1.0, 1.0, 1.5])
    matrices = torch.stack(
        [
            jittered.draw((4, 4, 4), random, spacing.tolist()).deformation.matrix
            for _ in range(1000)
        ]
    )
    steps = torch.diagonal(matrices, dim1=1, dim2=2)
    assert torch.equal(matrices, torch.diag_embed(steps))
    differences_mm = (steps - 1) * spacing
    assert 0.099 < differences_mm.amax(0).min() <= differences_mm.max() < 0.1 + 1e-6
    assert -0.1 - 1e-6 < differences_mm.min() <= differences_mm.amin(0).max() < -0.099
    assert differences_mm.mean(0).abs().max() < 0.006
    deviation = 0.1 / 3**0.5
    assert torch.allclose(differences_mm.std(0), torch.tensor(deviation), atol=0.003)
    off_diagonal = torch.corrcoef(differences_mm.T) - torch.eye(3)
    assert off_diagonal.abs().max() < 0.1


def test_jitter_along_a_slices_thickness_reads_no_other_slice():
    jittered = replace(NOTHING, spacing_jitter_probability=1.0, spacing_jitter_mm=0.9)
    transform = jittered.draw((6, 7, 1), seeded(), ISOTROPIC)
    assert transform.source_window((0, 0, 5), (6, 7, 1))[2] == slice(5, 6)


def test_translation_is_within_its_limit_along_each_axis():
    shifted = replace(NOTHING, translation_probability=1.0)
    random = seeded()
    shifts = torch.stack(
        [
            shifted.draw((4, 4, 4), random, ISOTROPIC).deformation.translation
            for _ in range(500)
        ]
    )
    assert (shifts.abs() <= 4).all()
    assert (shifts.abs().amax(0) > 3.9).all()


def test_patch_of_one_slice_stays_in_its_slice_under_in_plane_changes(label_map):
    in_plane = replace(
        NOTHING,
        rotation_probability=1.0,
        scaling_probability=1.0,
        shear_probability=1.0,
        rotation_degrees=(30.0, 0.0, 0.0),
        shear_axes=(0,),
    )
    transform = in_plane.draw((1, 9, 9), seeded(), ISOTROPIC)
    patch, _, _ = patch_of(transform, ramps((20, 22, 24)), (7, 5, 5), label_map)
    assert torch.allclose(patch[0], torch.full((1, 9, 9), 7.0), atol=1e-5)


# -------------------------------------------------------------------------- elastic


@pytest.mark.parametrize(
    ("size", "spacing"), [(1, 4.0), (9, 4.0), (40, 16.0), (7, 50.0)]
)
def test_spline_weights_are_a_partition_of_unity(size, spacing):
    weights = spline_weights(size, spacing)
    assert weights.shape == (size, num_control_points(size, spacing))
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(size), atol=1e-6)


def test_equal_control_points_move_every_voxel_alike(image):
    counts = [num_control_points(size, 3.0) for size in (6, 7, 8)]
    shift = torch.tensor([1.0, 2.0, -1.0])[:, None, None, None]
    transform = deformed(
        (6, 7, 8), spline=Spline(shift.expand(3, *counts).clone(), 3.0)
    )
    patch, _, _ = patch_of(transform, image, (3, 4, 5))
    assert torch.allclose(patch, image[:, 4:10, 6:13, 4:12], atol=1e-4)


def test_control_point_moves_its_voxel_by_8_27ths_and_voxels_two_spacings_away_not():
    points = torch.zeros(3, 7, 7, 7)
    points[0, 3, 3, 3] = 27.0
    displacement = Spline(points, 4.0).displacement((17, 17, 17), torch.device("cpu"))
    assert displacement[0, 8, 8, 8] == pytest.approx(8.0)  # (2/3) ** 3
    assert displacement[0, 12, 8, 8] == pytest.approx(2.0)  # (1/6) (2/3) ** 2
    assert displacement[0, 16].abs().max() < 1e-6
    assert displacement[1:].abs().max() == 0


def test_displacement_is_about_a_third_of_the_control_points():
    elastic = replace(NOTHING, elastic_probability=1.0, elastic_voxels=3.0)
    random = seeded()
    moved = torch.stack(
        [
            elastic.draw(
                (32, 32, 32), random, ISOTROPIC
            ).deformation.spline.displacement((32, 32, 32), torch.device("cpu"))
            for _ in range(20)
        ]
    )
    assert 0.3 < moved.std() / 3.0 < 0.4


@pytest.mark.parametrize(
    ("spacing", "deviation"), [(16.0, 3.0), (16.0, 6.4), (4.0, 1.6)]
)
def test_displacements_up_to_two_fifths_of_the_spacing_fold_nothing(spacing, deviation):
    # Where the determinant of the map's derivatives is positive, no anatomy is turned
    # inside out.
    elastic = replace(
        NOTHING,
        elastic_probability=1.0,
        elastic_spacing_voxels=spacing,
        elastic_voxels=deviation,
    )
    for seed in range(10):
        deformation = elastic.draw((32, 32, 32), seeded(seed), ISOTROPIC).deformation
        places = deformation.places((32, 32, 32), torch.device("cpu"))
        inner = places[:, :-1, :-1, :-1]
        steps = (
            places[:, 1:, :-1, :-1] - inner,
            places[:, :-1, 1:, :-1] - inner,
            places[:, :-1, :-1, 1:] - inner,
        )
        volumes = (steps[0] * torch.linalg.cross(steps[1], steps[2], dim=0)).sum(0)
        assert volumes.min() > 0


def test_elastic_deformation_moves_image_and_label_map_alike():
    elastic = replace(NOTHING, elastic_probability=1.0, elastic_voxels=4.0)
    for seed in range(4):
        transform = elastic.draw((40, 42, 44), seeded(seed), (1.0, 1.2, 1.5))
        assert transform.deformation.spline.control_points.std() > 3
        assert aligned_ball(transform, (10, 12, 9)) > 0.95


# ------------------------------------------------------------------- all in one map


def aligned_ball(transform, corner):
    """Dice of the thresholded image of a ball and its label map, both transformed."""
    places = ramps((64, 64, 64)) - torch.tensor([30.0, 33, 31])[:, None, None, None]
    # One voxel of partial volume, so that 0.5 is the surface that the labels have.
    image = (12.5 - places.norm(dim=0)).clamp(0, 1)[None]
    label_map = (places.norm(dim=0) < 12).to(torch.uint8)
    patch, labels, _ = patch_of(transform, image, corner, label_map)
    bright, labelled = patch[0] > 0.5, labels == 1
    return 2 * float((bright & labelled).sum()) / float(bright.sum() + labelled.sum())


@pytest.mark.parametrize("seed", range(8))
def test_image_and_label_map_stay_aligned(seed):
    # The ball is the first class, which mirroring must not rename here.
    kept = replace(EVERYTHING, swapped_classes=(0, 1, 2, 3))
    transform = kept.draw((40, 42, 44), seeded(seed), (1.0, 1.2, 1.5))
    assert aligned_ball(transform, (10, 12, 9)) > 0.95


def test_beyond_the_volume_images_are_0_and_label_maps_ignored():
    image, label_map = torch.ones(1, 10, 10, 10), torch.ones(10, 10, 10).byte()
    transform = deformed((10, 10, 10), translation=(4.0, 0.0, 0.0))
    patch, labels, _ = patch_of(transform, image, (0, 0, 0), label_map)
    assert patch[0, :, 5, 5].tolist() == pytest.approx([1] * 6 + [0] * 4, abs=1e-5)
    assert labels[:, 5, 5].tolist() == [1] * 6 + [IGNORED] * 4


def test_mirroring_a_deformed_patch_reverses_it(image, label_map):
    plain = EVERYTHING.draw((6, 7, 8), seeded(5), ISOTROPIC)
    plain = replace(plain, mirrored_axes=(), new_classes=None, new_structures=None)
    both = replace(plain, mirrored_axes=(1, 2))
    patch, labels, _ = patch_of(plain, image, (3, 4, 5), label_map)
    reversed_patch, reversed_labels, _ = patch_of(both, image, (3, 4, 5), label_map)
    assert torch.equal(reversed_patch, patch.flip(2, 3))
    assert torch.equal(reversed_labels, labels.flip(1, 2))


@settings(max_examples=40, deadline=None)
@given(
    spacing_mm=st.tuples(*[st.floats(0.5, 4.0)] * 3),
    seed=st.integers(0, 2**31),
)
def test_composed_map_is_scipys_affine_transform(spacing_mm, seed):
    everything = replace(EVERYTHING, elastic_probability=0.0, mirror_probability=0.0)
    volume = torch.randn(1, 14, 15, 16, generator=seeded(seed))
    corner, size = (4, 5, 3), (6, 5, 8)
    transform = everything.draw(size, seeded(seed), spacing_mm)
    patch, _, _ = patch_of(transform, volume, corner)
    matrix = transform.deformation.matrix.double().numpy()
    middle = (np.array(size) - 1) / 2
    shift = transform.deformation.translation.double().numpy()
    # SciPy maps the voxel v of its result to matrix @ v + offset.
    offset = np.array(corner) + middle + shift - matrix @ middle
    # Zeros about the volume, as the store's reader puts there.
    expected = scipy.ndimage.affine_transform(
        np.pad(volume[0].double().numpy(), 60),
        matrix,
        offset=offset + 60,
        output_shape=size,
        order=1,
    )
    assert np.allclose(patch[0], expected, atol=1e-3)


@pytest.mark.parametrize("spacing_mm", [ISOTROPIC, (0.7, 1.3, 6.0)])
def test_changes_of_no_strength_leave_the_patch_as_it_is(image, label_map, spacing_mm):
    idle = replace(
        EVERYTHING,
        rotation_degrees=(0.0, 0.0, 0.0),
        scaling=(1.0, 1.0),
        shear_degrees=0.0,
        spacing_jitter_mm=0.0,
        translation_voxels=0.0,
        elastic_voxels=0.0,
        mirror_probability=0.0,
    )
    transform = idle.draw((6, 7, 8), seeded(), spacing_mm)
    window = transform.source_window((3, 4, 5), (6, 7, 8))
    assert window == (slice(3, 9), slice(4, 11), slice(5, 13))
    patch, labels, _ = patch_of(transform, image, (3, 4, 5), label_map)
    assert torch.equal(patch, image[:, *window])
    assert torch.equal(labels, label_map[window])


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 14)] * 3),
    spacing_mm=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    seed=st.integers(0, 2**31),
)
def test_source_window_holds_every_place(size, spacing_mm, seed):
    assume(max(size) > 1)
    transform = EVERYTHING.draw(size, seeded(seed), spacing_mm)
    window = transform.source_window((0, 0, 0), size)
    places = transform.deformation.places(size, torch.device("cpu")).flatten(1)
    lengths = torch.tensor([axis.stop - axis.start for axis in window])
    is_slice = torch.tensor([axis == slice(0, 1) for axis in window])
    assert (places[is_slice] == 0).all()
    assert (places[~is_slice].amin(1) >= 0.9).all()
    assert (places[~is_slice].amax(1) <= lengths[~is_slice] - 1.9).all()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 9)] * 3),
    corner=st.tuples(*[st.integers(-3, 12)] * 3),
    seed=st.integers(0, 2**31),
)
def test_linear_ramps_are_sampled_where_the_map_says(size, corner, seed):
    assume(max(size) > 1)
    # Wide enough that no place lies beyond the volume.
    volume = ramps((90, 90, 90))
    transform = EVERYTHING.draw(size, seeded(seed), (1.0, 1.5, 2.0))
    transform = replace(transform, mirrored_axes=())
    start = tuple(axis + 40 for axis in corner)
    patch, _, _ = patch_of(transform, volume, start)
    box = transform.source_window(start, size)
    first = torch.tensor([float(axis.start) for axis in box])[:, None, None, None]
    places = first + transform.deformation.places(size, torch.device("cpu"))
    assert torch.allclose(patch, places, atol=2e-3)


def test_window_of_a_large_patch_is_bounded():
    random = seeded()
    common = replace(NOTHING, rotation_probability=1.0, scaling_probability=1.0)
    for _ in range(50):
        transform = common.draw((128, 128, 128), random, ISOTROPIC)
        window = transform.source_window((0, 0, 0), (128, 128, 128))
        assert all(axis.stop - axis.start < 128 / 0.7 * 3**0.5 + 4 for axis in window)


def test_same_generator_gives_the_same_patch_and_the_global_one_is_not_used(image):
    state = torch.get_rng_state()
    patches = [
        patch_of(EVERYTHING.draw((6, 7, 8), seeded(3), ISOTROPIC), image, (3, 4, 5))[0]
        for _ in range(2)
    ]
    assert torch.equal(*patches)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_patch_on_a_gpu_is_that_of_the_cpu(image, label_map):
    transform = EVERYTHING.draw((6, 7, 8), seeded(4), ISOTROPIC)
    window = transform.source_window((3, 4, 5), (6, 7, 8))
    boxes = read(image, window, 0.0), read(label_map, window, IGNORED)
    patch, labels, _ = transform.apply(*boxes, ALL_ANNOTATED)
    on_gpu = transform.apply(boxes[0].cuda(), boxes[1].cuda(), ALL_ANNOTATED)
    assert torch.allclose(on_gpu[0].cpu(), patch, atol=1e-4)
    assert (on_gpu[1].cpu() == labels).float().mean() > 0.99
