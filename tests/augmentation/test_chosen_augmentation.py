"""From settings and plan to what happens to patches."""

import pytest
import torch

from foveal import building
from foveal.config.augmentation import AugmentationConfig
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.errors import SettingsError

NOTHING = {
    name: 0.0
    for name in AugmentationConfig.model_fields
    if name.endswith("_probability")
}


def plan(spacing_mm=(1.0, 1.0, 1.0), **mirroring):
    return Plan.model_validate(
        {
            "dataset_name": "made up",
            "labels": {
                "names": ["left kidney", "right kidney", "spine"],
                "values": [1, 2, 3],
            },
            "preprocessing": {
                "spacing_mm": spacing_mm,
                "channels": [{"name": "CT", "normalisation": "zscore"}],
            },
            "mirroring": mirroring,
            "patches": {"size": [8, 8, 8], "batch_size": 1},
            "network": {"name": "unet3d"},
        }
    )


def spatial(planned, **augmentation):
    settings = Settings.model_validate({"augmentation": NOTHING | augmentation})
    return building.spatial_augmentation(settings, planned)


FLAT = (1.0, 1.0, 5.0)


def test_one_angle_holds_for_every_axis_or_on_flat_grids_for_that_across_slices():
    chosen = {"rotation_probability": 1.0, "rotation_degrees": 20.0}
    assert spatial(plan(), **chosen).rotation_degrees == (20.0, 20.0, 20.0)
    assert spatial(plan(FLAT), **chosen).rotation_degrees == (0.0, 0.0, 20.0)


def test_three_angles_hold_whatever_the_grid():
    chosen = {"rotation_probability": 1.0, "rotation_degrees": [10, 4, 4]}
    assert spatial(plan(), **chosen).rotation_degrees == (10.0, 4.0, 4.0)
    assert spatial(plan(FLAT), **chosen).rotation_degrees == (10.0, 4.0, 4.0)


def test_shear_stays_in_the_slices_of_flat_grids():
    assert spatial(plan(FLAT), shear_probability=1.0).shear_axes == (2,)
    assert spatial(plan(), shear_probability=1.0).shear_axes == (0, 1, 2)


def test_jitter_that_leaves_no_spacing_is_refused():
    chosen = {"spacing_jitter_probability": 1.0, "spacing_jitter_mm": 1.0}
    with pytest.raises(SettingsError, match=r"spacing_jitter_mm 1 must be below .* 1$"):
        spatial(plan(FLAT), **chosen)
    assert spatial(plan((1.1, 2.0, 2.0)), **chosen).spacing_jitter_mm == 1.0


@pytest.mark.parametrize(
    ("strength", "value"),
    [
        ("shear_degrees", 10.0),
        ("spacing_jitter_mm", 0.2),
        ("translation_voxels", 10.0),
        ("elastic_spacing_voxels", 32.0),
        ("shift_factor_deviation", 0.01),
    ],
)
def test_strength_of_a_change_that_never_happens_is_refused(strength, value):
    with pytest.raises(ValueError, match=f"{strength} changes nothing while .* is 0"):
        AugmentationConfig.model_validate({strength: value})


def test_elastic_deformation_that_folds_is_refused():
    with pytest.raises(ValueError, match=r"elastic_voxels 8 must be at most 0.4 times"):
        AugmentationConfig(elastic_probability=0.5, elastic_voxels=8.0)


@pytest.mark.parametrize("degrees", [-1.0, 90.0])
def test_shear_of_a_right_angle_is_refused(degrees):
    with pytest.raises(ValueError, match="shear_degrees"):
        AugmentationConfig(shear_probability=1.0, shear_degrees=degrees)


def test_sagittal_reflection_keeps_the_left_kidney_on_the_left():
    # Axis 0 runs from left to right: the left kidney has low indices.
    label_map = torch.zeros(10, 6, 6, dtype=torch.uint8)
    label_map[1:3, 2:4, 1:5] = 1
    label_map[6:9, 1:5, 2:4] = 2
    label_map[4:6, 5] = 3
    image = label_map.float()[None]
    mirrored = spatial(
        plan(axes=[0], left_right_pairs=[["left kidney", "right kidney"]]),
        mirror_probability=1.0,
    )
    transform = mirrored.draw(
        (10, 6, 6), torch.Generator().manual_seed(0), (1.0, 1.0, 1.0)
    )
    assert transform.mirrored_axes == (0,)
    flags = torch.tensor([True, False, True])
    reflected, labels, annotated = transform.apply(image, label_map, flags)
    # What is seen is the mirror image ...
    assert torch.equal(reflected, image.flip(1))
    # ... in which the former right kidney is the left one, and lies on the left.
    assert (labels[1:4, 1:5, 2:4] == 1).all()
    assert (labels[7:9, 2:4, 1:5] == 2).all()
    assert (labels[4:6, 5] == 3).all()
    assert labels.flatten().bincount().tolist()[1:] == [24, 16, 12]
    assert annotated.tolist() == [False, True, True]
