from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from made_up_volumes import LabelledVolume, UnlabelledVolume

from foveal.sampling.laws import anywhere, class_balanced
from foveal.sampling.randomness import generator
from foveal.sampling.samplers import BaseSampler


def balanced(foreground_fraction, structures, weights):
    return BaseSampler(
        partial(
            class_balanced,
            foreground_fraction=foreground_fraction,
            structures=structures,
            weights=weights,
        )
    )


def one_class_each(foreground_fraction, *weights):
    """Sampler in which every class is a structure."""
    structures = tuple((number,) for number in range(1, len(weights) + 1))
    return balanced(foreground_fraction, structures, weights)


@pytest.fixture
def rare_and_common():
    """One voxel of class 1 in a corner, a thousand of class 2 in the middle."""
    label_map = np.zeros((30, 30, 30), np.uint8)
    label_map[29, 0, 29] = 1
    label_map[10:20, 10:20, 10:20] = 2
    return LabelledVolume(label_map, 4)


def patch_labels(case, corner, size):
    window = tuple(
        slice(max(start, 0), start + length)
        for start, length in zip(corner, size, strict=True)
    )
    return set(np.unique(case.label_map[window]).tolist())


def share_with(label, case, sampler, draws=1500, size=(3, 3, 3)):
    random = torch.Generator().manual_seed(1)
    hits = sum(
        label in patch_labels(case, sampler.draw([case], size, random).corner, size)
        for _ in range(draws)
    )
    return hits / draws


def test_rare_class_at_the_border_is_drawn_as_often_as_common_class(rare_and_common):
    sampler = one_class_each(1.0, 1.0, 1.0, 1.0)
    assert abs(share_with(1, rare_and_common, sampler) - 0.5) < 0.04
    assert abs(share_with(2, rare_and_common, sampler) - 0.5) < 0.04


def test_class_weights_are_obeyed_and_absent_classes_skipped(rare_and_common):
    sampler = one_class_each(1.0, 3.0, 1.0, 100.0)
    assert abs(share_with(1, rare_and_common, sampler) - 0.75) < 0.04


def test_foreground_fraction_is_the_share_of_patches_drawn_for_a_class(
    rare_and_common,
):
    sampler = one_class_each(0.4, 1.0, 0.0, 0.0)
    # By chance, 1 of the 28 ** 3 corners holds the voxel.
    assert abs(share_with(1, rare_and_common, sampler) - 0.4) < 0.04


def test_every_voxel_of_a_class_is_equally_likely():
    label_map = np.zeros((9, 9, 9), np.uint8)
    voxels = [(4, 4, 4), (4, 4, 5), (0, 8, 3), (7, 0, 0)]
    for voxel in voxels:
        label_map[voxel] = 1
    case = LabelledVolume(label_map, 2)
    sampler = one_class_each(1.0, 1.0)
    random = torch.Generator().manual_seed(2)
    drawn = Counter(sampler.draw([case], (1, 1, 1), random).corner for _ in range(4000))
    assert set(drawn) == set(voxels)
    assert all(abs(count - 1000) < 120 for count in drawn.values())


@pytest.mark.parametrize(
    "case",
    [UnlabelledVolume(), LabelledVolume(np.zeros((20, 20, 20), np.uint8), 3)],
    ids=["unlabelled", "only background"],
)
def test_case_without_foreground_gives_patches_from_anywhere(case):
    sampler = one_class_each(1.0, 1.0, 1.0)
    random = torch.Generator().manual_seed(3)
    corners = np.array(
        [sampler.draw([case], (11, 11, 11), random).corner for _ in range(2000)]
    )
    assert (corners.min(0) == 0).all()
    assert (corners.max(0) == 9).all()
    assert np.allclose(corners.mean(0), 4.5, atol=0.3)


@pytest.mark.parametrize(
    "sampler",
    [BaseSampler(anywhere), one_class_each(0.5, 1.0, 1.0, 1.0)],
    ids=["uniform", "class balanced"],
)
def test_cases_are_equally_likely_whatever_their_size(sampler, rare_and_common):
    cases = [UnlabelledVolume("a"), rare_and_common, UnlabelledVolume("b")]
    random = torch.Generator().manual_seed(4)
    drawn = Counter(
        sampler.draw(cases, (4, 4, 4), random).case_index for _ in range(3000)
    )
    assert set(drawn) == {0, 1, 2}
    assert all(abs(count - 1000) < 110 for count in drawn.values())


def test_same_seed_and_step_give_the_same_draws_and_ranks_differ(rare_and_common):
    sampler = one_class_each(0.5, 1.0, 1.0, 1.0)
    cases = [rare_and_common, UnlabelledVolume()]

    def draws(seed, step, rank):
        random = generator(seed, step, rank, "labelled", "patches")
        return [sampler.draw(cases, (5, 6, 7), random) for _ in range(9)]

    assert draws(0, 3, 0) == draws(0, 3, 0)
    assert draws(0, 3, 0) != draws(0, 3, 1)
    assert draws(0, 3, 0) != draws(0, 4, 0)
    assert draws(0, 3, 0) != draws(1, 3, 0)


def test_a_structure_of_several_classes_is_drawn_voxel_by_voxel(rare_and_common):
    # Structure 0 is both classes, structure 1 the rare one alone.
    sampler = balanced(1.0, ((1, 2), (1,)), (1.0, 1.0))
    # Half of the draws for structure 1, and 1 in 1001 of the others.
    assert abs(share_with(1, rare_and_common, sampler) - 0.5) < 0.04
    whole = balanced(1.0, ((1, 2),), (1.0,))
    assert share_with(1, rare_and_common, whole) < 0.02
    assert share_with(2, rare_and_common, whole) > 0.98


def test_what_nobody_contoured_is_not_drawn_for(rare_and_common):
    # Class 1 stands for both structures here, but only the first was contoured.
    rare_and_common.annotated = (True, False)
    sampler = balanced(1.0, ((2,), (1,)), (1.0, 1.0))
    assert share_with(1, rare_and_common, sampler) == 0
    assert share_with(2, rare_and_common, sampler) == 1
