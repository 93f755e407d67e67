from dataclasses import replace

import numpy as np
import pytest
from phantoms import placed

from foveal.case import IGNORED, Case
from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.preprocessing.intensity import IntensityRecipe
from foveal.preprocessing.pipeline import PreprocessingRecipe, preprocess_case
from foveal.preprocessing.resample import resample_label_map

RECIPE = PreprocessingRecipe(
    orientation="RAS",
    spacing_mm=(1.0, 1.0, 1.0),
    crop="none",
    channels=(IntensityRecipe("MR", "none"),),
    label_values=(10, 20),
    combinations=(("organ",), ("vessel",)),
    ignore_value=99,
)

LPS = np.diag([-1.0, -2.0, 1.0, 1.0])


def case_with_a_block(shape=(8, 6, 10), affine=LPS):
    """Intensity 5 and label 10 in a block, 20 at one of its corners, 0 around."""
    image = np.zeros((1, *shape), np.float32)
    label_map = np.zeros(shape, np.int32)
    block = (slice(2, 5), slice(1, 4), slice(3, 9))
    image[0][block] = 5
    label_map[block] = 10
    label_map[4, 3, 8] = 20
    return Case("a", image, Grid(shape, affine), label_map)


def test_axes_run_as_the_recipe_says_and_voxels_keep_their_place():
    case = case_with_a_block()

    result = preprocess_case(case, replace(RECIPE, spacing_mm=(1.0, 2.0, 1.0)))

    np.testing.assert_array_equal(result.image, case.image[:, ::-1, ::-1])
    # The user's voxel (4, 3, 8) lies at x = -4, y = -6, z = 8.
    (index,) = np.argwhere(result.label_map == 2)
    assert index.tolist() == [3, 2, 8]
    assert (result.grid.affine @ [*index, 1])[:3].tolist() == [-4, -6, 8]
    assert result.grid.orientation == "RAS"


def test_the_crop_is_resampled_and_lies_where_it_lay():
    case = case_with_a_block()

    result = preprocess_case(case, replace(RECIPE, crop="nonzero"))

    # The block has 3 x 3 x 6 voxels of 1 x 2 x 1 mm.
    assert result.image.shape == (1, 3, 6, 6)
    np.testing.assert_allclose(result.image, 5, rtol=1e-6)
    assert result.restoration.cropped_shape == (3, 3, 6)
    assert result.grid.spacing_mm == (1.0, 1.0, 1.0)
    # The block's outer faces: x from -4.5 to -1.5, y from -7 to -1, z from 2.5 to 8.5.
    first, last = result.grid.corners_mm()[[0, -1]]
    np.testing.assert_allclose(first - 0.5, [-4.5, -7, 2.5])
    np.testing.assert_allclose(last + 0.5, [-1.5, -1, 8.5])


@pytest.mark.parametrize("crop", ["none", "nonzero"])
@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR", "PIL"])
def test_a_label_map_finds_back_to_its_own_grid(crop, orientation):
    case = case_with_a_block()
    recipe = replace(
        RECIPE, crop=crop, orientation=orientation, spacing_mm=(0.5, 0.5, 0.5)
    )

    result = preprocess_case(case, recipe)
    cropped = resample_label_map(result.label_map, result.restoration.cropped_shape)
    restored = placed(result.restoration, cropped)

    numbers = np.select([case.label_map == 10, case.label_map == 20], [1, 2])
    np.testing.assert_array_equal(restored, numbers)


def test_ignored_voxels_stay_ignored():
    case = case_with_a_block()
    case.label_map[0, 0, 0] = 99

    result = preprocess_case(case, replace(RECIPE, spacing_mm=(1.0, 2.0, 1.0)))

    assert result.label_map[7, 5, 0] == IGNORED
    assert np.count_nonzero(result.label_map == IGNORED) == 1


def test_statistics_come_from_the_mask_and_every_voxel_is_changed():
    case = case_with_a_block()
    case.image[0, 2, 1, 3:6] = 1
    mask = np.zeros(case.grid.shape, np.bool_)
    # Three voxels of 1, three of 5: mean 3, standard deviation 2.
    mask[2, 1, 3:9] = True
    recipe = replace(
        RECIPE,
        spacing_mm=(1.0, 2.0, 1.0),
        channels=(IntensityRecipe("MR", "zscore"),),
    )

    result = preprocess_case(replace(case, mask=mask), recipe)

    assert set(np.unique(result.image)) == {-1.5, -1.0, 1.0}


def test_without_a_mask_a_crop_to_nonzero_leaves_zeros_out_of_the_statistics():
    case = case_with_a_block()
    # Not in the box of the block, but of the crop.
    case.image[0, 0, 0, 0] = 5
    recipe = replace(
        RECIPE, crop="nonzero", channels=(IntensityRecipe("MR", "zscore"),)
    )

    result = preprocess_case(case, recipe)

    # All voxels that are not zero are 5.
    assert not result.image.any()


