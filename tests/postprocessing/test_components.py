import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foveal.postprocessing.components import (
    ComponentRule,
    classes_without,
    with_component_rules,
)

LIVER = {"liver": (1,)}
NESTED = {"liver": (1, 2), "lesion": (2,)}
TUMOUR = {"whole": (1, 2, 3), "core": (2, 3), "active": (3,)}
TWO = {"left": (1,), "right": (2,)}


def apply(label_map, *rules, structures=LIVER, spacing_mm=(1.0, 1.0, 1.0)):
    return with_component_rules(label_map, rules, structures, spacing_mm)


def volume(shape=(8, 8, 8)):
    return np.zeros(shape, np.uint8)


LARGEST = ComponentRule(("liver",), keep="largest")
FILLED = ComponentRule(("liver",), fill_holes=True)


def test_only_the_largest_of_two_components_stays():
    label_map = volume()
    label_map[0:2, 0:2, 0:2] = 1
    expected = label_map.copy()
    label_map[5:6, 5:7, 5:7] = 1
    found = apply(label_map, LARGEST)
    assert (found == expected).all()
    assert found.dtype == np.uint8
    assert label_map[5, 5, 5] == 1, "the argument is not changed"


@pytest.mark.parametrize("order", ["C", "F"])
def test_of_equally_large_components_the_first_stays(order):
    label_map = np.zeros((6, 6, 6), np.uint8, order)
    label_map[0, 5, 5] = label_map[3, 0, 0] = label_map[5, 0, 5] = 1
    found = apply(label_map, LARGEST)
    assert np.argwhere(found).tolist() == [[0, 5, 5]]


def test_voxels_that_touch_at_a_corner_are_one_component():
    label_map = volume()
    label_map[1, 1, 1] = label_map[2, 2, 2] = label_map[3, 3, 3] = 1
    label_map[6, 6, 6] = label_map[6, 6, 7] = 1
    assert np.argwhere(apply(label_map, LARGEST)).tolist() == [
        [n] * 3 for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("keep", ["all", "largest"])
def test_an_empty_label_map_stays_empty(keep):
    rule = ComponentRule(("liver",), keep, smallest_voxels=3, fill_holes=True)
    assert not apply(volume(), rule).any()


def test_a_component_of_the_smallest_size_stays_and_a_smaller_one_goes():
    label_map = volume()
    label_map[0, 0, 0:3] = label_map[4, 4, 0:2] = 1
    found = apply(label_map, ComponentRule(("liver",), smallest_voxels=3))
    assert np.argwhere(found).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]


def test_the_largest_goes_too_if_it_is_too_small():
    label_map = volume()
    label_map[0, 0, 0:3] = label_map[4, 4, 0:2] = 1
    rule = ComponentRule(("liver",), "largest", smallest_voxels=4)
    assert not apply(label_map, rule).any()


@pytest.mark.parametrize(("smallest_ml", "left"), [(0.03, 3), (0.0301, 0)])
def test_millilitres_count_voxels_of_their_own_edges(smallest_ml, left):
    label_map = volume()
    label_map[2, 2, 2:5] = 1
    # Three voxels of 1 x 2 x 5 mm are 30 cubic millimetres.
    found = apply(
        label_map,
        ComponentRule(("liver",), smallest_ml=smallest_ml),
        spacing_mm=(1.0, 2.0, 5.0),
    )
    assert np.count_nonzero(found) == left


def test_a_hole_becomes_the_structure():
    label_map = volume()
    label_map[1:6, 1:6, 1:6] = 1
    expected = label_map.copy()
    label_map[3, 3, 3] = label_map[2, 2, 2] = 0
    assert (
        apply(label_map, ComponentRule(("liver",), fill_holes=True)) == expected
    ).all()


@pytest.mark.parametrize("opening", [(0, 3, 3), (7, 3, 3), (3, 0, 3), (3, 3, 7)])
def test_a_hole_at_the_border_of_the_volume_stays(opening):
    label_map = np.ones((8, 8, 8), np.uint8)
    label_map[opening] = 0
    assert (apply(label_map, FILLED) == label_map).all()


def test_a_hole_that_opens_by_an_edge_only_is_filled():
    label_map = volume()
    label_map[1:6, 1:6, 1:6] = 1
    expected = label_map.copy()
    expected[1, 1, 3] = 0
    label_map[1, 1, 3] = label_map[2, 2, 3] = 0
    assert (
        apply(label_map, ComponentRule(("liver",), fill_holes=True)) == expected
    ).all()


def test_in_a_picture_the_single_slice_has_no_border():
    label_map = volume((9, 9, 1))
    label_map[1:6, 1:6] = 1
    label_map[3, 3] = 0
    label_map[7, 7] = 1
    rule = ComponentRule(("liver",), "largest", fill_holes=True)
    expected = volume((9, 9, 1))
    expected[1:6, 1:6] = 1
    assert (apply(label_map, rule) == expected).all()


