import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from slicer_files import write_segmentation

from foveal.case import CaseFiles, ChannelFile, StructureFile
from foveal.errors import CaseError
from foveal.geometry import Grid, reorientation
from foveal.io import volumes
from foveal.io.cases import read_case
from foveal.io.label_maps import read_reference
from foveal.io.volumes import write_volume

AFFINE = np.array(
    [[0, -1.5, 0, 40], [-2.0, 0, 0, 10], [0, 0, -2.5, -7], [0, 0, 0, 1]], dtype=float
)
GRID = Grid((4, 5, 6), AFFINE)


def write(path, array, affine=AFFINE):
    write_volume(path, np.asarray(array), Grid(array.shape, affine))
    return path


def zeros(dtype=np.uint8):
    return np.zeros(GRID.shape, dtype)


def drawn(*files):
    return CaseFiles("c", "c", (ChannelFile(files[0].path),), structure_files=files)


def masks_of(label_map, combinations):
    """Structure to its mask, from numbers of combinations."""
    names = set().union(*combinations)
    return {
        name: np.isin(label_map, [n for n, c in enumerate(combinations) if name in c])
        for name in names
    }


# --------------------------------------------------------------- masks per structure


def test_masks_that_overlap_become_numbered_combinations(tmp_path):
    liver, tumour = zeros(), zeros()
    liver[1:4] = 1
    tumour[3] = 1
    tumour[0, 0, 0] = 1
    label_map, combinations = read_reference(
        drawn(
            StructureFile("liver", write(tmp_path / "liver.nii.gz", liver)),
            StructureFile("tumour", write(tmp_path / "tumour.nrrd", tumour)),
        ),
        GRID,
    )
    assert combinations[0] == frozenset()
    assert set(combinations) == {
        frozenset(),
        frozenset({"liver"}),
        frozenset({"tumour"}),
        frozenset({"liver", "tumour"}),
    }
    assert label_map.dtype == np.int32
    assert combinations[label_map[3, 2, 2]] == {"liver", "tumour"}
    assert combinations[label_map[1, 2, 2]] == {"liver"}
    assert combinations[label_map[0, 0, 0]] == {"tumour"}
    assert label_map[0, 0, 1] == 0


@given(npst.arrays(np.bool_, st.tuples(st.integers(1, 6), *map(st.just, GRID.shape))))
@settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_mask_comes_back_from_the_combinations(tmp_path, masks):
    files = [
        StructureFile(f"s{n}", write(tmp_path / f"{n}.nii", mask))
        for n, mask in enumerate(masks)
    ]
    label_map, combinations = read_reference(drawn(*files), GRID)
    found = masks_of(label_map, combinations)
    for number, mask in enumerate(masks):
        np.testing.assert_array_equal(found.get(f"s{number}", zeros() > 0), mask)
    # Numbers without gaps, and each one occurs.
    assert set(np.unique(label_map)) | {0} == set(range(len(combinations)))
    assert len(set(combinations)) == len(combinations)


def test_many_structures_take_no_more_numbers_than_combinations_that_occur(tmp_path):
    files = []
    for number in range(70):
        mask = zeros()
        mask.flat[number : number + 2] = 1
        files.append(
            StructureFile(f"s{number:02}", write(tmp_path / f"{number}.nii", mask))
        )
    label_map, combinations = read_reference(drawn(*files), GRID)
    assert len(combinations) == 72  # background, 69 pairs of neighbours, two ends
    assert combinations[label_map.flat[1]] == {"s00", "s01"}


@pytest.mark.parametrize("inside", [1, 255, 0.99999997])
def test_whatever_is_above_a_half_is_inside(tmp_path, inside):
    mask = zeros(np.float32 if inside < 1 else np.uint8)
    mask[2] = inside
    label_map, combinations = read_reference(
        drawn(StructureFile("a", write(tmp_path / "a.nii", mask))), GRID
    )
    assert combinations == (frozenset(), frozenset({"a"}))
    np.testing.assert_array_equal(label_map, (mask > 0).astype(int))


