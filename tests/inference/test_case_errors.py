"""Errors of a prediction, against what a loop over voxels says."""

import numpy as np
import pytest
import torch

from foveal.geometry import Grid
from foveal.inference.errors import case_dice, case_errors, error_of
from foveal.inference.tiling import OverlappingTiles
from foveal.store.store import Store

SHAPE = (7, 4, 3)
STRUCTURES = {"organ": (1, 2), "lesion": (2,), "vessel": (3,)}
IGNORED = 255


def probabilities(seed=0, num_classes=4):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(num_classes, *SHAPE, generator=generator)).softmax(0)


def labels(seed=0, num_classes=4):
    label_map = np.random.default_rng(seed).integers(0, num_classes, SHAPE)
    label_map[0, 0] = IGNORED
    return label_map.astype(np.uint8)


def by_loop(found, label_map, alike):
    error = np.zeros(label_map.shape, np.uint8)
    for voxel in np.ndindex(label_map.shape):
        label = int(label_map[voxel])
        if label != IGNORED:
            p = sum(float(found[c][voxel]) for c in alike[label])
            error[voxel] = round((1 - p) * 255)
    return error


def test_error_is_one_minus_the_probability_of_the_true_class():
    found, label_map = probabilities(), labels()
    error = error_of(found, torch.from_numpy(label_map), range(4)).numpy()
    alone = {c: (c,) for c in range(4)}
    assert np.array_equal(error, by_loop(found.double().numpy(), label_map, alone))
    assert not error[label_map == IGNORED].any()


def test_probabilities_of_classes_that_look_alike_are_added():
    # Without vessel, class 3 looks like background; without lesion, 2 like 1.
    found = probabilities(1)
    label_map = np.array([0, 1, IGNORED], np.uint8)[
        np.random.default_rng(1).integers(0, 3, SHAPE)
    ]
    error = error_of(found, torch.from_numpy(label_map), (0, 1, 1, 0)).numpy()
    alike = {0: (0, 3), 1: (1, 2)}
    assert np.array_equal(error, by_loop(found.double().numpy(), label_map, alike))


def test_error_of_1_is_255_and_of_nothing_0():
    certain = torch.zeros(2, 1, 1, 4)
    certain[0, ..., :2] = 1
    certain[1, ..., 2:] = 1
    label_map = torch.tensor([[[0, 1, 1, 255]]], dtype=torch.uint8)
    assert error_of(certain, label_map, range(2)).tolist() == [[[0, 255, 0, 0]]]


def test_error_rounds_to_the_nearest_byte():
    p = torch.tensor([0.5, 1 - 0.4 / 255, 1 - 0.6 / 255, 0.4 / 255])
    found = torch.stack([p, 1 - p])[:, None, None]
    label_map = torch.zeros(1, 1, 4, dtype=torch.uint8)
    assert error_of(found, label_map, range(2)).flatten().tolist() == [128, 0, 1, 255]


def stored_case(tmp_path, image, label_map, annotated=None):
    """A case whose image is the logits that an identity network gives."""
    store = Store(tmp_path / "store")
    store.write(
        "key",
        image,
        label_map,
        Grid(SHAPE, np.eye(4)),
        num_classes=4,
        annotated=annotated,
    )
    return store.open("key", name="case", patient="somebody")


def errors_of(case, patch_size):
    tiles = OverlappingTiles(patch_size, 0.5, 2)
    return case_errors(lambda patches: patches, case, tiles, 4, STRUCTURES)


def made_up_logits():
    return np.random.default_rng(2).normal(0, 3, (4, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("patch_size", [SHAPE, (2, 4, 3), (3, 2, 2), (9, 9, 9)])
def test_rows_one_after_the_other_give_the_errors_of_the_whole(tmp_path, patch_size):
    image, label_map = made_up_logits(), labels(3)
    found = errors_of(stored_case(tmp_path, image, label_map), patch_size)
    whole = torch.from_numpy(image).softmax(0)
    expected = error_of(whole, torch.from_numpy(label_map), range(4)).numpy()
    # Weighted means of the same logits differ in the last bits.
    difference = np.abs(found.error.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05
    known = (label_map != IGNORED) & (label_map != 0)
    assert found.difficulty == pytest.approx(found.error[known].mean() / 255)


def test_difficulty_without_any_structure_is_the_mean_of_what_is_known(tmp_path):
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[0] = IGNORED
    found = errors_of(stored_case(tmp_path, made_up_logits(), label_map), SHAPE)
    assert found.difficulty == pytest.approx(found.error[1:].mean() / 255)
    nothing = np.full(SHAPE, IGNORED, np.uint8)
    found = errors_of(stored_case(tmp_path / "b", made_up_logits(), nothing), SHAPE)
    assert found.difficulty == 0
    assert not found.error.any()
    assert found.dice == dict.fromkeys(STRUCTURES)


def test_partly_annotated_case_has_no_error_where_it_looks_right(tmp_path):
    # Nobody drew lesion or vessel: label 1 is the organ with its lesion, 0 the rest.
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[3:] = 1
    image = np.full((4, *SHAPE), -30, np.float32)
    image[3, :3] = image[2, 3:] = 30
    case = stored_case(tmp_path, image, label_map, annotated=(True, False, False))
    found = errors_of(case, SHAPE)
    assert not found.error.any()
    assert found.difficulty == 0
    assert found.dice == {"organ": 1.0, "lesion": None, "vessel": None}


def test_dice_of_structures_leaves_out_what_is_not_known():
    reference = labels(4)
    prediction = labels(6)
    found = case_dice(prediction, reference, (True, True, False), STRUCTURES)
    known = reference != IGNORED
    for name, classes in STRUCTURES.items():
        first = np.isin(prediction, classes) & known
        second = np.isin(reference, classes)
        expected = 2 * (first & second).sum() / (first.sum() + second.sum())
        assert found[name] == (None if name == "vessel" else pytest.approx(expected))
    absent = np.zeros(SHAPE, np.uint8)
    assert case_dice(absent, absent, None, STRUCTURES) == dict.fromkeys(STRUCTURES)
