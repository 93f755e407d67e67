from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from foveal.case import Case, CaseFiles, ChannelFile
from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.planning.fingerprint import (
    INTENSITIES_PER_CASE,
    body_extent,
    case_fingerprint,
    fingerprint_cases,
)

STRUCTURES = {"three": (3,), "seven": (7,)}

LPS_2_3_4_MM = np.diag([-2.0, -3.0, 4.0, 1.0])


def case_with_two_structures(affine=LPS_2_3_4_MM, mask=None) -> Case:
    """Image of 1 everywhere inside a zero border of one voxel, 12 x 8 x 6.

    Structure 7 has two voxels at i = 2, structure 3 one voxel at i = 9.
    """
    image = np.zeros((1, 12, 8, 6), np.float32)
    image[0, 1:-1, 1:-1, 1:-1] = 1.0
    label_map = np.zeros((12, 8, 6), np.int32)
    label_map[2, 2:4, 2] = 7
    label_map[9, 2, 2] = 3
    return Case("a", image, Grid((12, 8, 6), affine), label_map, mask)


def test_volumes_are_in_millilitres():
    found = case_fingerprint(case_with_two_structures(), STRUCTURES)

    assert found.structure_volumes_ml == pytest.approx({"three": 0.024, "seven": 0.048})


def test_left_is_negative_whatever_the_stored_orientation():
    stored_to_the_left = case_fingerprint(case_with_two_structures(), STRUCTURES)
    to_the_right = np.diag([2.0, 3.0, 4.0, 1.0])
    stored_to_the_right = case_fingerprint(
        case_with_two_structures(to_the_right), STRUCTURES
    )

    # Body: i from 1 to 10, midplane 5.5, width 10.
    assert stored_to_the_right.structure_offsets == pytest.approx(
        {"seven": -0.35, "three": 0.35}
    )
    assert stored_to_the_left.structure_offsets == pytest.approx(
        {"seven": 0.35, "three": -0.35}
    )


def test_shape_and_spacing_are_those_of_the_reoriented_image():
    # Array axes run to the front, to the left and down: 3, 2 and 4 mm.
    affine = np.array(
        [[0, -2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, -4.0, 0], [0, 0, 0, 1.0]]
    )
    found = case_fingerprint(case_with_two_structures(affine), STRUCTURES)

    assert found.stored_orientation == "ALI"
    assert found.shape == (8, 12, 6)
    assert found.spacing_mm == pytest.approx((2.0, 3.0, 4.0))


def test_boxes_of_non_zero_voxels_and_of_the_mask_are_measured():
    mask = np.zeros((12, 8, 6), bool)
    mask[3:7, 2, 1:4] = True
    found = case_fingerprint(case_with_two_structures(mask=mask), STRUCTURES)

    assert found.nonzero_shape == (10, 6, 4)
    assert found.mask_shape == (4, 1, 3)
    assert case_fingerprint(case_with_two_structures(), STRUCTURES).mask_shape is None


def test_an_unannotated_structure_is_neither_measured_nor_drawn_from():
    case = case_with_two_structures()
    case.image[0, 9, 2, 2] = 50.0

    found = case_fingerprint(case, STRUCTURES, annotated=["seven"])

    assert found.structure_volumes_ml == pytest.approx({"seven": 0.048})
    assert set(found.structure_offsets) == {"seven"}
    np.testing.assert_array_equal(found.intensities, [[1.0, 1.0]])


def test_an_annotated_structure_that_is_absent_has_volume_zero():
    found = case_fingerprint(case_with_two_structures(), {**STRUCTURES, "five": (5,)})

    assert found.structure_volumes_ml["five"] == 0.0
    assert "five" not in found.structure_offsets


def test_the_ignore_label_is_no_foreground():
    found = case_fingerprint(
        case_with_two_structures(), {"three": (3,)}, ignore_value=7
    )

    assert set(found.structure_volumes_ml) == {"three"}
    assert found.intensities.shape == (1, 1)


def test_an_unlisted_label_is_refused():
    with pytest.raises(CaseError, match=r"case a: the label map holds \[7\]"):
        case_fingerprint(case_with_two_structures(), {"three": (3,)})