def test_an_empty_mask_is_read_as_nothing(tmp_path):
    files = drawn(StructureFile("a", write(tmp_path / "a.nii", zeros())))
    label_map, combinations = read_reference(files, GRID)
    assert not label_map.any()
    assert combinations == (frozenset(),)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([1, 2], r"a\.nii .* more than two values: 0, 1 and 2; .* as a label map"),
        ([0.5, 1.0], "more than two values: 0, 0.5 and 1"),
        ([np.nan], "more than two values"),
        ([0.3], r"values 0 and 0\.3, so nothing tells inside from outside"),
    ],
)
def test_a_mask_that_says_something_else_is_refused(tmp_path, values, match):
    mask = zeros(np.float32)
    mask.flat[: len(values)] = values
    files = drawn(StructureFile("a", write(tmp_path / "a.nii", mask)))
    with pytest.raises(CaseError, match=match):
        read_reference(files, GRID)


def test_a_mask_of_ones_and_twos_is_refused(tmp_path):
    mask = zeros() + 1
    mask[0] = 2
    files = drawn(StructureFile("a", write(tmp_path / "a.nii", mask)))
    with pytest.raises(CaseError, match="values 1 and 2, so nothing tells"):
        read_reference(files, GRID)


def test_a_mask_on_another_grid_is_refused_by_structure(tmp_path):
    mask = np.zeros((4, 5, 7), np.uint8)
    files = drawn(StructureFile("spleen", write(tmp_path / "a.nii", mask)))
    with pytest.raises(CaseError, match=r"image is .* but mask of spleen is 4×5×7"):  # noqa: RUF001
        read_reference(files, GRID)


def test_a_file_of_several_structures_is_read_once(tmp_path, monkeypatch):
    values = zeros()
    values[1], values[2] = 3, 7
    path = write(tmp_path / "all.nii", values)
    reads, read = [], volumes._read
    monkeypatch.setattr(volumes, "_read", lambda path: reads.append(path) or read(path))
    label_map, combinations = read_reference(
        drawn(StructureFile("b", path, 7), StructureFile("a", path, 3)), GRID
    )
    assert reads == [path]
    found = masks_of(label_map, combinations)
    np.testing.assert_array_equal(found["a"], values == 3)
    np.testing.assert_array_equal(found["b"], values == 7)


def test_a_case_of_masks_says_what_its_numbers_mean(tmp_path):
    mask = zeros()
    mask[2] = 1
    image = ChannelFile(write(tmp_path / "i.nii", zeros(np.float32)))
    files = (
        StructureFile("a", write(tmp_path / "a.nii", mask)),
        StructureFile("b", tmp_path / "a.nii"),
    )
    case = read_case(CaseFiles("c", "c", (image,), structure_files=files))
    assert case.meaning({}) == {0: frozenset(), 1: frozenset({"a", "b"})}
    np.testing.assert_array_equal(case.label_map, mask)


def test_a_damaged_mask_is_named_with_its_case(tmp_path):
    image = ChannelFile(write(tmp_path / "i.nii", zeros(np.float32)))
    (tmp_path / "liver.nii.gz").write_bytes(b"")
    files = CaseFiles(
        "c7",
        "c7",
        (image,),
        structure_files=(StructureFile("liver", tmp_path / "liver.nii.gz"),),
    )
    with pytest.raises(CaseError, match=r"case c7: .*liver\.nii\.gz cannot be read"):
        read_case(files)


def test_a_case_without_a_reference_has_none_to_read():
    with pytest.raises(ValueError, match="case c has no reference"):
        read_reference(CaseFiles("c", "c", ()), GRID)


# -------------------------------------------------------------- 3D Slicer's own files


def slicer_case(path):
    return CaseFiles("c", "c", (ChannelFile(path),), label_map=path)


def moved(start, affine=AFFINE):
    """Affine of a crop that begins at a voxel."""
    result = affine.copy()
    result[:3, 3] += affine[:3, :3] @ start
    return result


def test_a_crop_is_placed_by_its_header(tmp_path):
    crop = np.arange(1, 13, dtype=np.uint8).reshape(2, 3, 2)
    path = write_segmentation(tmp_path / "a.seg.nrrd", crop, moved([1, 2, 3]), [])
    label_map, combinations = read_reference(slicer_case(path), GRID)
    expected = zeros()
    expected[1:3, 2:5, 3:5] = crop
    np.testing.assert_array_equal(label_map, expected)
    assert combinations is None


