import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from foveal.case import ChannelFile
from foveal.errors import DatasetError
from foveal.geometry import Grid
from foveal.io.datasets import read_dataset
from foveal.io.volumes import write_volume

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "datasets.md"


def volume(path, *values):
    """A volume of 2 x 2 x 2 voxels that holds ``values``, the rest 0."""
    array = np.zeros((2, 2, 2), np.int16)
    array.flat[: len(values)] = values
    write_volume(path, array, Grid((2, 2, 2), np.eye(4)))
    return path


def description(root, **entries):
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(entries))
    return root


def decathlon(root, **changes):
    entries = {
        "name": "Task",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "2": "tail", "1": "head"},
        "training": [
            {
                "image": "./imagesTr/b.nii.gz",
                "label": "./labelsTr/b.nii.gz",
                "annotated_labels": ["tail"],
            },
            {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
        ],
        "test": ["./imagesTs/c.nii.gz"],
    }
    return description(root, **(entries | changes))


# ------------------------------------------------------------------------ Decathlon


def test_decathlon_folder_is_read_without_opening_a_volume(tmp_path):
    dataset = read_dataset(decathlon(tmp_path))
    assert [case.name for case in dataset.cases] == ["a", "b", "c"]
    assert [case.split for case in dataset.cases] == [None, None, "test"]
    assert [case.patient for case in dataset.cases] == ["a", "b", "c"]
    assert dataset.cases[0].label_map == tmp_path / "labelsTr" / "a.nii.gz"
    assert dataset.cases[2].label_map is None
    assert dataset.channel_names == ("MRI",)
    assert list(dataset.label_values.items()) == [("head", 1), ("tail", 2)]
    assert dataset.cases[1].annotated == ("tail",)
    assert dataset.cases[0].annotated is None
    assert (dataset.name, dataset.root) == ("Task", tmp_path)


def test_dataset_json_itself_may_be_given(tmp_path):
    decathlon(tmp_path)
    assert read_dataset(str(tmp_path / "dataset.json")).name == "Task"


def test_decathlon_channels_are_places_in_a_4d_file(tmp_path):
    dataset = read_dataset(decathlon(tmp_path, modality={"1": "T1", "0": "FLAIR"}))
    path = tmp_path / "imagesTr" / "a.nii.gz"
    assert dataset.channel_names == ("FLAIR", "T1")
    assert dataset.cases[0].channels == (ChannelFile(path, 0), ChannelFile(path, 1))


def test_ignore_label_is_no_structure(tmp_path):
    labels = {"0": "background", "1": "head", "2": "tail", "9": "ignore"}
    dataset = read_dataset(decathlon(tmp_path, labels=labels))
    assert dataset.label_values == {"head": 1, "tail": 2}
    assert dataset.ignore_value == 9


def test_annotated_labels_may_be_values(tmp_path):
    training = [{"image": "a.nii", "label": "b.nii", "annotated_labels": [2, 1, 1]}]
    dataset = read_dataset(decathlon(tmp_path, training=training, test=[]))
    assert dataset.cases[0].annotated == ("head", "tail")


def test_unknown_annotated_label_is_refused(tmp_path):
    training = [{"image": "a.nii", "label": "b.nii", "annotated_labels": ["liver"]}]
    with pytest.raises(DatasetError, match="case a: annotated_labels names 'liver'"):
        read_dataset(decathlon(tmp_path, training=training))


def test_labels_without_names_are_found_in_the_label_maps(tmp_path):
    root = description(
        tmp_path,
        training=[
            {"image": "i/a.nii", "label": "l/a.nii"},
            {"image": "i/b.nii", "label": "l/b.nii"},
        ],
    )
    volume(tmp_path / "l" / "a.nii", 4, 500)
    volume(tmp_path / "l" / "b.nii", -3)
    assert read_dataset(root).label_values == {"-3": -3, "4": 4, "500": 500}


