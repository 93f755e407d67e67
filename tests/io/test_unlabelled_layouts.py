"""Unlabelled cases to train on, in every layout of folders."""

import json

import numpy as np
import pytest

from foveal.case import ChannelFile, Domain
from foveal.errors import DatasetError
from foveal.geometry import Grid
from foveal.io.datasets import read_dataset
from foveal.io.volumes import write_volume


def volume(path, *values):
    """A volume of 2 x 2 x 2 voxels that holds ``values``, the rest 0."""
    array = np.zeros((2, 2, 2), np.int16)
    array.flat[: len(values)] = values
    write_volume(path, array, Grid((2, 2, 2), np.eye(4)))
    return path


def decathlon(root, **changes):
    entries = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "head"},
        "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}],
        "test": ["imagesTs/t.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(entries | changes))
    return root


def nnunet(root):
    entries = {
        "channel_names": {"0": "FLAIR", "1": "T1"},
        "labels": {"background": 0, "tumour": 1},
        "file_ending": ".nii",
    }
    (root / "dataset.json").write_text(json.dumps(entries))
    for number in (0, 1):
        volume(root / "imagesTr" / f"a_000{number}.nii")
        volume(root / "imagesUn" / f"u_000{number}.nii")
    volume(root / "labelsTr" / "a.nii", 1)
    return root


def names(cases):
    return [case.name for case in cases]


def test_images_beside_those_of_a_decathlon_are_unlabelled_cases(tmp_path):
    volume(tmp_path / "imagesUn" / "u.nii.gz")
    volume(tmp_path / "imagesUn" / "site" / "v.nrrd")
    dataset = read_dataset(decathlon(tmp_path))
    assert names(dataset.cases) == ["a", "site_v", "t", "u"]
    assert names(dataset.unlabelled) == ["site_v", "u"]
    assert names(dataset.labelled) == ["a"]
    assert {case.split for case in dataset.unlabelled} == {"train"}
    assert dataset.domains == ()


def test_a_decathlon_may_list_its_unlabelled_cases_with_their_domain(tmp_path):
    volume(tmp_path / "imagesUn" / "not_listed.nii.gz")
    listed = [{"image": "elsewhere/u.nii.gz", "domain": "B", "patient": "p"}, "v.nii"]
    dataset = read_dataset(decathlon(tmp_path, unlabelled=listed))
    first, second = dataset.unlabelled
    assert first.channels == (ChannelFile(tmp_path / "elsewhere" / "u.nii.gz"),)
    assert (first.domain, first.patient, second.name) == ("B", "p", "v")
    assert dataset.domains == (Domain("B", 0, 1), Domain(None, 1, 1))


def test_unlabelled_images_of_nnunet_have_a_file_per_channel(tmp_path):
    dataset = read_dataset(nnunet(tmp_path))
    (case,) = dataset.unlabelled
    assert case.name == "u"
    assert [channel.path.name for channel in case.channels] == [
        "u_0000.nii",
        "u_0001.nii",
    ]


@pytest.mark.parametrize("folder", ["imagesUn", "images_unlabelled", "Image-Unlabeled"])
def test_labelled_images_tell_what_a_suffix_of_unlabelled_ones_means(tmp_path, folder):
    for number in (0, 1):
        volume(tmp_path / "images" / f"a_000{number}.nii")
        volume(tmp_path / folder / f"u_000{number}.nii")
    volume(tmp_path / folder / "w_0000.nii")
    volume(tmp_path / folder / "x_0002.nii")
    volume(tmp_path / "labels" / "a.nii", 1)
    dataset = read_dataset(tmp_path)
    assert names(dataset.unlabelled) == ["u", "w", "x"]
    # What is missing is listed, so that it is named, and what is too much stays.
    assert [len(case.channels) for case in dataset.cases] == [2, 2, 2, 3]
    assert dataset.channel_names == ("0", "1")


def test_an_unlabelled_image_with_more_channels_does_not_set_their_number(tmp_path):
    image = np.zeros((2, 2, 2, 3), np.float32)
    import nibabel as nib

    (tmp_path / "imagesUn").mkdir()
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "imagesUn" / "a.nii")
    volume(tmp_path / "imagesTr" / "b.nii")
    volume(tmp_path / "labelsTr" / "b.nii", 1)
    assert read_dataset(tmp_path).channel_names == ("0",)


def test_masks_of_unlabelled_images_lie_in_a_folder_of_their_own(tmp_path):
    for part in ("Tr", "Un"):
        volume(tmp_path / f"images{part}" / f"{part}.nii")
        volume(tmp_path / f"masks{part}" / f"{part}.nii", 1)
    volume(tmp_path / "labelsTr" / "Tr.nii", 1)
    (case,) = read_dataset(tmp_path).unlabelled
    assert case.mask == tmp_path / "masksUn" / "Un.nii"


def test_cases_without_a_label_map_among_the_others_are_unlabelled_too(tmp_path):
    lines = [
        "case,channels,label_map,split,domain",
        "a,a.nii,l.nii,,A",
        "b,b.nii,,,B",
        "c,c.nii,,validation,B",
        "d,d.nii,,train,A",
        "e,e.nii,,test,A",
    ]
    volume(tmp_path / "l.nii", 1)
    (tmp_path / "table.csv").write_text("\n".join(lines))
    dataset = read_dataset(tmp_path / "table.csv")
    assert names(dataset.unlabelled) == ["b", "d"]
    assert dataset.domains == (Domain("A", 1, 1), Domain("B", 0, 1))


@pytest.mark.parametrize("layout", ["decathlon", "nnunet", "folders"])
def test_a_label_map_of_an_unlabelled_case_is_refused(tmp_path, layout):
    if layout == "decathlon":
        decathlon(tmp_path)
    elif layout == "nnunet":
        nnunet(tmp_path)
    else:
        volume(tmp_path / "imagesTr" / "a.nii")
        volume(tmp_path / "labelsTr" / "a.nii", 1)
    volume(tmp_path / "imagesUn" / "u.nii")
    volume(tmp_path / "labelsUn" / "u.nii", 1)
    with pytest.raises(DatasetError, match=r"u\.nii is a label of an unlabelled case"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("unlabelled", "message"),
    [
        ([{"image": "u.nii", "label": "l.nii"}], 'u.nii is listed under "unlabelled"'),
        ([{"label": "l.nii"}], 'None is listed under "unlabelled"'),
        ([{"domain": "A"}], 'an entry of "unlabelled" must hold "image"'),
        ({"u": "u.nii"}, '"unlabelled" must be a list of images'),
    ],
)
def test_lists_of_unlabelled_cases_that_cannot_be_used_are_refused(
    tmp_path, unlabelled, message
):
    with pytest.raises(DatasetError, match=message):
        read_dataset(decathlon(tmp_path, unlabelled=unlabelled))
