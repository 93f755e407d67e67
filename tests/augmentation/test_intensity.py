from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from foveal.augmentation.intensity import (
    IntensityAugmentation,
    blurred,
    with_contrast,
    with_gamma,
    with_resolution,
)

NOTHING = IntensityAugmentation(
    noise_probability=0.0,
    noise_deviation=(0.0, 0.3),
    blur_probability=0.0,
    blur_sigma_voxels=(0.5, 1.0),
    shift_probability=0.0,
    shift_deviation=0.1,
    shift_factor_deviation=0.0,
    brightness_probability=0.0,
    brightness=(0.75, 1.25),
    contrast_probability=0.0,
    contrast=(0.75, 1.25),
    low_resolution_probability=0.0,
    low_resolution=(0.5, 1.0),
    gamma_probability=0.0,
    gamma=(0.7, 1.5),
)
EVERYTHING = replace(
    NOTHING,
    noise_probability=0.5,
    blur_probability=0.5,
    shift_probability=0.5,
    brightness_probability=0.5,
    contrast_probability=0.5,
    low_resolution_probability=0.5,
    gamma_probability=0.5,
)


@pytest.fixture
def image():
    return torch.randn(4, 2, 9, 12, 7, generator=torch.Generator().manual_seed(0))


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def channels(*values):
    """Strengths of one patch."""
    return torch.tensor([values])


def test_nothing_chosen_copies_the_image(image):
    result = NOTHING.apply(image, seeded())
    assert torch.equal(result, image)
    assert result.data_ptr() != image.data_ptr()


def test_input_is_left_alone(image):
    before = image.clone()
    EVERYTHING.apply(image, seeded())
    assert torch.equal(image, before)


def test_same_generator_gives_the_same_image_and_the_global_one_is_not_used(image):
    state = torch.get_rng_state()
    first = EVERYTHING.apply(image, seeded())
    second = EVERYTHING.apply(image, seeded())
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, EVERYTHING.apply(image, seeded(2)))


def test_number_of_draws_does_not_depend_on_the_values(image):
    first, second = seeded(), seeded()
    EVERYTHING.apply(image, first)
    EVERYTHING.apply(torch.zeros_like(image), second)
    assert torch.equal(first.get_state(), second.get_state())


def test_probability_is_the_share_of_changed_patches():
    image = torch.ones(2000, 1, 1, 1, 2)
    brighter = replace(NOTHING, brightness_probability=0.3, brightness=(1.5, 2.0))
    changed = (brighter.apply(image, seeded()) != 1).flatten(1)
    assert abs(changed.float().mean() - 0.3) < 0.03
    assert torch.equal(changed.any(1), changed.all(1))


def test_brightness_multiplies_each_channel_by_a_factor_of_its_own(image):
    brighter = replace(NOTHING, brightness_probability=1.0)
    factors = brighter.apply(image, seeded()) / image
    per_channel = factors.flatten(2)
    assert torch.allclose(per_channel, per_channel[..., :1].expand_as(per_channel))
    assert len(set(per_channel[..., 0].flatten().tolist())) == 8
    assert (per_channel >= 0.75 - 1e-6).all()
    assert (per_channel <= 1.25 + 1e-6).all()


def test_brightness_factor_is_exact(image):
    doubled = replace(NOTHING, brightness_probability=1.0, brightness=(2.0, 2.0))
    assert torch.equal(doubled.apply(image, seeded()), 2 * image)


def test_shift_adds_one_normal_number_to_each_channel():
    shifted = replace(NOTHING, shift_probability=1.0, shift_deviation=0.1)
    image = torch.randn(2000, 2, 2, 2, 2, generator=seeded(0))
    shifts = (shifted.apply(image, seeded()) - image).flatten(2)
    assert torch.allclose(shifts, shifts[..., :1].expand_as(shifts), atol=1e-6)
    drawn = shifts[..., 0]
    assert abs(drawn.mean()) < 0.005
    assert abs(drawn.std() - 0.1) < 0.004
    within = (drawn.abs() < 0.1).float().mean()
    assert abs(within - 0.683) < 0.02  # of a normal distribution
    assert abs(torch.corrcoef(drawn.T)[0, 1]) < 0.06


def test_shifted_values_are_multiplied_by_a_factor_about_1():
    # Two voxels per channel, 0 and 1: shift * factor, and one factor more.
    both = replace(
        NOTHING,
        shift_probability=1.0,
        shift_deviation=0.05,
        shift_factor_deviation=0.01,
    )
    image = torch.tensor([0.0, 1.0]).repeat(3000, 1).reshape(3000, 1, 1, 1, 2)
    low, high = both.apply(image, seeded()).flatten(1).T
    factor = high - low
    assert abs(factor.mean() - 1) < 0.001
    assert abs(factor.std() - 0.01) < 0.0005
    assert abs((low / factor).std() - 0.05) < 0.002
    assert abs(torch.corrcoef(torch.stack([low / factor, factor]))[0, 1]) < 0.05


def test_shift_of_no_strength_changes_no_bit(image):
    idle = replace(NOTHING, shift_probability=1.0, shift_deviation=0.0)
    assert torch.equal(idle.apply(image, seeded()), image)


def test_same_seed_gives_the_same_shifts(image):
    shifted = replace(NOTHING, shift_probability=1.0)
    first = shifted.apply(image, seeded())
    assert torch.equal(first, shifted.apply(image, seeded()))
    assert not torch.equal(first, shifted.apply(image, seeded(2)))