def test_a_damaged_label_map_does_not_hide_the_labels_of_the_others(tmp_path):
    volume(tmp_path / "images" / "a.nii", 1)
    volume(tmp_path / "images" / "b.nii", 1)
    volume(tmp_path / "labels" / "a.nii", 3)
    (tmp_path / "labels" / "b.nii").write_bytes(b"damaged")
    assert read_dataset(tmp_path).label_values == {"3": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": [{"label": "a.nii"}]}, 'must hold "image"'),
        ({"modality": {"1": "MRI"}}, "numbered from 0"),
        ({"labels": {"1": "head", "2": "head"}}, "stands twice"),
        ({"labels": {"head": 1, "tail": 1}}, "stands twice"),
        ({"labels": {"head": 1.5}}, "must be a name and an integer"),
        ({"test": ["./imagesTs/A.nii.gz"]}, 'case name "a" stands 2 times'),
        ({"training": [], "test": []}, "lists no cases"),
        ({"training": "none"}, "neither"),
    ],
)
def test_contradicting_descriptions_are_refused(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        read_dataset(decathlon(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not a JSON file"), ("[]", "must hold a JSON object")],
)
def test_a_description_that_is_no_table_is_refused(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


# -------------------------------------------------------------------------- nnU-Net


def nnunet(root, **changes):
    entries = {
        "channel_names": {"0": "FLAIR", "1": "T1"},
        "labels": {"background": 0, "tumour": 1, "ignore": 2},
        "numTraining": 1,
        "file_ending": ".nrrd",
    }
    return description(root, **(entries | changes))


def test_nnunet_folder_has_one_file_per_channel(tmp_path):
    for name in ("case_a_0000", "case_a_0001", "case_b_0000", "case_b_0001"):
        volume(tmp_path / "imagesTr" / f"{name}.nrrd")
    volume(tmp_path / "imagesTs" / "case_c_0000.nrrd")
    volume(tmp_path / "labelsTr" / "case_a.nrrd")
    volume(tmp_path / "imagesTr" / "notes_0000.nii.gz")
    dataset = read_dataset(nnunet(tmp_path))
    assert [case.name for case in dataset.cases] == ["case_a", "case_b", "case_c"]
    assert [channel.path.name for channel in dataset.cases[0].channels] == [
        "case_a_0000.nrrd",
        "case_a_0001.nrrd",
    ]
    assert [case.split for case in dataset.cases] == [None, None, "test"]
    assert [case.name for case in dataset.labelled] == ["case_a"]
    assert dataset.label_values == {"tumour": 1}
    assert dataset.ignore_value == 2
    assert dataset.channel_names == ("FLAIR", "T1")
    # The missing channel is listed, so that reading the case names its file.
    assert dataset.cases[2].channels[1].path.name == "case_c_0001.nrrd"


def test_nnunet_label_map_without_image_is_refused(tmp_path):
    volume(tmp_path / "imagesTr" / "a_0000.nrrd")
    volume(tmp_path / "labelsTr" / "b.nrrd")
    with pytest.raises(DatasetError, match=r"b\.nrrd has no image"):
        read_dataset(nnunet(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"whole": [1, "x"]}}, "a name and a list of integers"),
        ({"labels": {"whole": []}}, "a name and a list of integers"),
        ({"labels": {"whole": [0, 1]}}, "holds 0, which is background"),
        ({"labels": {"a": [1, 2], "b": [2, 1]}}, "stands twice"),
        ({"labels": {"a": [1, 2], "ignore": 2}}, "must be one value that is in no"),
        ({"labels": {"2": [3], "b": [2, 4]}}, "called by a number that is the value"),
        ({"labels": ["a"]}, "labels must be a table"),
        ({"file_ending": ".png"}, 'file_ending ".png" must be one of'),
        ({"channel_names": {}}, "numbered from 0"),
    ],
)
def test_nnunet_descriptions_that_cannot_be_used_are_refused(
    tmp_path, changes, message
):
    with pytest.raises(DatasetError, match=message):
        read_dataset(nnunet(tmp_path, **changes))


def test_nnunet_without_file_ending_is_refused(tmp_path):
    description(tmp_path, channel_names={"0": "CT"}, labels={"background": 0, "a": 1})
    with pytest.raises(DatasetError, match='has no "file_ending"'):
        read_dataset(tmp_path)


# ---------------------------------------------------------------------- two folders


