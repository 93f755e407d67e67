"""Data sets whose structures have masks of their own."""

import json

import numpy as np
import pytest
from slicer_files import write_segmentation

from foveal.case import StructureFile
from foveal.errors import DatasetError
from foveal.geometry import Grid
from foveal.io import volumes
from foveal.io.datasets import read_dataset
from foveal.io.volumes import write_volume

FLAT = np.zeros((2, 2, 2), np.uint8)


def volume(path, *values):
    array = np.zeros((2, 2, 2), np.int16)
    array.flat[: len(values)] = values
    write_volume(path, array, Grid((2, 2, 2), np.eye(4)))
    return path


def touch(path):
    """A file whose content does not matter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def segmentation(path, *names):
    segments = [(name, number, 0) for number, name in enumerate(names, start=1)]
    return write_segmentation(path, FLAT, np.eye(4), segments)


def structures_of(case):
    return [file.structure for file in case.structure_files]


# ---------------------------------------------------------------------- two folders


def test_a_folder_of_masks_stands_in_place_of_a_label_map(tmp_path):
    for name in ("a", "b", "site/c", "u"):
        volume(tmp_path / "images" / f"{name}.nii")
    for name in ("a/liver", "a/tumour", "b/liver", "site/c/liver", "site/c/tumour"):
        touch(tmp_path / "labels" / f"{name}.nii.gz")
    dataset = read_dataset(tmp_path)
    a, b, c, u = dataset.cases
    assert (a.name, b.name, c.name, u.name) == ("a", "b", "site_c", "u")
    assert a.structure_files == (
        StructureFile("liver", tmp_path / "labels" / "a" / "liver.nii.gz"),
        StructureFile("tumour", tmp_path / "labels" / "a" / "tumour.nii.gz"),
    )
    assert a.label_map is None
    assert dataset.label_values == {"liver": 1, "tumour": 2}
    assert dataset.has_structure_files
    assert dataset.regions == {}
    # A structure without a file was not contoured.
    assert (a.annotated, b.annotated, c.annotated) == (None, ("liver",), None)
    assert (b.is_labelled, u.is_labelled) == (True, False)
    assert u.annotated is None


def test_channels_are_told_apart_where_labels_are_folders(tmp_path):
    for name in ("a_0000", "a_0001"):
        volume(tmp_path / "images" / f"{name}.nii")
    touch(tmp_path / "labels" / "a" / "liver.nii")
    (case,) = read_dataset(tmp_path).cases
    assert [channel.path.name for channel in case.channels] == [
        "a_0000.nii",
        "a_0001.nii",
    ]
    assert structures_of(case) == ["liver"]


def test_a_label_map_beside_a_folder_of_masks_is_refused(tmp_path):
    volume(tmp_path / "images" / "a.nii")
    volume(tmp_path / "labels" / "a.nii", 1)
    touch(tmp_path / "labels" / "a" / "liver.nii")
    with pytest.raises(DatasetError, match='are both labels of the case "a"'):
        read_dataset(tmp_path)


def test_masks_without_an_image_are_refused(tmp_path):
    volume(tmp_path / "images" / "a.nii")
    touch(tmp_path / "labels" / "b" / "liver.nii")
    with pytest.raises(DatasetError, match=r"liver\.nii has no image of the same name"):
        read_dataset(tmp_path)


def test_label_maps_among_masks_need_names_for_their_values(tmp_path):
    for name in ("a", "b"):
        volume(tmp_path / "images" / f"{name}.nii")
    volume(tmp_path / "labels" / "a.nii", 1)
    touch(tmp_path / "labels" / "b" / "liver.nii")
    with pytest.raises(DatasetError, match=r"masks of \['liver'\] and also label maps"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["a:b"], "structure \"a:b\" cannot name files everywhere: it holds ':'"),
        (["Ignore"], 'a mask of its own cannot be "Ignore"'),
        (["liver", "Liver"], 'the structure name "Liver" stands 2 times'),
    ],
)
def test_structures_that_cannot_name_masks_are_refused(tmp_path, names, match):
    volume(tmp_path / "images" / "a.nii")
    segmentation(tmp_path / "labels" / "a.seg.nrrd", *names)
    with pytest.raises(DatasetError, match=match):
        read_dataset(tmp_path)


# ------------------------------------------------------------------------ 3D Slicer


def test_segments_become_structures_by_name(tmp_path):
    for name in ("a", "b"):
        volume(tmp_path / "images" / f"{name}.nrrd")
    path = segmentation(tmp_path / "labels" / "a.seg.nrrd", "tumour", "liver")
    segmentation(tmp_path / "labels" / "b.seg.nrrd", "liver")
    dataset = read_dataset(tmp_path)
    assert dataset.label_values == {"liver": 1, "tumour": 2}
    assert dataset.cases[0].structure_files == (
        StructureFile("liver", path, 2),
        StructureFile("tumour", path, 1),
    )
    assert [case.annotated for case in dataset.cases] == [None, ("liver",)]


def test_a_slicer_file_without_segments_is_a_label_map(tmp_path):
    volume(tmp_path / "images" / "a.nrrd")
    volume(tmp_path / "labels" / "a.seg.nrrd", 3)
    dataset = read_dataset(tmp_path)
    assert dataset.cases[0].label_map == tmp_path / "labels" / "a.seg.nrrd"
    assert dataset.label_values == {"3": 3}
    assert not dataset.has_structure_files


def test_a_slicer_file_without_segments_among_those_with_is_refused(tmp_path):
    for name in ("a", "b"):
        volume(tmp_path / "images" / f"{name}.nrrd")
    segmentation(tmp_path / "labels" / "a.seg.nrrd", "liver")
    volume(tmp_path / "labels" / "b.seg.nrrd", 1)
    with pytest.raises(
        DatasetError, match=r"masks of \['liver'\] and also label maps, as .*b\.seg"
    ):
        read_dataset(tmp_path)


def test_slicer_segmentations_are_never_images(tmp_path):
    volume(tmp_path / "images" / "a.nrrd")
    segmentation(tmp_path / "images" / "a.seg.nrrd", "liver")
    assert [case.name for case in read_dataset(tmp_path).cases] == ["a"]


def test_segments_take_the_values_that_the_layout_names(tmp_path):
    volume(tmp_path / "imagesTr" / "a_0000.nrrd")
    volume(tmp_path / "imagesTr" / "b_0000.nrrd")
    segmentation(tmp_path / "labelsTr" / "a.seg.nrrd", "liver", "tumour")
    volume(tmp_path / "labelsTr" / "b.nrrd", 7)
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 7, "tumour": 5},
        "file_ending": ".nrrd",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = read_dataset(tmp_path)
    assert dataset.label_values == {"tumour": 5, "liver": 7}
    assert structures_of(dataset.cases[0]) == ["liver", "tumour"]
    assert dataset.cases[1].label_map == tmp_path / "labelsTr" / "b.nrrd"
    description["labels"] = {"background": 0, "Liver": 7, "tumour": 5}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(
        DatasetError,
        match=r"masks of \"liver\", .* labels \['tumour', 'Liver'\]; masks are of "
        r"\['liver', 'tumour'\]",
    ):
        read_dataset(tmp_path)
    description["labels"] = {"both": [5, 7], "tumour": 5}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DatasetError, match="leave the regions out"):
        read_dataset(tmp_path)


def test_a_damaged_segmentation_does_not_hide_the_others(tmp_path):
    for name in ("a", "b"):
        volume(tmp_path / "images" / f"{name}.nrrd")
    segmentation(tmp_path / "labels" / "a.seg.nrrd", "liver")
    (tmp_path / "labels" / "b.seg.nrrd").write_bytes(b"NRRD0004\n")
    dataset = read_dataset(tmp_path)
    assert dataset.label_values == {"liver": 1}
    assert dataset.cases[1].label_map == tmp_path / "labels" / "b.seg.nrrd"


# ----------------------------------------------------------------- a folder per case


def test_a_folder_per_case_holds_images_and_a_folder_of_masks(tmp_path):
    for name in ("s1", "s2"):
        touch(tmp_path / name / "ct.nii.gz")
        touch(tmp_path / name / "segmentations" / "liver.nii.gz")
    touch(tmp_path / "s1" / "segmentations" / "aorta.nii.gz")
    touch(tmp_path / "s3" / "ct.nrrd")
    touch(tmp_path / "meta.csv")
    touch(tmp_path / "notes" / "read.txt")
    dataset = read_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["s1", "s2", "s3"]
    assert dataset.channel_names == ("ct",)
    assert dataset.label_values == {"aorta": 1, "liver": 2}
    assert [case.annotated for case in dataset.cases] == [None, ("liver",), None]
    assert len(dataset.labelled) == 2


def test_images_of_a_case_folder_are_channels_by_name(tmp_path):
    for name in ("p1", "p2"):
        touch(tmp_path / name / "t2.nii")
        touch(tmp_path / name / "flair.nii")
        segmentation(tmp_path / name / "Segmentation.seg.nrrd", "lesion")
    dataset = read_dataset(tmp_path)
    assert dataset.channel_names == ("flair", "t2")
    assert [channel.path.name for channel in dataset.cases[0].channels] == [
        "flair.nii",
        "t2.nii",
    ]
    assert structures_of(dataset.cases[1]) == ["lesion"]
    (tmp_path / "p2" / "t2.nii").unlink()
    with pytest.raises(DatasetError, match=r'p2 has no image "t2", which 1 other case'):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (["ct.nii", "ct.nrrd", "segmentations/a.nii"], 'are both called "ct"'),
        (["ct.nii", "segmentations/a.nii", "segmentations/a.nrrd"], 'called "a"'),
        (["segmentations/a.nii"], "holds a segmentation but no image"),
        (["ct.nii", "a.seg.nrrd", "segmentations/a.nii"], "holds several segmentation"),
    ],
)
def test_case_folders_that_contradict_themselves_are_refused(tmp_path, files, match):
    for file in files:
        touch(tmp_path / "p1" / file)
    with pytest.raises(DatasetError, match=match):
        read_dataset(tmp_path)


def test_a_case_folder_whose_image_lies_deeper_is_refused(tmp_path):
    touch(tmp_path / "s1" / "ct.nii.gz")
    touch(tmp_path / "s1" / "segmentations" / "liver.nii.gz")
    touch(tmp_path / "s2" / "imaging" / "ct.nii.gz")
    with pytest.raises(
        DatasetError, match=r"s2 holds no image itself, but imaging/ct\.nii\.gz, so"
    ):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ["CT_image.nii.gz", "CT_mask.nii.gz"],
        ["rater_1/Brain.nrrd", "rater_2/Brain.nrrd"],
    ],
)
def test_case_folders_that_tell_no_images_from_labels_say_what_to_do(tmp_path, files):
    for file in files:
        touch(tmp_path / "p1" / file)
    with pytest.raises(
        DatasetError,
        match=rf"nothing tells images from labels among {', '.join(files)} of the "
        r'folder "p1"; write a CSV table with .* channel_<name>, and label_map or str',
    ):
        read_dataset(tmp_path)


def test_case_folders_are_listed_without_opening_a_file(tmp_path, monkeypatch):
    for number in range(200):
        folder = tmp_path / f"s{number:04}"
        (folder / "segmentations").mkdir(parents=True)
        for name in ("ct.nii.gz", "segmentations/a.nii.gz", "segmentations/b.nii.gz"):
            (folder / name).touch()
    monkeypatch.setattr(volumes, "_require_file", lambda path: pytest.fail(str(path)))
    assert len(read_dataset(tmp_path).labelled) == 200


# --------------------------------------------------------------------------- tables


def csv_table(tmp_path, *lines):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


def test_csv_columns_hold_the_masks_of_structures(tmp_path):
    dataset = read_dataset(
        csv_table(
            tmp_path,
            "case,channel_ct,structure_liver,structure_tumour,annotated_labels",
            "a,a.nii,a_liver.nii,a_tumour.nii,",
            "b,b.nii,b_liver.nii,,",
            "c,c.nii,c_liver.nii,,tumour",
            "u,u.nii,,,",
        )
    )
    a, b, c, u = dataset.cases
    assert a.structure_files[1] == StructureFile("tumour", tmp_path / "a_tumour.nii")
    assert dataset.label_values == {"liver": 1, "tumour": 2}
    # Contoured and absent where the table says so, not contoured where it does not.
    assert [case.annotated for case in (a, b, c)] == [None, ("liver",), None]
    assert not u.is_labelled


def test_a_table_takes_single_segments_of_slicer_files(tmp_path):
    path = segmentation(tmp_path / "a.seg.nrrd", "liver", "tumour")
    segmentation(tmp_path / "b.seg.nrrd", "Segment_1")
    dataset = read_dataset(
        csv_table(
            tmp_path,
            "case,channels,structure_tumour",
            "a,a.nii,a.seg.nrrd",
            "b,b.nii,b.seg.nrrd",
        )
    )
    assert dataset.label_values == {"tumour": 1}
    assert dataset.cases[0].structure_files == (StructureFile("tumour", path, 2),)
    assert dataset.cases[1].structure_files[0].value == 1


def test_toml_structures_are_a_table_and_take_the_values_of_labels(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(
        "[labels]\nliver = 4\ntumour = 2\n"
        '[[cases]]\ncase = "a"\nchannels = ["a.nii"]\n'
        'structures = { tumour = "t.nii", liver = "l.nii" }\n'
    )
    dataset = read_dataset(path)
    assert dataset.label_values == {"tumour": 2, "liver": 4}
    assert dataset.cases[0].structure_files == (
        StructureFile("liver", tmp_path / "l.nii"),
        StructureFile("tumour", tmp_path / "t.nii"),
    )


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (
            ["case,channels,label_map,structure_a", "x,x.nii,l.nii,a.nii"],
            "has a label_map and a mask per structure",
        ),
        (
            ["case,channels,structure_a,present", "x,x.nii,a.nii,a"],
            "has a mask per structure, which tells what is present; leave out one",
        ),
        (["case,channels,structure_a", "x,x.nii,"], "no row has a file in structure_a"),
        (
            ["case,channels,structure_a,annotated_labels", "x,x.nii,a.nii,b"],
            r"annotated_labels names 'b'; the structures are \['a'\]",
        ),
        (
            [
                "case,channels,structure_a,annotated_labels",
                "x,x.nii,a.nii,",
                "y,y.nii,,a",
            ],
            "case y: annotated_labels but no mask at all; give it an empty mask",
        ),
    ],
)
def test_tables_of_masks_that_contradict_themselves_are_refused(tmp_path, lines, match):
    with pytest.raises(DatasetError, match=match):
        read_dataset(csv_table(tmp_path, *lines))