def test_several_structures_together_form_components():
    label_map = volume()
    label_map[0:2, 0:2, 0:2] = 1
    label_map[2, 0:2, 0:2] = 2
    label_map[6, 0:3, 0:3] = 2
    group = apply(
        label_map, ComponentRule(("left", "right"), "largest"), structures=TWO
    )
    # The nine voxels are the largest of the right, but not of both together.
    assert not group[6].any()
    assert (group[:3] == label_map[:3]).all()
    alone = apply(label_map, ComponentRule(("right",), "largest"), structures=TWO)
    assert not (alone[:3] == 2).any()
    assert (alone[6] == label_map[6]).all()


def test_a_removed_part_of_an_organ_takes_the_lesion_in_it_along():
    label_map = volume()
    label_map[0:3] = 1
    label_map[1, 1, 1] = 2
    label_map[5, 0:2, 0:2] = 1
    label_map[5, 1, 1] = 2
    found = apply(
        label_map, ComponentRule(("liver",), keep="largest"), structures=NESTED
    )
    assert not found[5].any()
    assert (found[:3] == label_map[:3]).all()


def test_a_removed_lesion_becomes_the_organ_around_it():
    label_map = volume()
    label_map[0:3] = 1
    label_map[1, 1, 1] = 2
    label_map[1, 5, 5:7] = 2
    found = apply(
        label_map, ComponentRule(("lesion",), smallest_voxels=2), structures=NESTED
    )
    assert found[1, 1, 1] == 1
    assert (found[1, 5, 5:7] == 2).all()


def test_a_hole_takes_the_class_that_touches_it_most():
    label_map = volume()
    label_map[1:6, 1:6, 1:6] = 1
    label_map[3, 3, 3] = 0
    label_map[3, 3, 2] = label_map[3, 3, 4] = label_map[3, 2, 3] = label_map[
        3, 4, 3
    ] = 2
    rule = ComponentRule(("liver",), fill_holes=True)
    assert apply(label_map, rule, structures=NESTED)[3, 3, 3] == 2


def test_another_structure_in_a_hole_stays_and_so_does_what_it_encloses():
    label_map = volume((10, 10, 10))
    label_map[0:9, 0:9, 0:9] = 1
    label_map[2:7, 2:7, 2:7] = 2
    label_map[4, 4, 4] = 0
    label_map[2, 2, 2] = 0
    rule = ComponentRule(("left",), fill_holes=True)
    found = apply(label_map, rule, structures=TWO)
    assert found[2, 2, 2] == 1, "touches the left one"
    assert found[4, 4, 4] == 0, "touches the right one only"
    assert (found == 2).sum() == (label_map == 2).sum()


def test_rules_follow_one_another():
    label_map = volume()
    label_map[1:6, 1:6, 1:6] = 1
    label_map[2:5, 2:5, 2:5] = 0
    label_map[3, 3, 3] = 1
    assert apply(label_map, FILLED, LARGEST).sum() == 125
    assert apply(label_map, LARGEST).sum() == 98
    assert apply(label_map, LARGEST, FILLED).sum() == 125


def test_classes_lose_structures_but_not_those_around():
    assert classes_without(["whole"], TUMOUR) == {1: 0, 2: 0, 3: 0}
    assert classes_without(["core"], TUMOUR) == {2: 1, 3: 1}
    assert classes_without(["active"], TUMOUR) == {3: 2}
    overlapping = {"a": (1, 3), "b": (2, 3)}
    assert classes_without(["a"], overlapping) == {1: 0, 3: 2}
    assert classes_without(["a", "b"], overlapping) == {1: 0, 2: 0, 3: 0}


def test_a_class_without_its_like_falls_to_background():
    # Nothing is "organ" alone where every voxel of it is one of two parts.
    parts = {"organ": (1, 2), "cortex": (1,), "medulla": (2,)}
    assert classes_without(["cortex"], parts) == {1: 0}


def test_an_unknown_structure_is_named():
    with pytest.raises(KeyError, match="spleen"):
        apply(volume(), ComponentRule(("spleen",), "largest"))


@settings(max_examples=40)
@given(
    label_map=arrays(np.uint8, (5, 6, 4), elements=st.integers(0, 3)),
    group=st.sampled_from([("whole",), ("core",), ("active",), ("active", "core")]),
    keep=st.sampled_from(["all", "largest"]),
    smallest=st.sampled_from([None, 2, 5]),
    fill=st.booleans(),
)
def test_a_rule_applied_again_changes_nothing(label_map, group, keep, smallest, fill):
    rule = ComponentRule(group, keep, smallest, fill_holes=fill)
    once = apply(label_map, rule, structures=TUMOUR)
    assert (apply(once, rule, structures=TUMOUR) == once).all()
