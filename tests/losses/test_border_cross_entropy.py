"""Border weights: gaps by hand, by brute force, and their loss."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from foveal.building import losses
from foveal.config.losses import BorderWeightsConfig, LossConfig, LossOptionsConfig
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.losses.border_cross_entropy import (
    border_cross_entropy,
    gap_closeness,
    without_parts,
)
from foveal.losses.cross_entropy import cross_entropy

PLAN = Plan.model_validate(
    {
        "dataset_name": "made up",
        "labels": {"names": ("cell",), "values": (1,)},
        "preprocessing": {
            "spacing_mm": (1.0, 1.0, 1.0),
            "channels": ({"name": "EM", "normalisation": "zscore"},),
        },
        "patches": {"size": (8, 8, 1), "batch_size": 2},
        "network": {"name": "unet3d"},
    }
)

ONE_STRUCTURE = np.array([[False, True]])


def two_squares(*, gap):
    """Two squares of 3 x 3 in a row, so many voxels apart."""
    label_map = np.zeros((5, 8 + gap), np.uint8)
    label_map[1:4, 1:4] = 1
    label_map[1:4, 4 + gap : 7 + gap] = 1
    return label_map


def cells(shape, count, seed=0):
    """Touching cells that are then set apart by one voxel, like membranes do."""
    generator = np.random.default_rng(seed)
    seeds = np.ones(shape, bool)
    seeds[tuple(generator.integers(0, length, count) for length in shape)] = False
    places = ndimage.distance_transform_edt(
        seeds, return_distances=False, return_indices=True
    )
    owner = np.ravel_multi_index(tuple(places), shape)
    membrane = np.zeros(shape, bool)
    for axis in range(len(shape)):
        changes = np.diff(owner, axis=axis, append=owner.take([-1], axis)) != 0
        membrane |= changes
    return (~membrane).astype(np.uint8)


def by_definition(label_map, sigma):
    """Every distance between every background voxel and every object's voxels."""
    numbered, count = ndimage.label(label_map == 1)
    objects = [np.argwhere(numbered == n) for n in range(1, count + 1)]
    closeness = np.zeros(label_map.shape)
    for place in np.argwhere(label_map == 0):
        nearest = sorted(
            np.sqrt(((voxels - place) ** 2).sum(axis=1)).min() for voxels in objects
        )
        if len(nearest) > 1:
            closeness[tuple(place)] = math.exp(
                -((nearest[0] + nearest[1]) ** 2) / (2 * sigma**2)
            )
    return closeness


@pytest.fixture
def batch():
    torch.manual_seed(0)
    label_map = torch.from_numpy(np.stack([two_squares(gap=2), two_squares(gap=2)]))
    label_map[1, :, 5:] = 0
    label_map[0, 0, 0] = 255
    return (
        torch.randn(2, 2, 5, 10, dtype=torch.double),
        label_map,
        torch.ones(2, 1, dtype=torch.bool),
        torch.from_numpy(ONE_STRUCTURE),
    )


def test_gap_of_two_squares_by_hand():
    closeness = gap_closeness(two_squares(gap=3), ONE_STRUCTURE, 5.0)
    # Between the squares the distances sum to 4; above the corner of the first one
    # they are 1 and from (0, 3) to (1, 7).
    assert closeness[2, 4:7] == pytest.approx([math.exp(-16 / 50)] * 3)
    assert closeness[0, 3] == pytest.approx(math.exp(-((1 + math.sqrt(17)) ** 2) / 50))
    assert (closeness[1:4, [1, 2, 3, 7, 8, 9]] == 0).all()


