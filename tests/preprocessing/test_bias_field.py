import numpy as np
import pytest

from foveal.errors import CaseError
from foveal.preprocessing.bias_field import BiasField, without_bias_field

QUICK = BiasField(shrink_factor=2, iterations=(10, 10))


def shaded(shape=(16, 16, 16)):
    """Two tissues in a ball, shaded along i by exp(-0.4) to exp(0.4).

    Returns:
        Tissues, shading, and where the ball is.
    """
    axes = np.meshgrid(
        *(np.linspace(-1, 1, length) if length > 1 else 0.0 for length in shape),
        indexing="ij",
    )
    radius = np.sqrt(sum(axis**2 for axis in axes))
    ball = radius < 0.9
    tissues = np.where(ball, np.where(radius < 0.6, 300, 100), 0)
    return tissues.astype(np.float32), np.exp(0.4 * axes[0]).astype(np.float32), ball


def variation(values):
    """Coefficient of variation."""
    return values.std() / values.mean()


def test_a_smooth_shading_is_taken_out():
    tissues, shading, ball = shaded()

    corrected = without_bias_field(tissues * shading, ball, QUICK)

    for value in (100, 300):
        before = variation((tissues * shading)[tissues == value])
        assert before > 0.1
        assert variation(corrected[tissues == value]) < before / 5


def test_a_shrunken_image_gives_nearly_the_same_field():
    tissues, shading, ball = shaded((40, 40, 16))

    whole, shrunken = (
        without_bias_field(tissues * shading, ball, BiasField(factor, (10, 10)))[ball]
        for factor in (1, 4)
    )

    # The overall brightness of a field is arbitrary.
    assert variation(shading[ball]) > 0.15
    assert variation(shrunken / whole) < 0.02


@pytest.mark.parametrize(
    ("length", "planes_beyond"), [(20, 0), (86, 2.5)], ids=["whole", "shrunken"]
)
def test_a_shading_is_found_from_end_to_end(length, planes_beyond):
    shape = (length, 16, 16)
    random = np.random.default_rng(1)
    tissues = np.where(random.random(shape) < 0.5, 100, 160)
    tissues = tissues * (1 + 0.02 * random.normal(size=shape))
    # The last plane is exp(0.24) = 1.27 times as bright as the first one.
    shading = np.exp(0.12 * np.linspace(-1, 1, length))[:, None, None]
    image = (tissues * shading).astype(np.float32)

    corrected = without_bias_field(image, None, BiasField(4, (30, 30, 30)))

    left = (corrected / tissues).mean((1, 2))
    assert left[3:-3].max() / left[3:-3].min() < 1.005
    # Beyond the outermost planes looked at, at either end, the field stays constant.
    constant = np.exp(2 * planes_beyond * 0.24 / (length - 1))
    assert left[-1] / left[0] == pytest.approx(constant, abs=0.01)


def test_what_is_outside_the_mask_has_no_part_in_the_field_but_is_divided_by_it():
    tissues, shading, ball = shaded()
    image = tissues * shading
    other = np.where(ball, image, -1000).astype(np.float32)
    other[0, 0, 0] = 1e6

    first, second = (without_bias_field(one, ball, QUICK) for one in (image, other))

    np.testing.assert_array_equal(first[ball], second[ball])
    field = image[ball] / first[ball]
    ratio = other[~ball] / second[~ball]
    assert field.min() / 2 < ratio.min()
    assert ratio.max() < field.max() * 2


def test_zeros_inside_have_no_part():
    tissues, shading, ball = shaded()
    image = tissues * shading

    without_mask = without_bias_field(image, None, QUICK)

    np.testing.assert_array_equal(without_mask, without_bias_field(image, ball, QUICK))
    assert not without_mask[~ball].any()


def test_the_same_image_gives_the_same_bits_and_is_left_alone():
    tissues, shading, ball = shaded()
    image = tissues * shading
    before = image.copy()

    first, second = (without_bias_field(image, ball, QUICK) for _ in range(2))

    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)
    assert first.dtype == np.float32


@pytest.mark.parametrize("axis", [1, 2])
def test_a_picture_is_corrected_in_its_plane(axis):
    shape = [32, 32, 32]
    shape[axis] = 1
    tissues, shading, ball = shaded(tuple(shape))
    image = tissues * shading

    corrected = without_bias_field(image, ball, BiasField(2, (30, 30, 30)))

    assert corrected.shape == image.shape
    bright = tissues == 300
    assert variation(corrected[bright]) < variation(image[bright]) / 5


@pytest.mark.parametrize("shape", [(2, 20, 20), (3, 3, 3), (5, 9, 30)])
def test_an_image_of_few_voxels_is_corrected_too(shape):
    image = np.random.default_rng(0).uniform(100, 110, shape).astype(np.float32)

    corrected = without_bias_field(image, None, BiasField(4, (10,)))

    assert np.isfinite(corrected).all()
    assert 0.5 < corrected.mean() / image.mean() < 2


def test_a_constant_channel_has_no_bias_field():
    image = np.full((6, 6, 6), 7, np.float32)

    np.testing.assert_array_equal(without_bias_field(image, None, QUICK), image)


def test_negative_intensities_are_refused():
    image = np.ones((4, 4, 4), np.float32)
    image[0, 0, :2] = -3

    with pytest.raises(CaseError, match=r"3\.12 % of the voxels inside .* to -3; give"):
        without_bias_field(image, None, QUICK)


def test_nothing_but_zeros_is_refused():
    with pytest.raises(CaseError, match="all voxels inside are 0"):
        without_bias_field(np.zeros((4, 4, 4), np.float32), None, QUICK)


def test_a_mask_between_the_voxels_looked_at_is_refused():
    image = np.random.default_rng(0).uniform(1, 2, (40, 40, 40)).astype(np.float32)
    inside = np.zeros(image.shape, np.bool_)
    inside[0, 0, :2] = True

    with pytest.raises(CaseError, match="leaves no voxel of the 2 inside"):
        without_bias_field(image, inside, BiasField(4, (10,)))
