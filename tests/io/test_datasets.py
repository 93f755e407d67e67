import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from foveal.case import ChannelFile, ExcludedCase, NamedFold
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


def test_entries_say_patient_domain_and_why_they_are_left_out(tmp_path):
    training = [
        {"image": "b.nii", "label": "l.nii", "patient": "P", "domain": "MR"},
        {"image": "a.nii", "label": "l.nii", "exclude": "moved in the scanner"},
    ]
    test = [{"image": "t.nii", "domain": "CT"}, {"image": "v.nii", "exclude": "twice"}]
    dataset = read_dataset(decathlon(tmp_path, training=training, test=test))
    assert [(case.name, case.patient, case.domain) for case in dataset.cases] == [
        ("b", "P", "MR"),
        ("t", "t", "CT"),
    ]
    assert dataset.excluded == (
        ExcludedCase("a", "moved in the scanner"),
        ExcludedCase("v", "twice"),
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"exclude": True}, "exclude True of a.nii must be a text in quotes, the reas"),
        ({"domain": 3}, "domain 3 of a.nii must be a text in quotes$"),
        ({"patient": " "}, "patient ' ' of a.nii"),
        ({"annotated_labels": "head"}, "annotated_labels 'head' of a.nii must be a l"),
    ],
)
def test_entries_that_are_no_texts_are_refused(tmp_path, entry, message):
    training = [{"image": "a.nii", "label": "l.nii"} | entry]
    with pytest.raises(DatasetError, match=message):
        read_dataset(decathlon(tmp_path, training=training))


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


def test_nnunet_image_without_a_channel_number_is_refused(tmp_path):
    volume(tmp_path / "imagesTr" / "a_0000.nrrd")
    volume(tmp_path / "imagesTr" / "y.nrrd")
    with pytest.raises(
        DatasetError, match=r"y\.nrrd has no number of a channel .* as y_0000\.nrrd"
    ):
        read_dataset(nnunet(tmp_path))


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
        ({"file_ending": ".bmp"}, 'file_ending ".bmp" must be one of'),
        ({"channel_names": {}}, "numbered from 0"),
    ],
)
def test_nnunet_descriptions_that_cannot_be_used_are_refused(
    tmp_path, changes, message
):
    with pytest.raises(DatasetError, match=message):
        read_dataset(nnunet(tmp_path, **changes))


def test_nnunet_regions_are_the_structures(tmp_path):
    volume(tmp_path / "imagesTr" / "a_0000.nrrd")
    volume(tmp_path / "labelsTr" / "a.nrrd")
    labels = {"background": 0, "whole": [3, 1, 2], "core": [2, 3], "enhancing": 3}
    dataset = read_dataset(
        nnunet(
            tmp_path,
            channel_names={"0": "T1"},
            labels=labels | {"ignore": 4},
            regions_class_order=[1, 2, 3],
        )
    )
    assert dataset.label_values == {"1": 1, "2": 2, "enhancing": 3}
    assert dataset.regions == {
        "whole": (1, 2, 3),
        "core": (2, 3),
        "enhancing": (3,),
    }
    assert dataset.structures == dataset.regions
    assert dataset.ignore_value == 4


def test_nnunet_label_maps_of_one_case_in_two_files_are_refused(tmp_path):
    volume(tmp_path / "imagesTr" / "a_0000.nrrd")
    volume(tmp_path / "labelsTr" / "a.nrrd")
    volume(tmp_path / "labelsTr" / "a.seg.nrrd")
    with pytest.raises(
        DatasetError, match=r"a\.nrrd and .*a\.seg\.nrrd are of one case"
    ):
        read_dataset(nnunet(tmp_path))


def folds_file(root, *folds):
    root.mkdir(exist_ok=True)
    entries = [{"train": train, "val": validation} for train, validation in folds]
    (root / "splits_final.json").write_text(json.dumps(entries))


def test_folds_beside_the_data_set_are_read(tmp_path):
    folds_file(tmp_path, (["a", "b"], ["out"]), (["out"], ["a", "b"]))
    training = [{"image": f"{name}.nii", "label": "l.nii"} for name in "ab"]
    training.append({"image": "out.nii", "label": "l.nii", "exclude": "empty"})
    dataset = read_dataset(decathlon(tmp_path, training=training, test=[]))
    assert dataset.folds == (NamedFold(("a", "b"), ()), NamedFold((), ("a", "b")))
    (tmp_path / "splits_final.json").unlink()
    assert read_dataset(tmp_path).folds is None


