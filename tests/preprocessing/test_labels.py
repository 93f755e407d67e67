import numpy as np
import pytest

from foveal.case import IGNORED
from foveal.errors import CaseError
from foveal.preprocessing.labels import (
    annotated_classes,
    inside_label_map,
    without_unannotated,
)


def test_values_become_consecutive_in_the_order_given():
    label_map = np.array([[[0, 500, -3], [42, 255, 0]]], np.int32)

    result = inside_label_map(label_map, (500, 42, -3), 255)

    assert result.dtype == np.uint8
    assert result.tolist() == [[[0, 1, 3], [2, IGNORED, 0]]]


def test_255_is_a_structure_where_it_is_not_the_ignore_value():
    label_map = np.array([[[0, 255, 7]]], np.int32)

    assert inside_label_map(label_map, (255,), 7).tolist() == [[[0, 1, IGNORED]]]


@pytest.mark.parametrize("value", [-5, 2, 1000])
def test_an_unknown_value_is_refused_with_its_count(value):
    label_map = np.zeros((4, 4, 4), np.int32)
    label_map[3, 1, 1:3] = value

    with pytest.raises(CaseError, match=rf"holds {value} \(2 voxels\).*\[0, 1, 3\]"):
        inside_label_map(label_map, (1, 3), None)


def test_annotated_values_become_classes_with_background_first():
    assert annotated_classes((30, 10), (10, 20, 30)) == (True, True, False, True)
    assert annotated_classes((), (10, 20)) == (True, False, False)
    assert annotated_classes(None, (10, 20)) is None


def test_an_annotated_value_that_names_no_structure_is_refused():
    with pytest.raises(CaseError, match=r"annotated labels \[40\].*foveal plan"):
        annotated_classes((10, 40), (10, 20))


def test_stray_voxels_of_a_structure_that_was_not_annotated_are_background():
    label_map = np.array([[[0, 1, 2, 3, IGNORED]]], np.uint8)
    kept = without_unannotated(label_map, (True, True, False, True))
    np.testing.assert_array_equal(kept, [[[0, 1, 0, 3, IGNORED]]])
    assert without_unannotated(label_map, None) is label_map
