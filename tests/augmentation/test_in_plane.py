"""Patches of one voxel along an axis are changed in their plane only."""

from dataclasses import replace

import pytest
import torch

from foveal.augmentation.intensity import blurred, with_resolution
from foveal.augmentation.spatial import (
    SpatialAugmentation,
    linear_values,
    rotation_matrix,
)

EVERYTHING = SpatialAugmentation(
    rotation_probability=1.0,
    rotation_degrees=(40.0, 40.0, 40.0),
    scaling_probability=1.0,
    scaling=(0.7, 1.4),
    shear_probability=1.0,
    shear_degrees=12.0,
    shear_axes=(0, 1, 2),
    spacing_jitter_probability=1.0,
    spacing_jitter_mm=0.1,
    translation_probability=1.0,
    translation_voxels=4.0,
    elastic_probability=1.0,
    elastic_spacing_voxels=3.0,
    elastic_voxels=2.0,
    mirror_probability=1.0,
    mirror_axes=(0, 1, 2),
    sagittal_axis=0,
    swapped_classes=(0, 2, 1),
    swapped_structures=(1, 0),
)

SIZES = {0: (1, 9, 12), 1: (9, 1, 12), 2: (9, 12, 1)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 1.0, 5.0)])
def test_no_other_slice_is_read(axis, spacing_mm):
    for seed in range(20):
        transform = EVERYTHING.draw(SIZES[axis], seeded(seed), spacing_mm)
        window = transform.source_window((20, 30, 40), SIZES[axis])
        corner = (20, 30, 40)[axis]
        assert window[axis] == slice(corner, corner + 1)
        places = transform.deformation.places(SIZES[axis], torch.device("cpu"))
        assert (places[axis] == 0).all()
        assert all(places[other].std() > 1 for other in range(3) if other != axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_deformed_like_a_patch_of_equal_slices(axis):
    # A volume that is the same in every slice shows what in-plane changes alone do.
    transform = EVERYTHING.draw(SIZES[axis], seeded(3), (1.0, 1.0, 1.0))
    transform = replace(transform, mirrored_axes=())
    window = transform.source_window((0, 0, 0), SIZES[axis])
    lengths = [part.stop - part.start for part in window]
    image = torch.randn((1, *lengths), generator=seeded())
    labels = torch.randint(0, 3, lengths, generator=seeded(), dtype=torch.uint8)
    flags = torch.ones(2, dtype=torch.bool)
    patch, label_map, _ = transform.apply(image, labels, flags)
    assert patch.shape == (1, *SIZES[axis])
    assert patch.isfinite().all()
    assert patch.abs().max() > 0.5
    thick = image.repeat_interleave(3, dim=1 + axis)
    places = transform.deformation.places(SIZES[axis], torch.device("cpu")).clone()
    places[axis] += 1
    assert torch.allclose(patch, linear_values(thick, places), atol=1e-5)
    assert set(label_map.unique().tolist()) <= {0, 1, 2}


def test_a_quarter_turn_of_a_picture_is_exact():
    turn = replace(
        EVERYTHING,
        scaling_probability=0.0,
        shear_probability=0.0,
        spacing_jitter_probability=0.0,
        translation_probability=0.0,
        elastic_probability=0.0,
        mirror_probability=0.0,
    )
    transform = turn.draw((5, 5, 1), seeded(), (1.0, 1.0, 1.0))
    quarter = replace(transform.deformation, matrix=rotation_matrix((0.0, 0.0, 90.0)))
    transform = replace(transform, deformation=quarter)
    window = transform.source_window((0, 0, 0), (5, 5, 1))
    margin = -window[0].start
    image = torch.zeros(1, *[part.stop - part.start for part in window])
    picture = torch.arange(25.0).reshape(5, 5)
    image[0, margin : margin + 5, margin : margin + 5, 0] = picture
    patch, _, _ = transform.apply(image, None, torch.ones(2, dtype=torch.bool))
    assert torch.allclose(patch[0, ..., 0], torch.rot90(picture, -1), atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirroring_stays_in_the_plane(axis):
    transform = EVERYTHING.draw(SIZES[axis], seeded(), (1.0, 1.0, 1.0))
    assert transform.mirrored_axes == tuple(
        other for other in range(3) if other != axis
    )
    # Left and right change places only where left and right are in the plane.
    assert (transform.new_classes is None) == (axis == 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_growth_keeps_the_thickness_of_a_slice(axis):
    grows = replace(
        EVERYTHING,
        rotation_probability=0.0,
        shear_probability=0.0,
        spacing_jitter_probability=0.0,
        scaling=(2.0, 2.0),
    )
    matrix = grows.draw(SIZES[axis], seeded(), (1.0, 1.0, 3.0)).deformation.matrix
    steps = [1.0 if other == axis else 0.5 for other in range(3)]
    assert torch.allclose(matrix, torch.diag(torch.tensor(steps)))


def test_a_slice_is_blurred_and_coarsened_like_one_of_equal_slices():
    image = torch.randn(2, 1, 6, 7, 1, generator=seeded())
    stack = image.expand(-1, -1, -1, -1, 5)
    half = torch.full((2, 1), 0.5)
    assert torch.allclose(blurred(image, half), blurred(stack, half)[..., 2:3])
    coarse = with_resolution(image, [half] * 3)
    assert torch.allclose(coarse, with_resolution(stack, [half] * 3)[..., 2:3])
    assert not torch.allclose(coarse, image)