@given(
    st.permutations("RAS"),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.lists(st.integers(-2, 4), min_size=3, max_size=3),
)
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_crop_along_any_axes_is_placed(tmp_path, letters, flips, start):
    crop = np.random.default_rng(0).integers(1, 9, (3, 2, 3), np.uint8)
    # Empty where it reaches beyond the image.
    inside = np.all(
        [
            (start[axis] + np.indices(crop.shape)[axis] >= 0)
            & (start[axis] + np.indices(crop.shape)[axis] < GRID.shape[axis])
            for axis in range(3)
        ],
        axis=0,
    )
    crop[~inside] = 0
    opposite = {"R": "L", "A": "P", "S": "I"}
    orientation = "".join(
        opposite[letter] if flip else letter
        for letter, flip in zip(letters, flips, strict=True)
    )
    grid = Grid(crop.shape, moved(start))
    turn = reorientation(grid, orientation)
    path = write_segmentation(
        tmp_path / "a.seg.nrrd", turn.apply(crop), turn.apply_to_grid(grid).affine, []
    )
    label_map, _ = read_reference(slicer_case(path), GRID)
    expected = zeros()
    for index in np.argwhere(crop):
        expected[tuple(index + start)] = crop[tuple(index)]
    np.testing.assert_array_equal(label_map, expected)


@pytest.mark.parametrize("shift", [0.02, 0.5])
def test_a_crop_between_the_voxels_of_the_image_is_refused(tmp_path, shift):
    crop = np.ones((2, 2, 2), np.uint8)
    affine = moved([1 + shift, 1, 1])
    path = write_segmentation(tmp_path / "a.seg.nrrd", crop, affine, [])
    with pytest.raises(CaseError, match=r"a\.seg\.nrrd do not coincide with those of"):
        read_reference(slicer_case(path), GRID)


def test_a_crop_of_other_voxels_is_refused(tmp_path):
    crop = np.ones((2, 2, 2), np.uint8)
    path = write_segmentation(
        tmp_path / "a.seg.nrrd", crop, np.diag([3.0, 3, 3, 1]), []
    )
    with pytest.raises(CaseError, match="do not coincide"):
        read_reference(slicer_case(path), GRID)


def test_a_crop_within_a_hundredth_of_a_voxel_is_placed(tmp_path):
    crop = np.ones((2, 2, 2), np.uint8)
    affine = moved([1.005, 1, 1])
    path = write_segmentation(tmp_path / "a.seg.nrrd", crop, affine, [])
    assert read_reference(slicer_case(path), GRID)[0][1:3, 1:3, 1:3].all()


@pytest.mark.parametrize("start", [[-1, 0, 0], [3, 0, 0], [0, 0, 60]])
def test_segments_outside_the_image_are_refused(tmp_path, start):
    crop = np.ones((2, 2, 2), np.uint8)
    path = write_segmentation(tmp_path / "a.seg.nrrd", crop, moved(start), [])
    with pytest.raises(CaseError, match=r"[48] segmented voxels outside the image"):
        read_reference(slicer_case(path), GRID)


def test_segments_in_several_layers_overlap(tmp_path):
    layers = np.zeros((2, 3, 2, 2), np.uint8)
    layers[0, 0], layers[0, 1] = 1, 2
    layers[1, 1:] = 1
    path = write_segmentation(
        tmp_path / "a.seg.nrrd",
        layers,
        moved([1, 0, 0]),
        [("liver", 1, 0), ("spleen", 2, 0), ("vessels", 1, 1)],
    )
    files = drawn(
        StructureFile("liver", path, 1, 0),
        StructureFile("spleen", path, 2, 0),
        StructureFile("vessels", path, 1, 1),
    )
    label_map, combinations = read_reference(files, GRID)
    along = [combinations[number] for number in label_map[:, 0, 0]]
    assert along == [set(), {"liver"}, {"spleen", "vessels"}, {"vessels"}]
    assert not label_map[:, 2:].any()


def test_a_label_map_in_another_format_is_not_placed(tmp_path):
    path = write(tmp_path / "a.nrrd", np.ones((2, 2, 2), np.uint8), moved([1, 1, 1]))
    with pytest.raises(CaseError, match=r"image is .* but label map is"):
        read_reference(slicer_case(path), GRID)


def test_a_label_map_of_several_volumes_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros((*GRID.shape, 2), np.uint8), AFFINE)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(CaseError, match="holds 2 channels where one was expected"):
        read_reference(slicer_case(tmp_path / "a.nii"), GRID)
