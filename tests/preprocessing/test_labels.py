import numpy as np
import pytest

from foveal.case import IGNORED
from foveal.errors import CaseError
from foveal.preprocessing.labels import (
    annotated_structures,
    classes_of_combinations,
    classes_shown,
    inside_label_map,
    without_unannotated,
)

NOTHING, ORGAN, BOTH = frozenset(), frozenset({"organ"}), frozenset({"organ", "lesion"})
LESION = frozenset({"lesion"})


def test_values_become_the_classes_given():
    label_map = np.array([[[0, 500, -3], [42, 255, 0]]], np.int32)

    result = inside_label_map(label_map, {0: 0, 500: 1, 42: 2, -3: 3}, 255)

    assert result.dtype == np.uint8
    assert result.tolist() == [[[0, 1, 3], [2, IGNORED, 0]]]


def test_255_is_a_structure_where_it_is_not_the_ignore_value():
    label_map = np.array([[[0, 255, 7]]], np.int32)

    result = inside_label_map(label_map, {0: 0, 255: 1}, 7)

    assert result.tolist() == [[[0, 1, IGNORED]]]


@pytest.mark.parametrize("value", [-5, 2, 1000])
def test_an_unknown_value_is_refused_with_its_count(value):
    label_map = np.zeros((4, 4, 4), np.int32)
    label_map[3, 1, 1:3] = value

    with pytest.raises(CaseError, match=rf"holds {value} \(2 voxels\).*\[0, 1, 3\]"):
        inside_label_map(label_map, {0: 0, 1: 1, 3: 2}, None)


def test_combinations_of_masks_become_their_classes():
    found = (NOTHING, BOTH, ORGAN)
    assert classes_of_combinations(found, (NOTHING, ORGAN, BOTH), None) == {
        0: 0,
        1: 2,
        2: 1,
    }


def test_a_lesion_whose_organ_was_not_annotated_is_the_class_of_both():
    classes = (NOTHING, ORGAN, BOTH)
    assert classes_of_combinations((NOTHING, LESION), classes, ("lesion",)) == {
        0: 0,
        1: 2,
    }


def test_an_overlap_that_the_plan_does_not_know_is_refused():
    with pytest.raises(CaseError, match=r"masks of lesion and organ overlap.*plan"):
        classes_of_combinations((NOTHING, BOTH), (NOTHING, ORGAN, LESION), None)


def test_a_structure_that_the_plan_does_not_know_is_refused():
    with pytest.raises(CaseError, match=r"tail is none of the plan's structures"):
        classes_of_combinations((NOTHING, frozenset({"tail"})), (NOTHING, ORGAN), None)


def test_annotated_structures_are_in_the_order_of_the_plan():
    assert annotated_structures(("c", "a"), ("a", "b", "c")) == (True, False, True)
    assert annotated_structures((), ("a", "b")) == (False, False)
    assert annotated_structures(None, ("a", "b")) is None


def test_an_annotated_name_that_is_no_structure_is_refused():
    with pytest.raises(CaseError, match=r"annotated structures \['d'\].*foveal plan"):
        annotated_structures(("a", "d"), ("a", "b"))


def test_classes_that_look_alike_are_counted_as_the_first_of_them():
    classes = (NOTHING, ORGAN, BOTH)
    assert classes_shown(classes, None) == (0, 1, 2)
    assert classes_shown(classes, ("organ",)) == (0, 1, 1)
    assert classes_shown(classes, ("lesion",)) == (0, 0, 2)


def test_labels_in_the_same_structures_stay_apart_where_all_is_annotated():
    classes = (NOTHING, ORGAN, ORGAN, BOTH)
    assert classes_shown(classes, None) == (0, 1, 2, 3)
    assert classes_shown(classes, ("organ", "lesion")) == (0, 1, 2, 3)
    assert classes_shown(classes, ("organ",)) == (0, 1, 1, 1)


def test_stray_voxels_of_a_structure_that_was_not_annotated_are_background():
    label_map = np.array([[[0, 1, 2, 3, IGNORED]]], np.uint8)
    kept = without_unannotated(label_map, (0, 1, 0, 3))
    np.testing.assert_array_equal(kept, [[[0, 1, 0, 3, IGNORED]]])