def test_folds_beside_a_table_are_read(tmp_path):
    folds_file(tmp_path, (["a"], ["b"]))
    volume(tmp_path / "l.nii", 1)
    table = csv_table(tmp_path, "case,channels,label_map", "a,a.nii,l.nii", "b,b.nii,")
    assert read_dataset(table).folds == (NamedFold(("a",), ("b",)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not a JSON file"),
        ("[]", "must be a list of folds"),
        ('{"train": []}', "must be a list of folds"),
        ("[3]", 'fold 0 must hold "train"'),
        ('[{"train": ["a"]}]', 'fold 0 must hold "val"'),
        ('[{"train": ["a"], "val": [2]}]', 'fold 0 must hold "val"'),
        ('[{"train": ["a", "x"], "val": []}]', '"train" names the case "x", which'),
    ],
)
def test_folds_that_cannot_be_used_are_refused(tmp_path, text, message):
    decathlon(tmp_path)
    (tmp_path / "splits_final.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


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


def test_names_that_become_one_without_their_folders_are_refused(tmp_path):
    volume(tmp_path / "images" / "site" / "a.nii")
    volume(tmp_path / "images" / "site_a.nii")
    with pytest.raises(
        DatasetError,
        match=r'case name "site_a" stands 2 times: .*site.a\.nii.*site_a\.nii',
    ):
        read_dataset(tmp_path)


def test_label_maps_stay_closed_where_labels_are_not_asked_for(tmp_path):
    volume(tmp_path / "images" / "a.nii")
    volume(tmp_path / "labels" / "a.nii", 3)
    dataset = read_dataset(tmp_path, find_labels=False)
    assert dataset.label_values == {}
    assert len(dataset.labelled) == 1


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
    (tmp_path / "images" / "a.bmp").write_bytes(b"")
    with pytest.raises(DatasetError, match="holds no volumes"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="is no data set"):
        read_dataset(tmp_path / "images" / "a.bmp")


# --------------------------------------------------------------------------- tables


def documented(language, number=1):
    """One of the examples of the documentation, counted from 1."""
    text = DOCUMENTATION.read_text(encoding="utf-8")
    return text.split(f"```{language}\n")[number].split("```")[0]


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
    assert case.weight_map == tmp_path / "p3" / "weights.nii.gz"
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


def test_a_csv_table_names_the_weight_maps_of_some_cases(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(
        "case,channels,label_map,weight_map\n"
        "a,a.nii.gz,a_label.nii.gz,weights/a.nii.gz\n"
        "b,b.nii.gz,b_label.nii.gz,\n",
        encoding="utf-8",
    )
    for name in "ab":
        volume(tmp_path / f"{name}_label.nii.gz", 1)
    first, second = read_dataset(path).cases
    assert first.weight_map == tmp_path / "weights" / "a.nii.gz"
    assert second.weight_map is None


def test_documented_table_of_masks_is_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(documented("csv", 2), encoding="utf-8")
    dataset = read_dataset(path)
    assert dataset.label_values == {"liver": 1, "tumour": 2}
    assert [case.annotated for case in dataset.cases] == [None, ("liver",)]
    assert [case.domain for case in dataset.cases] == ["site A", "site B"]
    assert dataset.excluded == (ExcludedCase("p5", "breathing artefacts"),)


def test_documented_regions_are_read(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(documented("toml", 2), encoding="utf-8")
    dataset = read_dataset(path)
    assert dataset.regions == {"whole": (1, 2, 4), "core": (1, 4), "enhancing": (4,)}
    assert dataset.label_values == {"necrosis": 1, "edema": 2, "enhancing": 4}


def test_documented_json_is_read(tmp_path):
    entry, labels = (json.loads(documented("json", number)) for number in (1, 2))
    (case,) = read_dataset(
        decathlon(
            tmp_path,
            training=[entry],
            test=[],
            labels={"background": 0, "liver": 1, "spleen": 2},
        )
    ).cases
    assert (case.patient, case.domain, case.annotated) == (
        "p17",
        "scanner B",
        ("liver",),
    )
    dataset = read_dataset(decathlon(tmp_path, training=[{"image": "a.nii"}], **labels))
    assert list(dataset.regions) == ["whole", "core", "enhancing"]


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


def test_excluded_cases_may_lack_files_and_say_why(tmp_path):
    volume(tmp_path / "l.nii", 1)
    dataset = read_dataset(
        csv_table(
            tmp_path,
            "case,channel_a,channel_b,label_map,domain,exclude",
            "a,a.nii,b.nii,l.nii,Scanner 1,",
            "b,b.nii,,,,cut off",
            "c,,,,,never scanned",
        )
    )
    assert [(case.name, case.domain) for case in dataset.cases] == [("a", "Scanner 1")]
    assert dataset.excluded == (
        ExcludedCase("b", "cut off"),
        ExcludedCase("c", "never scanned"),
    )


def test_toml_regions_are_made_of_labels_by_name_or_value(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(
        "[labels]\nnecrosis = 1\nedema = 2\nenhancing = 4\nvessel = 7\n"
        '[regions]\nwhole = ["necrosis", 2, 4]\ncore = [1, "enhancing"]\n'
        '[[cases]]\ncase = "a"\nchannels = ["a.nii"]\nlabel_map = "l.nii"\n'
        'annotated_labels = ["core", "vessel"]\n'
    )
    dataset = read_dataset(path)
    assert dataset.label_values == {
        "necrosis": 1,
        "edema": 2,
        "enhancing": 4,
        "vessel": 7,
    }
    # A label in no region is a structure of its own.
    assert dataset.regions == {"whole": (1, 2, 4), "core": (1, 4), "vessel": (7,)}
    assert dataset.cases[0].annotated == ("core", "vessel")


def test_toml_regions_alone_name_the_labels_by_number(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(
        "[regions]\nwhole = [1, 2]\ncore = 2\n"
        '[[cases]]\ncase = "a"\nchannels = ["a.nii"]\nlabel_map = "l.nii"\n'
    )
    dataset = read_dataset(path)
    assert dataset.label_values == {"1": 1, "core": 2}
    assert dataset.regions == {"whole": (1, 2), "core": (2,)}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["case,channels,label", "a,a.nii,l.nii"], 'table.csv: "label" is unknown'),
        (["case,channels", "a,a.nii,more"], "line 2 has more or fewer cells"),
        (["case,channels", "a"], "line 2 has more or fewer cells"),
        (["case,channels", ",a.nii"], 'line 2 has no "case"'),
        (["case,label_map", "a,l.nii"], 'has no "channels"'),
        (
            ["case,channel_a,channel_b", "a,,"],
            "line 2 has no file for any of channel_a, channel_b; .* but not all",
        ),
        (["case,channels,channel_a", "a,a.nii,a.nii"], "not both"),
        (["case,channels,split", "a,a.nii,val"], 'split "val" must be one of train'),
        (["case,channels", "a,a.nii", "a,b.nii"], 'case name "a" stands 2 times'),
        (["case,channels", "\u00e9,a", "e\u0301,b"], 'case name ".+" stands 2 times'),
        (["case,channels", "a,a.nii", "A,b.nii"], 'case name "a" stands 2 times'),
        (["case,channels", "a?,a.nii"], r'case "a\?" cannot name files everywhere'),
        (["case,channels", "aux,a.nii"], "Windows keeps this name for a device"),
        (["case,channels", "a" * 151 + ",a.nii"], "it has 151 characters"),
        (["case,channels,exclude", "a,a.nii,bad"], "excludes all of its 1 cases"),
        (["case,channels,structures", "a,a.nii,b"], '"structures" is unknown; .*and s'),
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
        ("regions = 3", "regions must be a table of names and lists"),
        ("[regions]", "regions must be a table of names and lists"),
        ("[regions]\na = []", 'region "a" = .. must be a list of labels'),
        ("[regions]\na = [0, 1]", "there are integers other than 0"),
        ('[regions]\na = ["x"]', "there are integers other than 0"),
        ("[regions]\na = [1, 2]\nb = [2, 1]", 'region "b" = .* stands twice'),
        ("labels = {a = 1}\n[regions]\nb = [2]", r"there are \['a'\]"),
        (
            "labels = {a = 1, b = 2, c = 3}\n[regions]\na = [2, 3]",
            '"a" is a region and a label outside of it',
        ),
        (
            "ignore = 2\n[regions]\na = [1, 2]",
            "ignore is 2, which is also the value of a label",
        ),
        ('[[cases]]\ncase = "a"\nexclude = true', "exclude True must be a text"),
        (
            '[[cases]]\ncase = "a"\nchannels = ["b"]\nstructures = ["c"]',
            "must be a table of names and files",
        ),
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


def test_a_table_with_semicolons_or_of_another_encoding_is_told_so(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("case;channels;label_map\na;a.nii;b.nii\n")
    with pytest.raises(DatasetError, match="must be separated by commas"):
        read_dataset(table)
    table.write_bytes("case,channels\nKöhler,a.nii\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r'save it again, .* as "CSV UTF-8"'):
        read_dataset(table)


def test_one_image_with_more_channels_does_not_set_the_number_for_all(tmp_path):
    for number in range(4):
        shape = (4, 4, 4, 2) if number == 0 else (4, 4, 4)
        for folder in ("images", "labels"):
            path = tmp_path / folder / f"case_{number}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            size = shape if folder == "images" else (4, 4, 4)
            nib.save(nib.Nifti1Image(np.ones(size, np.uint8), np.eye(4)), path)
    assert read_dataset(tmp_path).channel_names == ("0",)
