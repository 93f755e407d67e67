"""Second views of patches, and what was said of the first on their voxels."""

from dataclasses import replace

import pytest
import torch
from made_up_setting import NO_CHANGES, NO_MOVES
from torch import nn

from foveal.augmentation.spatial import Deformation, PatchTransform, rotation_matrix
from foveal.augmentation.views import carried, patch_map, second_views

SIZE = (9, 8, 7)
WHOLE = tuple(slice(0, length) for length in SIZE)
CPU = torch.device("cpu")
ISOTROPIC = (1.0, 1.0, 1.0)
EVERYTHING = replace(
    NO_MOVES,
    rotation_probability=1.0,
    scaling_probability=1.0,
    shear_probability=1.0,
    spacing_jitter_probability=1.0,
    translation_probability=1.0,
    elastic_probability=1.0,
    mirror_probability=0.5,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def mirrored(*axes, new_classes=None):
    return patch_map(PatchTransform(SIZE, None, axes, new_classes, None), CPU)


def deformed(matrix=None, translation=(0.0, 0.0, 0.0), axes=()):
    moves = Deformation(
        torch.eye(3) if matrix is None else matrix, torch.tensor(translation), None
    )
    return patch_map(PatchTransform(SIZE, moves, axes, None, None), CPU)


def test_nothing_drawn_is_the_same_view_to_the_bit():
    image = noise(3, 2, *SIZE)
    seen = second_views(image, NO_MOVES, NO_CHANGES, ISOTROPIC, seeded())
    assert torch.equal(seen.image, image)
    probabilities = noise(3, 4, *SIZE).softmax(1)
    there, inside = carried(probabilities, seen.maps, WHOLE)
    assert torch.equal(there, probabilities)
    assert inside.all()


def test_mirroring_commutes_with_a_network_of_single_voxels_to_the_bit():
    always = replace(NO_MOVES, mirror_probability=1.0, swapped_classes=(0, 1, 2))
    network = nn.Conv3d(1, 3, 1)
    image = noise(2, 1, *SIZE)
    seen = second_views(image, always, NO_CHANGES, ISOTROPIC, seeded())
    assert torch.equal(seen.image, image.flip(2, 3, 4))
    with torch.no_grad():
        there, inside = carried(network(image).softmax(1), seen.maps, WHOLE)
        torch.testing.assert_close(
            network(seen.image).softmax(1), there, rtol=0, atol=1e-7
        )
    assert inside.all()


def test_any_map_commutes_with_a_network_of_single_voxels_up_to_interpolation():
    # Slowly changing images, of which interpolation leaves little out.
    along = torch.linspace(-1, 1, 24)
    wave = torch.sin(along[:, None, None] + 2 * along[:, None] - along)
    image = torch.stack([wave, wave.flip(0)])[:, None]
    moves = replace(EVERYTHING, swapped_classes=(0, 1, 2))
    seen = second_views(image, moves, NO_CHANGES, ISOTROPIC, seeded(1))
    network = nn.Conv3d(1, 3, 1)
    window = (slice(0, 24),) * 3
    with torch.no_grad():
        there, inside = carried(network(image).softmax(1), seen.maps, window)
        here = network(seen.image).softmax(1)
    assert 0.2 < inside.float().mean() < 0.999
    assert (image - seen.image).abs().mean() > 0.1
    torch.testing.assert_close(here, there, rtol=0, atol=2e-3)


def test_linear_functions_are_carried_exactly_wherever_the_first_view_shows_them():
    turn = rotation_matrix((10.0, -20.0, 30.0))
    grid = torch.meshgrid(*[torch.arange(float(n)) for n in SIZE], indexing="ij")
    places = torch.stack(grid)
    middle = torch.tensor([(n - 1) / 2 for n in SIZE])[:, None, None, None]
    shift = torch.tensor([0.5, -1.0, 0.25])[:, None, None, None]
    expected = torch.einsum("ab,bijk->aijk", turn, places - middle) + middle + shift
    expected = expected.flip(2)
    there, inside = carried(
        places[None], [deformed(turn, (0.5, -1.0, 0.25), axes=(1,))], WHOLE
    )
    last = 2 * middle
    is_there = ((expected >= 0) & (expected <= last)).all(0)
    assert torch.equal(inside[0], is_there)
    assert 0.3 < is_there.float().mean() < 0.9
    clipped = torch.minimum(expected.clamp(min=0), last)
    torch.testing.assert_close(there[0], clipped, rtol=0, atol=1e-5)


def test_what_lies_beyond_is_told_and_repeats_the_border():
    image = torch.arange(9.0)[:, None, None].expand(1, 1, *SIZE).clone()
    moves = deformed(translation=(2.0, 0.0, 0.0))
    there, inside = carried(image, [moves], WHOLE)
    assert there[0, 0, :, 0, 0].tolist() == pytest.approx([2, 3, 4, 5, 6, 7, 8, 8, 8])
    assert inside[0, :, 0, 0].tolist() == [True] * 7 + [False] * 2


def test_left_and_right_change_places_with_their_classes():
    probabilities = noise(1, 3, *SIZE).softmax(1)
    there, _ = carried(probabilities, [mirrored(0, new_classes=(0, 2, 1))], WHOLE)
    assert torch.equal(there, probabilities.flip(2)[:, [0, 2, 1]])
    # No swap of pairs, so that an inverse would be found out.
    there, _ = carried(probabilities, [mirrored(0, new_classes=(1, 2, 0))], WHOLE)
    assert torch.equal(there[:, 1], probabilities.flip(2)[:, 0])


def test_networks_that_put_out_less_than_they_take_in_are_compared_where_they_do():
    # Margins that differ, so that a mirrored window is another one.
    window = (slice(3, 7), slice(0, 8), slice(1, 6))
    values = noise(1, 2, *SIZE)
    there, inside = carried(values[:, :, *window], [mirrored(0)], window)
    # Voxel o + 3 of the patch is 8 - (o + 3) in the first view, so 2 - o of its window.
    assert inside[0, :, 0, 0].tolist() == [True, True, True, False]
    expected = values.flip(2)[:, :, *window]
    shown = inside[:, None].expand_as(there)
    assert torch.equal(there[shown], expected[shown])


def test_slices_stay_in_their_plane():
    image = noise(2, 1, 12, 10, 1)
    moves = replace(EVERYTHING, swapped_classes=(0,))
    seen = second_views(image, moves, NO_CHANGES, ISOTROPIC, seeded(3))
    window = (slice(0, 12), slice(0, 10), slice(0, 1))
    there, inside = carried(image, seen.maps, window)
    assert torch.equal(there, seen.image)
    assert inside.any()
    assert not torch.equal(seen.image, image)


def test_the_same_seed_sees_the_same_and_layout_is_kept():
    image = noise(2, 3, *SIZE).contiguous(memory_format=torch.channels_last_3d)
    noisy = replace(NO_CHANGES, noise_probability=1.0)
    first, again, other = (
        second_views(image, EVERYTHING, noisy, ISOTROPIC, seeded(n)).image
        for n in (4, 4, 5)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.stride() == image.stride()