def test_folders_are_matched_by_path_and_name_whatever_the_ending(tmp_path):
    volume(tmp_path / "Images" / "site" / "a.nii.gz")
    volume(tmp_path / "Images" / "b.mha")
    volume(tmp_path / "Images" / "._b.mha")
    volume(tmp_path / "LABELS" / "site" / "a.nrrd", 7)
    volume(tmp_path / "masks" / "b.nii", 1)
    dataset = read_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["b", "site_a"]
    assert dataset.cases[0].label_map is None
    assert dataset.cases[0].mask == tmp_path / "masks" / "b.nii"
    assert dataset.cases[1].label_map == tmp_path / "LABELS" / "site" / "a.nrrd"
    assert dataset.label_values == {"7": 7}
    assert dataset.channel_names == ("0",)
    assert dataset.name == tmp_path.name


def test_folder_parts_name_the_splits(tmp_path):
    for part, name in (("Tr", "a"), ("_val", "b"), ("Ts", "c")):
        volume(tmp_path / f"images{part}" / f"{name}.nii")
        volume(tmp_path / f"labels{part}" / f"{name}.nii", 1)
    dataset = read_dataset(tmp_path)
    assert [case.split for case in dataset.cases] == ["train", "validation", "test"]
    assert len(dataset.labelled) == 3


def test_without_a_validation_folder_training_cases_are_free_to_be_divided(tmp_path):
    volume(tmp_path / "image-train" / "a.nii")
    volume(tmp_path / "image-test" / "b.nii")
    assert [case.split for case in read_dataset(tmp_path).cases] == [None, "test"]


def test_suffixes_tell_channels_apart_in_folders(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000"):
        volume(tmp_path / "images" / f"{name}.nii")
    volume(tmp_path / "labels" / "a.nii", 1)
    dataset = read_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert [channel.path.name for channel in dataset.cases[1].channels] == [
        "b_0000.nii",
        "b_0001.nii",
    ]
    assert dataset.channel_names == ("0", "1")


def test_numbered_names_are_cases_where_the_label_maps_say_so(tmp_path):
    for name in ("scan_0001", "scan_0002"):
        volume(tmp_path / "images" / f"{name}.nii")
    volume(tmp_path / "labels" / "scan_0001.nii", 1)
    dataset = read_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["scan_0001", "scan_0002"]
    assert dataset.channel_names == ("0",)


def test_a_4d_image_without_description_gives_its_channels(tmp_path):
    (tmp_path / "images").mkdir()
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.int16), np.eye(4))
    nib.save(image, tmp_path / "images" / "a.nii")
    dataset = read_dataset(tmp_path)
    assert dataset.channel_names == ("0", "1", "2")
    assert [channel.index for channel in dataset.cases[0].channels] == [0, 1, 2]


def test_label_map_without_image_is_refused(tmp_path):
    volume(tmp_path / "images" / "a.nii")
    volume(tmp_path / "labels" / "b.nii")
    with pytest.raises(DatasetError, match=r"b\.nii has no image of the same name"):
        read_dataset(tmp_path)


def test_folders_that_hold_the_same_thing_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(DatasetError, match='"images" and "imagesTr" both hold'):
        read_dataset(tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path):
    volume(tmp_path / "images" / "a.nii")
    volume(tmp_path / "images" / "a.nrrd")
    with pytest.raises(DatasetError, match='are both called "a"'):
        read_dataset(tmp_path)


def test_folders_without_volumes_and_unknown_layouts_are_refused(tmp_path):
    with pytest.raises(DatasetError, match='no folders "images" and "labels"'):
        read_dataset(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="holds no volumes"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="is no data set"):
        read_dataset(tmp_path / "images" / "a.png")


# --------------------------------------------------------------------------- tables


def documented(language):
    text = DOCUMENTATION.read_text(encoding="utf-8")
    return text.split(f"```{language}\n")[1].split("```")[0]