def test_an_unlabelled_case_is_refused():
    case = case_with_two_structures()
    unlabelled = Case(case.name, case.image, case.grid)
    with pytest.raises(CaseError, match="case a has no label map"):
        case_fingerprint(unlabelled, {"three": (3,)})


def test_the_intensities_drawn_are_bounded_and_repeatable():
    generator = np.random.default_rng(0)
    image = generator.normal(size=(2, 30, 30, 30)).astype(np.float32)
    grid = Grid((30, 30, 30), np.eye(4))
    case = Case("big", image, grid, np.ones((30, 30, 30), np.int32))

    first = case_fingerprint(case, {"one": (1,)}).intensities
    second = case_fingerprint(case, {"one": (1,)}).intensities

    assert first.shape == (2, INTENSITIES_PER_CASE)
    np.testing.assert_array_equal(first, second)
    # Both channels come from the same voxels.
    pairs = set(zip(image[0].ravel(), image[1].ravel(), strict=True))
    assert set(zip(*first[:, :50], strict=True)) <= pairs


@pytest.mark.parametrize(
    ("lowest", "expected"), [(-1000.0, True), (-400.0, False), (-1000.5, False)]
)
def test_whole_numbers_below_air_look_like_ct(lowest, expected):
    case = case_with_two_structures()
    case.image[0, 0, 0, 0] = lowest

    assert case_fingerprint(case, STRUCTURES).is_hu_like == (expected,)


def test_the_body_of_ct_is_what_is_not_air():
    channel = np.full((20, 10, 10), -1000.0, np.float32)
    channel[4:15] = 40.0

    assert body_extent(channel, None, is_hu_like=True) == (4, 14)


def test_a_few_voxels_beside_the_body_are_no_part_of_it():
    channel = np.full((20, 10, 10), -1000.0, np.float32)
    channel[4:15] = 40.0
    channel[0, 0, 0] = 200.0

    assert body_extent(channel, None, is_hu_like=True) == (4, 14)


def test_an_empty_mask_leaves_the_whole_axis_as_body():
    channel = np.zeros((20, 10, 10), np.float32)

    empty = np.zeros(channel.shape, bool)
    assert body_extent(channel, empty, is_hu_like=False) == (0, 19)


def written_case(folder: Path, name: str, value: int) -> CaseFiles:
    label_map = np.full((4, 4, 4), value, np.uint8)
    image_path, label_path = folder / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), image_path)
    nib.save(nib.Nifti1Image(label_map, np.eye(4)), label_path)
    return CaseFiles(name, name, (ChannelFile(image_path),), label_path)


def test_many_threads_give_the_same_as_one_in_the_order_asked(tmp_path):
    cases = [written_case(tmp_path, f"case{n}", 1) for n in (3, 1, 2, 0)]
    told: list[tuple[int, int]] = []

    found = fingerprint_cases(
        cases,
        {"one": (1,)},
        ignore_value=None,
        threads=3,
        on_progress=lambda done, total, _: told.append((done, total)),
    )

    assert [case.name for case in found] == ["case3", "case1", "case2", "case0"]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_bad_case_stops_with_its_name(tmp_path):
    cases = [written_case(tmp_path, "good", 1), written_case(tmp_path, "bad", 9)]

    with pytest.raises(CaseError, match=r"case bad: the label map holds \[9\]"):
        fingerprint_cases(cases, {"one": (1,)}, ignore_value=None, threads=2)


def test_overlapping_masks_are_measured_each_by_itself():
    case = case_with_two_structures()
    # Two voxels are both; one is the first alone.
    combinations = (frozenset(), frozenset({"organ", "lesion"}), frozenset({"organ"}))
    numbers = np.select([case.label_map == 7, case.label_map == 3], [1, 2])
    case = replace(case, label_map=numbers, combinations=combinations)

    found = case_fingerprint(case, {"lesion": (1,), "organ": (2,)})

    assert found.structure_volumes_ml == pytest.approx(
        {"lesion": 0.048, "organ": 0.072}
    )
    assert found.combinations == set(combinations[1:])
    # Seen from the left: two voxels at i = 2, one at 9, so the centroid is at 13 / 3.
    assert found.structure_offsets["organ"] == pytest.approx((5.5 - 13 / 3) / 10)
