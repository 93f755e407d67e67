import numpy as np

from foveal.geometry import Grid
from foveal.reports.members_figure import error_kinds, members_picture, members_view

GREEN, RED = (47 / 255, 191 / 255, 79 / 255), (229 / 255, 56 / 255, 59 / 255)


def test_corrected_errors_are_green_and_those_that_remain_red():
    reference = np.array([[1, 1, 0, 0]])
    member = np.array([[0, 0, 2, 0]])
    ensemble = np.array([[1, 0, 0, 0]])

    colours = error_kinds(reference, member, ensemble)[0]

    np.testing.assert_allclose(colours[0, :3], GREEN)
    np.testing.assert_allclose(colours[1, :3], RED)
    np.testing.assert_allclose(colours[2, :3], GREEN)
    assert colours[3, 3] == 0


def view_of(wrong):
    """A case of two slices across k, wrong at some voxels ``(member, i, j, k)``."""
    reference = np.zeros((4, 4, 2), np.int32)
    reference[1:3, 1:3] = 1
    members = {name: reference.copy() for name in ("one", "two")}
    for name, *voxel in wrong:
        members[name][tuple(voxel)] ^= 1
    image = np.arange(32, dtype=np.float32).reshape(4, 4, 2)
    grid = Grid((4, 4, 2), np.eye(4))
    return members_view(image, reference, members, reference.copy(), grid)


def test_the_slice_is_that_where_members_err_most_together():
    view = view_of([("one", 0, 0, 0), ("one", 0, 1, 1), ("two", 3, 3, 1)])

    assert view.plane == "axial"
    wrong = {
        name: int((one != view.reference).sum()) for name, one in view.members.items()
    }
    assert wrong == {"one": 1, "two": 1}
    # Slice 1 holds odd numbers; its rows and columns are those of the screen.
    assert sorted(view.image.ravel().tolist()) == list(range(1, 32, 2))


def test_a_picture_has_a_panel_for_everyone():
    png = members_picture(view_of([("two", 0, 0, 0)]), (0.0, 31.0))

    assert png.startswith(b"\x89PNG")
    width = int.from_bytes(png[16:20], "big")
    # Image, reference, two members and the ensemble.
    assert width == round(5 * 2.1 * 110)
