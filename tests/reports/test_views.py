import numpy as np
import pytest

from foveal.geometry import Grid
from foveal.reports.views import worst_view

SHAPE = (20, 24, 16)


def grid(spacing_mm, signs=(1, 1, 1)):
    return Grid(SHAPE, np.diag([*np.multiply(spacing_mm, signs), 1.0]))


def volumes():
    image = np.zeros(SHAPE, dtype=np.float32)
    return image, np.zeros(SHAPE, dtype=np.int32), np.zeros(SHAPE, dtype=np.int32)


def test_slice_with_most_wrong_voxels_is_chosen():
    image, reference, prediction = volumes()
    reference[5:8, 5:8, 3:12] = 1
    prediction[5:8, 5:8, 3:12] = 1
    prediction[5, 5, 4] = 0
    prediction[5:7, 5:7, 9] = 0
    view = worst_view(image, reference, prediction, grid((2, 2, 2)), [1])
    assert (view.plane, view.axis, view.index) == ("axial", "k", 9)
    assert np.count_nonzero(view.reference != view.prediction) == 4


def test_errors_of_other_structures_do_not_count():
    image, reference, prediction = volumes()
    reference[5, 5, 4] = 1
    reference[8:14, 8:14, 11] = 2
    assert worst_view(image, reference, prediction, grid((2, 2, 2)), [1]).index == 4


def test_without_an_error_the_slice_with_most_of_the_structure_is_chosen():
    image, reference, _ = volumes()
    reference[5:8, 5:8, 3:12] = 1
    reference[2:12, 5:8, 6] = 1
    view = worst_view(image, reference, reference, grid((2, 2, 2)), [1])
    assert view.index == 6


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_axial_slices_show_the_front_up_and_the_left_on_the_right(signs):
    image, reference, prediction = volumes()
    # World x runs to the patient's right, y to the front, as the affine says.
    left = 2 if signs[0] > 0 else SHAPE[0] - 3
    front = SHAPE[1] - 3 if signs[1] > 0 else 2
    image[left, front, 5] = 1
    reference[left, front, 5] = 1
    view = worst_view(image, reference, prediction, grid((2, 2, 2), signs), [1])
    row, column = np.argwhere(view.image == 1)[0]
    assert (row, column) == (2, SHAPE[0] - 3)
    assert (view.axis, view.index) == ("k", 5)


def test_anisotropic_volumes_are_cut_across_their_coarse_axis_head_up():
    image, reference, prediction = volumes()
    image[4, 7, 14] = reference[4, 7, 14] = 1
    view = worst_view(image, reference, prediction, grid((1, 4, 1)), [1])
    assert (view.plane, view.axis, view.index) == ("coronal", "j", 7)
    assert view.pixel_mm == (1, 1)
    row, column = np.argwhere(view.image == 1)[0]
    assert (row, column) == (SHAPE[2] - 1 - 14, SHAPE[0] - 1 - 4)


def test_sagittal_slices_show_the_front_on_the_left():
    image, reference, prediction = volumes()
    image[6, 22, 14] = reference[6, 22, 14] = 1
    view = worst_view(image, reference, prediction, grid((5, 1, 2)), [1])
    assert (view.plane, view.axis, view.index) == ("sagittal", "i", 6)
    assert view.pixel_mm == (2, 1)
    assert np.argwhere(view.image == 1)[0].tolist() == [1, 1]


def test_close_up_is_a_square_with_a_margin_moved_to_stay_within_the_slice():
    image, reference, prediction = volumes()
    reference[8:12, 0:2, 5] = 1
    view = worst_view(image, reference, prediction, grid((10, 10, 10)), [1])
    rows, columns = view.close_up
    # 4 voxels and 15 mm on each side; the front is at the bottom of the volume's y, so
    # the structure lies in the last rows of the slice.
    assert rows == slice(SHAPE[1] - 7, SHAPE[1])
    assert columns.stop - columns.start == 7
    assert np.count_nonzero(view.reference[rows, columns]) == 8


def test_close_up_of_a_thin_slice_is_cut_to_it():
    image, reference, prediction = volumes()
    reference[2:18, 2:4, 5] = 1
    view = worst_view(image, reference, prediction, grid((10, 2, 10)), [1])
    # 16 voxels of 10 mm and the margins are 19 columns, but 95 rows of 2 mm.
    assert view.close_up == (slice(0, 24), slice(0, 19))