def test_noise_has_the_deviation_asked_for():
    noisy = replace(NOTHING, noise_probability=1.0, noise_deviation=(0.2, 0.2))
    noise = noisy.apply(torch.full((2, 1, 30, 30, 30), 5.0), seeded()) - 5
    assert abs(noise.std() - 0.2) < 0.004
    assert abs(noise.mean()) < 0.004
    assert not torch.equal(noise[0], noise[1])


def test_blur_keeps_a_constant_up_to_the_border():
    constant = torch.full((1, 2, 5, 1, 8), 3.0)
    assert torch.allclose(blurred(constant, channels(0.5, 2.0)), constant)


def test_blur_spreads_a_point_as_a_gaussian_of_each_channels_sigma():
    point = torch.zeros(1, 2, 15, 15, 15)
    point[..., 7, 7, 7] = 1
    result = blurred(point, channels(0.6, 1.0))
    for channel, sigma in enumerate((0.6, 1.0)):
        profile = np.exp(-0.5 * (np.arange(-7, 8) / sigma) ** 2)
        profile /= profile.sum()
        expected = np.einsum("i,j,k->ijk", profile, profile, profile)
        assert np.allclose(result[0, channel], expected, atol=1e-6)


def test_blur_agrees_with_scipy_inside(image):
    result = blurred(image, torch.full((4, 2), 0.7))
    expected = scipy.ndimage.gaussian_filter(
        image.numpy(), [0, 0, 0.7, 0.7, 0.7], truncate=6
    )
    inside = (slice(None), slice(None), slice(3, -3), slice(3, -3), slice(3, -3))
    assert np.allclose(result[inside], expected[inside], atol=1e-4)


def test_contrast_moves_values_from_their_mean():
    image = torch.tensor([0.0, 1.0, 2.0, 5.0]).reshape(1, 1, 1, 2, 2)
    lower = with_contrast(image, channels(0.5)).flatten().tolist()
    assert lower == [1.0, 1.5, 2.0, 3.5]


def test_contrast_keeps_the_range():
    image = torch.tensor([0.0, 1.0, 2.0, 5.0]).reshape(1, 1, 1, 2, 2)
    higher = with_contrast(image, channels(2.0)).flatten().tolist()
    assert higher == [0.0, 0.0, 2.0, 5.0]


def test_half_resolution_keeps_every_second_voxel_and_interpolates():
    ramp = torch.arange(6.0).reshape(1, 1, 6, 1, 1)
    factors = [channels(0.5), channels(1.0), channels(1.0)]
    # Kept: voxels 1, 3, 5, standing for places 0.5, 2.5 and 4.5.
    expected = [1.0, 1.5, 2.5, 3.5, 4.5, 5.0]
    assert with_resolution(ramp, factors).flatten().tolist() == expected


def test_full_resolution_changes_nothing(image):
    factors = [torch.ones(4, 2)] * 3
    assert torch.equal(with_resolution(image, factors), image)


def test_least_resolution_is_one_voxel():
    image = torch.arange(5.0).reshape(1, 1, 1, 5, 1)
    factors = [channels(0.01)] * 3
    assert with_resolution(image, factors).flatten().tolist() == [2.0] * 5


@pytest.mark.parametrize("count", [4, 5, 7, 9])
def test_low_resolution_agrees_with_torch(image, count):
    low = F.interpolate(image, (count, 12, 7), mode="nearest-exact")
    expected = F.interpolate(low, (9, 12, 7), mode="trilinear", align_corners=False)
    factors = [torch.full((4, 2), count / 9), torch.ones(4, 2), torch.ones(4, 2)]
    assert torch.allclose(with_resolution(image, factors), expected, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_keeps_mean_and_deviation(image, gamma):
    result = with_gamma(image, torch.full((4, 2), gamma))
    axes = (2, 3, 4)
    assert torch.allclose(result.mean(axes), image.mean(axes), atol=1e-5)
    assert torch.allclose(result.std(axes), image.std(axes), atol=1e-5)


def test_gamma_bends_the_scale_between_the_extremes():
    image = torch.tensor([2.0, 4.0, 6.0]).reshape(1, 1, 1, 1, 3)
    low, middle, high = with_gamma(image, channels(2.0)).flatten().tolist()
    # Scaled to 0, 0.5, 1 and squared: 0, 0.25, 1.
    assert (middle - low) / (high - low) == pytest.approx(0.25)


def test_gamma_leaves_a_constant_channel_alone(image):
    image[:, 1] = 0.1
    result = with_gamma(image, torch.full((4, 2), 1.5))
    assert torch.equal(result[:, 1], image[:, 1])
    assert result.isfinite().all()


def test_gamma_is_inverted_in_half_of_the_patches():
    image = torch.tensor([0.0, 1.0, 2.0]).repeat(1000, 1).reshape(1000, 1, 1, 1, 3)
    bent = replace(NOTHING, gamma_probability=1.0, gamma=(2.0, 2.0))
    result = bent.apply(image, seeded()).flatten(1)
    relative = (result[:, 1] - result[:, 0]) / (result[:, 2] - result[:, 0])
    is_plain = torch.isclose(relative, torch.tensor(0.25), atol=1e-5)
    is_inverted = torch.isclose(relative, torch.tensor(0.75), atol=1e-5)
    assert (is_plain | is_inverted).all()
    assert abs(is_inverted.float().mean() - 0.5) < 0.06


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_result_on_a_gpu_is_that_of_the_cpu(image):
    on_gpu = EVERYTHING.apply(image.cuda(), seeded())
    assert torch.allclose(on_gpu.cpu(), EVERYTHING.apply(image, seeded()), atol=1e-4)
