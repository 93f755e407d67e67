"""What each law says of small volumes, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_volumes import LabelledVolume, UnlabelledVolume

from foveal.errors import SamplingError
from foveal.sampling.laws import (
    anywhere,
    by_weight_map,
    class_balanced,
    class_equal,
    foreground_background,
    in_mask,
)
from foveal.sampling.samplers import BaseSampler
from foveal.sampling.voxels import ByWeightMap, Centres, InMask, OfClasses

SIZE = (2, 2, 2)
STRUCTURES = ((1,), (2, 3), (4,))


def volume(**counts):
    """Classes one after the other, the rest background: 4 x 4 x 4 voxels."""
    label_map = np.zeros(64, np.uint8)
    start = 0
    for name, count in counts.items():
        label_map[start : start + count] = int(name[1:])
        start += count
    return LabelledVolume(label_map.reshape(4, 4, 4), 5)


def chances(categories):
    return {category.voxels: category.chance for category in categories}


def test_anywhere_is_the_box_of_centres():
    (category,) = anywhere(volume(), SIZE)
    assert category == ("anywhere", 1.0, Centres(SIZE))


def test_class_balanced_draws_for_present_structures_by_their_weights():
    case = volume(c1=1, c3=30)
    found = class_balanced(
        case,
        SIZE,
        foreground_fraction=0.6,
        structures=STRUCTURES,
        weights=(1.0, 3.0, 100.0),
    )
    assert chances(found) == pytest.approx(
        {OfClasses((1,)): 0.15, OfClasses((2, 3)): 0.45, Centres(SIZE): 0.4}
    )
    assert [category.name for category in found] == [
        "structure 1",
        "structure 2",
        "anywhere",
    ]


def test_class_balanced_without_a_weighted_structure_draws_anywhere():
    case = volume(c1=3)
    for weights, fraction in (((0.0, 1.0, 1.0), 0.6), ((1.0, 1.0, 1.0), 0.0)):
        found = class_balanced(
            case,
            SIZE,
            foreground_fraction=fraction,
            structures=STRUCTURES,
            weights=weights,
        )
        assert found == anywhere(case, SIZE)


def test_foreground_background_gives_each_its_share_whatever_their_sizes():
    found = foreground_background(
        volume(c1=1, c2=2), SIZE, foreground_fraction=0.5, structures=STRUCTURES
    )
    assert chances(found) == {OfClasses((1, 2, 3, 4)): 0.5, OfClasses((0,)): 0.5}


@pytest.mark.parametrize(
    ("case", "left"),
    [(volume(), "background"), (volume(c1=20, c4=44), "foreground")],
    ids=["no structure", "no background"],
)
def test_foreground_background_with_one_of_the_two_draws_it_alone(case, left):
    (category,) = foreground_background(
        case, SIZE, foreground_fraction=0.2, structures=STRUCTURES
    )
    assert (category.name, category.chance) == (left, 1.0)


def test_foreground_background_with_share_zero_or_one_draws_one_alone():
    for fraction, left in ((0.0, "background"), (1.0, "foreground")):
        (category,) = foreground_background(
            volume(c1=3), SIZE, foreground_fraction=fraction, structures=STRUCTURES
        )
        assert (category.name, category.chance) == (left, 1.0)


def test_class_equal_counts_background_as_one_and_leaves_out_what_is_absent():
    found = class_equal(volume(c1=1, c2=50), SIZE, structures=STRUCTURES)
    assert chances(found) == pytest.approx(
        {OfClasses((0,)): 1 / 3, OfClasses((1,)): 1 / 3, OfClasses((2, 3)): 1 / 3}
    )


def test_structures_that_nobody_contoured_are_drawn_for_by_no_law():
    # Class 1 stands for structures 1 and 2 here, but only structure 3 was contoured.
    case = volume(c1=5, c4=5)
    case.annotated = (False, False, True)
    balanced = class_balanced(
        case,
        SIZE,
        foreground_fraction=1.0,
        structures=STRUCTURES,
        weights=(1.0,) * 3,
    )
    assert chances(balanced) == {OfClasses((4,)): 1.0}
    equal = class_equal(case, SIZE, structures=STRUCTURES)
    assert chances(equal) == {OfClasses((0,)): 0.5, OfClasses((4,)): 0.5}
    both = foreground_background(
        case, SIZE, foreground_fraction=0.5, structures=STRUCTURES
    )
    assert chances(both) == {OfClasses((4,)): 0.5, OfClasses((0,)): 0.5}


def test_unlabelled_cases_give_patches_from_anywhere():
    case = UnlabelledVolume()
    for found in (
        class_balanced(
            case,
            SIZE,
            foreground_fraction=1.0,
            structures=STRUCTURES,
            weights=(1.0,) * 3,
        ),
        foreground_background(
            case, SIZE, foreground_fraction=0.5, structures=STRUCTURES
        ),
        class_equal(case, SIZE, structures=STRUCTURES),
    ):
        assert found == anywhere(case, SIZE)


def test_mask_and_weight_map_are_one_category_each():
    case = volume()
    case.mask = np.ones((4, 4, 4), np.uint8)
    case.weight_map = np.ones((4, 4, 4), np.float32)
    assert in_mask(case, SIZE) == [("mask", 1.0, InMask())]
    assert by_weight_map(case, SIZE) == [("weight map", 1.0, ByWeightMap())]


def test_weight_map_sampler_refuses_a_case_without_one():
    with pytest.raises(SamplingError, match="case volume has no weight map"):
        by_weight_map(volume(), SIZE)


@pytest.mark.parametrize("law", [in_mask, by_weight_map])
def test_mask_or_weight_map_of_zeros_is_refused_by_name(law):
    case = volume()
    case.mask = np.zeros((4, 4, 4), np.uint8)
    case.weight_map = np.zeros((4, 4, 4), np.float32)
    sampler = BaseSampler(law)
    (category,) = sampler.categories(case, SIZE)
    with pytest.raises(SamplingError, match="case volume: no voxel may be drawn"):
        sampler.total(case, category.voxels)


@given(
    st.tuples(*[st.integers(0, 12)] * 4),
    st.tuples(*[st.booleans()] * 3) | st.none(),
    st.floats(0, 1),
    st.tuples(*[st.floats(0, 10)] * 3),
)
def test_chances_of_every_law_sum_to_one_over_sets_with_voxels(
    counts, annotated, fraction, weights
):
    case = volume(**{f"c{n}": count for n, count in enumerate(counts, start=1)})
    case.annotated = annotated
    for found in (
        anywhere(case, SIZE),
        class_balanced(
            case,
            SIZE,
            foreground_fraction=fraction,
            structures=STRUCTURES,
            weights=weights,
        ),
        foreground_background(
            case, SIZE, foreground_fraction=fraction, structures=STRUCTURES
        ),
        class_equal(case, SIZE, structures=STRUCTURES),
    ):
        assert sum(category.chance for category in found) == pytest.approx(1.0)
        assert all(category.chance >= 0 for category in found)
        assert all(category.voxels.total(case) > 0 for category in found)
