import numpy as np
import pytest
from matplotlib.figure import Figure

from foveal.geometry import Grid
from foveal.reports.odd_cases import Panel, odd_cases_picture
from foveal.reports.patches import projection
from foveal.reports.slices import (
    OUTLINE_COLOURS,
    draw_slice,
    fullest_slice,
    outline_colour,
    percentile_range,
)

RAS = np.diag([1.0, 2.0, 3.0, 1.0])


def volume(shape=(4, 5, 6)):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_an_axial_slice_shows_the_front_up_and_the_left_on_the_right():
    image = volume()
    shown = fullest_slice(image, None, Grid(image.shape, RAS), plane="axial")
    assert np.array_equal(shown.image, image[::-1, ::-1, 3].T)
    assert shown.pixel_mm == (2.0, 1.0)
    assert shown.labels is None


def test_the_slice_with_most_of_a_structure_is_taken():
    image, labels = volume(), np.zeros((4, 5, 6), np.uint8)
    labels[:, :, 1] = 1
    labels[0, 0, 4] = 2
    grid = Grid(image.shape, np.eye(4))
    assert np.array_equal(
        fullest_slice(image, labels, grid).image, image[::-1, ::-1, 1].T
    )
    second = fullest_slice(image, labels, grid, label=2)
    assert np.array_equal(second.image, image[::-1, ::-1, 4].T)
    assert np.array_equal(second.labels, labels[::-1, ::-1, 4].T)


def test_ignored_voxels_are_no_structure():
    image, labels = volume(), np.zeros((4, 5, 6), np.uint8)
    labels[:, :, 0] = 255
    labels[0, 0, 4] = 1
    shown = fullest_slice(image, labels, Grid(image.shape, np.eye(4)))
    assert 1 in shown.labels


def test_outlines_are_drawn_per_structure_in_its_colour():
    labels = np.zeros((6, 6, 3), np.uint8)
    labels[1:3, 1:3, 1], labels[3:5, 3:5, 1], labels[5, 0, 1] = 1, 2, 255
    shown = fullest_slice(volume(labels.shape), labels, Grid(labels.shape, np.eye(4)))
    axes = Figure().add_subplot()
    draw_slice(axes, shown, (0, 1))
    assert len(axes.collections) == 2
    assert len(axes.images) == 2  # the slice, and the shade over what is ignored


def test_structures_beyond_the_colours_begin_again():
    assert outline_colour(1) == OUTLINE_COLOURS[0]
    assert outline_colour(len(OUTLINE_COLOURS) + 2) == OUTLINE_COLOURS[1]


def test_the_range_shown_leaves_out_zeros_unless_there_is_nothing_else():
    values = np.array([0] * 50 + [10] * 50 + [20] * 50)
    assert percentile_range(values, (0, 100)) == (10, 20)
    assert percentile_range(np.zeros(3)) == (0, 0)


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
def test_a_projection_counts_every_patch_centre_once(plane):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, 3] = 7
    grid = Grid(labels.shape, RAS)
    shown = fullest_slice(volume(), None, grid, plane=plane)
    # The last lies beyond the border, and counts as on it.
    seen = projection(shown, labels, [(1, 2, 3), (1, 2, 3), (4, 4, 6)], grid)
    assert seen.centres.shape == shown.image.shape
    assert seen.centres.sum() == 3
    assert seen.centres[seen.structures[7]].tolist() == [2.0]


def test_a_case_that_cannot_be_shown_has_its_words_all_the_same():
    shown = fullest_slice(volume(), None, Grid((4, 5, 6), RAS))
    png = odd_cases_picture(
        [
            Panel("a", "error", ["it cannot be read"], None, (0, 1)),
            Panel("b", "warning", ["words " * 80], shown, (0, 100)),
        ],
        {1: "liver"},
    )
    assert png.startswith(b"\x89PNG")
