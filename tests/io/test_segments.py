import numpy as np
import pytest
from slicer_files import write_segmentation

from foveal.case import StructureFile
from foveal.errors import CaseError, DatasetError
from foveal.geometry import Grid
from foveal.io.segments import chosen_segment, read_segments
from foveal.io.volumes import case_stem, write_volume

FLAT = np.zeros((2, 3, 4), np.uint8)
LAYERS = np.zeros((2, 2, 3, 4), np.uint8)


def segmentation(tmp_path, array, *segments, old=False):
    return write_segmentation(
        tmp_path / "a.seg.nrrd", array, np.eye(4), segments, old=old
    )


def test_segments_of_one_layer_are_told_apart_by_value(tmp_path):
    path = segmentation(tmp_path, FLAT, ("Milz links", 5, 0), ("Größe", 2, 0))
    assert read_segments(path) == (
        StructureFile("Größe", path, 2, None),
        StructureFile("Milz links", path, 5, None),
    )


def test_segments_of_several_layers_name_their_layer(tmp_path):
    path = segmentation(tmp_path, LAYERS, ("a", 1, 1), ("b", 1, 0), ("c", 2, 0))
    assert read_segments(path) == (
        StructureFile("a", path, 1, 1),
        StructureFile("b", path, 1, 0),
        StructureFile("c", path, 2, 0),
    )


def test_old_files_have_a_layer_per_segment(tmp_path):
    path = segmentation(tmp_path, LAYERS, ("a", 0, 0), ("b", 0, 0), old=True)
    assert read_segments(path) == (
        StructureFile("a", path, 1, 0),
        StructureFile("b", path, 1, 1),
    )


def test_a_file_without_segments_is_a_label_map(tmp_path):
    path = tmp_path / "scan.one.seg.nrrd"
    write_volume(path, FLAT, Grid(FLAT.shape, np.eye(4)))
    assert read_segments(path) == ()
    assert case_stem(path) == "scan.one"
    assert chosen_segment(path, "liver") == StructureFile("liver", path)


def test_a_structure_takes_the_segment_of_its_name_or_the_only_one(tmp_path):
    path = segmentation(tmp_path, FLAT, ("a", 1, 0), ("b", 2, 0))
    assert chosen_segment(path, "b") == StructureFile("b", path, 2)
    with pytest.raises(DatasetError, match=r"no segment \"c\", only \['a', 'b'\]"):
        chosen_segment(path, "c")
    path = segmentation(tmp_path, FLAT, ("Segment_1", 1, 0))
    assert chosen_segment(path, "liver") == StructureFile("liver", path, 1)


def test_segments_without_a_name_of_their_own_are_refused(tmp_path):
    path = segmentation(tmp_path, FLAT, ("a", 1, 0), ("a", 2, 0))
    with pytest.raises(DatasetError, match=r"segments called \['a', 'a'\]"):
        read_segments(path)


def test_numbers_that_are_none_are_refused(tmp_path):
    path = segmentation(tmp_path, FLAT, ("a", "one", 0))
    with pytest.raises(CaseError, match='label value "one" and layer "0"'):
        read_segments(path)