def test_scans_whose_intensities_differ_ten_thousandfold_come_to_one_scale():
    bright = case_with_a_block()
    bright.image[:] = np.random.default_rng(0).normal(3e5, 1e5, bright.image.shape)
    dark = replace(bright, image=(bright.image / 1e4).astype(np.float32))
    recipe = replace(RECIPE, channels=(IntensityRecipe("MR", "robust_zscore"),))

    results = [preprocess_case(case, recipe).image for case in (bright, dark)]

    np.testing.assert_allclose(results[0], results[1], atol=1e-4)
    assert results[0].std() == pytest.approx(0.8, abs=0.2)


def test_the_case_is_left_as_it_was():
    case = case_with_a_block()
    before = case.image.copy()

    result = preprocess_case(case, replace(RECIPE, spacing_mm=(1.0, 2.0, 1.0)))
    result.image[:] = 7

    np.testing.assert_array_equal(case.image, before)


def test_a_volume_of_one_slice_can_be_used():
    case = Case(
        "a", np.ones((1, 6, 6, 1), np.float32), Grid((6, 6, 1), np.diag([1, 1, 5, 1.0]))
    )

    result = preprocess_case(case, replace(RECIPE, spacing_mm=(2.0, 2.0, 20.0)))

    assert result.image.tolist() == np.ones((1, 3, 3, 1)).tolist()
    assert result.label_map is None


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR", "PIL"])
def test_weights_and_mask_lie_where_the_image_does(orientation):
    case = case_with_a_block()
    case.image[:] = np.random.default_rng(0).random(case.image.shape)
    # The first face along each axis is cropped away.
    inside = np.zeros(case.grid.shape, np.bool_)
    inside[2:, 1:, 3:] = True
    inside[4, 3, 5] = False
    case = replace(case, mask=inside, weight_map=case.image[0].copy())
    recipe = replace(RECIPE, orientation=orientation, crop="mask")

    coarse = preprocess_case(case, replace(recipe, spacing_mm=(1.0, 1.0, 1.0)))
    change, window = coarse.restoration.reorientation, coarse.restoration.window

    np.testing.assert_array_equal(coarse.weight_map, coarse.image[0])
    assert coarse.mask.shape == coarse.weight_map.shape == coarse.grid.shape
    same = preprocess_case(
        case, replace(recipe, spacing_mm=change.apply_to_grid(case.grid).spacing_mm)
    )
    np.testing.assert_array_equal(same.mask, change.apply(inside)[window])
    np.testing.assert_array_equal(
        same.weight_map, change.apply(case.weight_map)[window]
    )


def test_without_mask_and_weight_map_there_are_none():
    result = preprocess_case(case_with_a_block(), RECIPE)

    assert (result.mask, result.weight_map) == (None, None)


def only_outside_the_block():
    weights = np.ones((8, 6, 10), np.float32)
    weights[2:5, 1:4, 3:9] = 0
    return weights


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        (
            {"image": np.ones((2, 8, 6, 10), np.float32)},
            RECIPE,
            r"case a: it has 2 channel\(s\), the plan needs 1 \(MR\)",
        ),
        ({}, replace(RECIPE, crop="mask"), "case a: it has no mask"),
        (
            {"mask": np.zeros((8, 6, 10), np.bool_)},
            RECIPE,
            "case a: its mask holds no voxel",
        ),
        (
            {"mask": np.zeros((8, 6, 10), np.bool_)},
            replace(RECIPE, crop="mask"),
            "case a: there is nothing to crop to",
        ),
        (
            {"image": np.zeros((1, 8, 6, 10), np.float32)},
            replace(RECIPE, crop="nonzero"),
            "case a: there is nothing to crop to",
        ),
        (
            {},
            replace(RECIPE, label_values=(10,)),
            r"case a: label map holds 20 \(1 voxels\)",
        ),
        (
            {"weight_map": only_outside_the_block()},
            replace(RECIPE, crop="nonzero"),
            "case a: its weight map is 0 in all that cropping and resampling leave",
        ),
    ],
)
def test_a_case_that_does_not_fit_the_plan_is_refused(change, recipe, message):
    with pytest.raises(CaseError, match=message):
        preprocess_case(replace(case_with_a_block(), **change), recipe)


def test_intensities_that_cannot_be_normalised_are_refused():
    case = case_with_a_block()
    case.image[0, 0, 0, 0] = 3e38
    recipe = replace(
        RECIPE,
        channels=(IntensityRecipe("CT", "ct", (-3e38, 3.4e38), 0.0, 1e-3),),
    )

    with pytest.raises(CaseError, match='channel "CT" has values from 0 to 3e'):
        preprocess_case(case, recipe)


def test_the_digest_follows_everything_but_the_names_of_channels():
    renamed = replace(RECIPE, channels=(IntensityRecipe("other", "none"),))
    others = [
        replace(RECIPE, orientation="LPS"),
        replace(RECIPE, spacing_mm=(1.0, 1.0, 1.5)),
        replace(RECIPE, crop="nonzero"),
        replace(RECIPE, channels=(IntensityRecipe("MR", "zscore"),)),
        replace(RECIPE, label_values=(20, 10)),
        replace(RECIPE, resample_channels=True),
        replace(RECIPE, ignore_value=None),
    ]

    assert renamed.digest == RECIPE.digest
    assert len({recipe.digest for recipe in (RECIPE, *others)}) == 8
