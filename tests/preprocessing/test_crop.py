import numpy as np
import pytest

from foveal.errors import CaseError
from foveal.preprocessing.crop import bounding_box, nonzero_voxels, whole_window


def test_the_box_holds_every_true_voxel_and_no_more():
    inside = np.zeros((6, 7, 8), np.bool_)
    inside[2, 0, 7] = True
    inside[3, 4, 5] = True

    assert bounding_box(inside) == (slice(2, 4), slice(0, 5), slice(5, 8))


def test_a_single_voxel_at_the_border_is_a_box():
    inside = np.zeros((3, 3, 3), np.bool_)
    inside[2, 2, 2] = True

    assert bounding_box(inside) == (slice(2, 3),) * 3


def test_nothing_to_crop_to_is_refused():
    with pytest.raises(CaseError, match="nothing to crop to"):
        bounding_box(np.zeros((3, 3, 3), np.bool_))


def test_a_voxel_counts_if_any_channel_is_not_zero():
    image = np.zeros((2, 1, 1, 4), np.float32)
    image[0, 0, 0, 1] = -3
    image[1, 0, 0, 2] = 0.5

    assert nonzero_voxels(image).ravel().tolist() == [False, True, True, False]


def test_the_whole_window_keeps_everything():
    assert whole_window((2, 3, 4)) == (slice(0, 2), slice(0, 3), slice(0, 4))