def test_narrower_gaps_count_more():
    peaks = [
        gap_closeness(two_squares(gap=gap), ONE_STRUCTURE, 5.0).max()
        for gap in (1, 2, 4, 8)
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == pytest.approx(math.exp(-4 / 50))


@pytest.mark.parametrize("columns", [slice(0, 5), slice(0, 1)])
def test_fewer_than_two_objects_have_no_gap(columns):
    label_map = two_squares(gap=2)[:, columns]
    assert (gap_closeness(label_map, ONE_STRUCTURE, 5.0) == 0).all()


@pytest.mark.parametrize("sigma", [1.0, 5.0])
@pytest.mark.parametrize(
    "label_map",
    [cells((40, 36), 9), cells((14, 12, 10), 6), cells((24, 20, 1), 5)],
    ids=["2d", "3d", "slice"],
)
def test_closeness_is_that_of_the_definition(label_map, sigma):
    expected = by_definition(label_map, sigma)
    assert expected.max() > 0.1
    closeness = gap_closeness(label_map, ONE_STRUCTURE, sigma)
    # Objects beyond four sigma are left out.
    np.testing.assert_allclose(closeness, expected, rtol=1e-5, atol=math.exp(-8))


def test_ignored_voxels_are_in_no_gap():
    label_map = two_squares(gap=3)
    label_map[2, 5] = 255
    closeness = gap_closeness(label_map, ONE_STRUCTURE, 5.0)
    assert closeness[2, 5] == 0
    assert closeness[2, 4] > 0


def test_objects_of_all_structures_are_neighbours():
    label_map = two_squares(gap=3)
    label_map[:, 6:] *= 2
    both = np.array([[False, True, False], [False, False, True]])
    expected = gap_closeness(two_squares(gap=3), ONE_STRUCTURE, 5.0)
    np.testing.assert_array_equal(gap_closeness(label_map, both, 5.0), expected)
    assert (gap_closeness(label_map, both[:1], 5.0) == 0).all()


def test_parts_of_structures_and_repeated_ones_are_no_objects_of_their_own():
    organ, lesion, other = [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]
    structures = torch.tensor([lesion, organ, other, organ]).bool()
    assert without_parts(structures).int().tolist() == [organ, other]


def test_weights_of_a_uniform_prediction_add_up(batch):
    logits, label_map, annotated, structures = batch
    closeness = sum(
        gap_closeness(labels, ONE_STRUCTURE, 5.0).sum() for labels in label_map.numpy()
    )
    assert closeness > 1
    loss = border_cross_entropy(
        torch.zeros_like(logits),
        label_map,
        annotated,
        structures,
        factor=10.0,
        sigma_voxels=5.0,
    )
    voxels = label_map.numel() - 1
    assert float(loss) == pytest.approx(
        math.log(2) * (voxels + 10 * closeness) / voxels, rel=1e-5
    )


def test_without_factor_it_is_cross_entropy(batch):
    loss = border_cross_entropy(*batch, factor=0.0, sigma_voxels=5.0)
    torch.testing.assert_close(loss, cross_entropy(*batch))


def test_objects_of_a_structure_without_annotation_are_unknown(batch):
    logits, label_map, annotated, structures = batch
    annotated[0] = False
    arguments = logits[:1], label_map[:1] * 0, annotated[:1], structures
    torch.testing.assert_close(
        border_cross_entropy(*arguments, factor=10.0, sigma_voxels=5.0),
        cross_entropy(*arguments),
    )


def test_all_ignored_gives_zero(batch):
    logits, label_map, annotated, structures = batch
    label_map = torch.full_like(label_map, 255)
    assert (
        border_cross_entropy(
            logits, label_map, annotated, structures, factor=10.0, sigma_voxels=5.0
        )
        == 0
    )


def test_gradient_is_that_of_finite_differences(batch):
    logits, *rest = batch
    logits = logits.float().requires_grad_()
    options = {"factor": 10.0, "sigma_voxels": 5.0}
    border_cross_entropy(logits, *rest, **options).backward()
    for place in [(0, 0, 2, 4), (0, 1, 2, 2), (1, 1, 0, 8), (0, 0, 0, 0)]:
        step = torch.zeros_like(logits)
        step[place] = 0.05
        after, before = (
            border_cross_entropy(logits.detach() + sign * step, *rest, **options)
            for sign in (1, -1)
        )
        slope = float((after - before) / 0.1)
        assert slope == pytest.approx(float(logits.grad[place]), rel=2e-2, abs=1e-5)


def test_settings_reach_the_loss(batch):
    settings = Settings(
        loss=LossConfig(cross_entropy=0.0, dice=0.0, border_cross_entropy=0.5),
        loss_options=LossOptionsConfig(
            border_cross_entropy=BorderWeightsConfig(factor=3.0, sigma_voxels=2.0)
        ),
    )
    ((name, (loss, weight)),) = losses(settings, PLAN).items()
    assert (name, weight) == ("border_cross_entropy", 0.5)
    expected = border_cross_entropy(*batch, factor=3.0, sigma_voxels=2.0)
    torch.testing.assert_close(loss(*batch), expected)
    assert "border_cross_entropy" not in losses(Settings(), PLAN)