def test_documented_toml_table_is_read(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(documented("toml"), encoding="utf-8")
    dataset = read_dataset(path)
    (case,) = dataset.cases
    assert (dataset.name, dataset.root) == ("tumours", tmp_path)
    assert dataset.channel_names == ("flair", "t1c")
    assert dataset.label_values == {"edema": 2, "enhancing": 4}
    assert dataset.ignore_value == 9
    assert (case.name, case.patient, case.split) == ("p3_first", "p3", "train")
    assert case.channels[1].path == tmp_path / "p3" / "t1c.nii.gz"
    assert case.label_map == tmp_path / "p3" / "label.nii.gz"
    assert case.mask == tmp_path / "p3" / "brain.nii.gz"
    assert case.annotated == ("edema",)


def test_documented_csv_table_is_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(documented("csv"), encoding="utf-8")
    volume(tmp_path / "p3" / "label.nii.gz", 2, 4)
    volume(tmp_path / "p4" / "label.nii.gz", 1)
    dataset = read_dataset(path)
    assert dataset.name == "table"
    assert dataset.channel_names == ("flair", "t1c")
    assert dataset.label_values == {"1": 1, "2": 2, "4": 4}
    assert [case.patient for case in dataset.cases] == ["p3", "p4"]
    assert [case.split for case in dataset.cases] == ["train", "test"]
    assert dataset.cases[0].channels[0].path == tmp_path / "p3" / "flair.nii.gz"


def csv_table(tmp_path, *lines):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


def test_csv_lists_are_separated_by_semicolons_and_empty_cells_are_absent(tmp_path):
    volume(tmp_path / "l.nii", 1, 2, 3)
    path = csv_table(
        tmp_path,
        "case,channels,label_map,annotated_labels,patient",
        "b,b0.nii; b1.nii,l.nii,1;3,",
        "",
        'a,"a0.nii;a,1.nii",,,Q',
    )
    first, second = read_dataset(path).cases
    assert [channel.path.name for channel in first.channels] == ["a0.nii", "a,1.nii"]
    assert (first.label_map, first.patient, first.annotated) == (None, "Q", None)
    assert second.annotated == ("1", "3")
    assert second.patient == "b"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["case,channels,label", "a,a.nii,l.nii"], 'table.csv: "label" is unknown'),
        (["case,channels", "a,a.nii,more"], "line 2 has more or fewer cells"),
        (["case,channels", "a"], "line 2 has more or fewer cells"),
        (["case,channels", ",a.nii"], 'line 2 has no "case"'),
        (["case,label_map", "a,l.nii"], 'has no "channels"'),
        (["case,channel_a,channel_b", "a,a.nii,"], "has no file for channel_b"),
        (["case,channels,channel_a", "a,a.nii,a.nii"], "not both"),
        (["case,channels,split", "a,a.nii,val"], 'split "val" must be one of train'),
        (["case,channels", "a,a.nii", "a,b.nii"], 'case name "a" stands 2 times'),
        (["case,channels", "x/a,a.nii"], "must not hold a folder"),
        (["case,case,channels", "a,a,a.nii"], "stands twice"),
        (["case,channels"], "lists no cases"),
        (["case,channels", 'a,"a.nii'], "is not a CSV table"),
    ],
)
def test_csv_tables_that_cannot_be_understood_are_refused(tmp_path, lines, message):
    with pytest.raises(DatasetError, match=message):
        read_dataset(csv_table(tmp_path, *lines))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cases = ", "is not a TOML file"),
        ("case = 1", '"case" is unknown; there are cases, channel_names'),
        ("cases = 3", r"as a table \[\[cases\]\]"),
        ("name = 3", "name 3 must be a text"),
        ("ignore = true", "ignore True must be a label value"),
        ('[[cases]]\ncase = "a"\nimage = "a.nii"', 'case 1: "image" is unknown'),
        ('[[cases]]\ncase = "a"\nchannels = "a.nii"', "must be a list of texts"),
        ('[[cases]]\ncase = 3\nchannels = ["a.nii"]', "case 3 must be a text"),
        (
            '[[cases]]\ncase = "a"\nchannels = ["a.nii"]\nannotated_labels = 1',
            "must be a list of label names or values",
        ),
        (
            'channel_names = ["a", "a"]\n[[cases]]\ncase = "a"\nchannels = ["b", "c"]',
            "channel name stands twice",
        ),
    ],
)
def test_toml_tables_that_cannot_be_understood_are_refused(tmp_path, text, message):
    path = tmp_path / "table.toml"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_dataset(path)
