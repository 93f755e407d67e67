from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from foveal.errors import CaseError, DatasetError
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.io.inputs import cases_to_predict
from foveal.planning.audit import audit

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"
RANDOM = np.random.default_rng(0)


def picture(path, values=None, shape=(6, 8)):
    """Write a picture of noise, or of the given pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        values = RANDOM.integers(0, 256, shape)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def mask(low=0, high=255):
    pixels = np.full((6, 8), low)
    pixels[2:4, 3:6] = high
    return pixels


def dataset(root, names=("a", "b", "c"), image=None, label=None):
    for name in names:
        picture(root / "images" / f"{name}.png", None if image is None else image())
        picture(root / "labels" / f"{name}.png", mask() if label is None else label())
    return root


def grey_as_rgb():
    return np.repeat(RANDOM.integers(0, 256, (6, 8, 1)), 3, axis=-1)


def colours():
    return RANDOM.integers(0, 256, (6, 8, 3))


def test_pictures_stored_in_colour_are_grey_if_all_are(tmp_path):
    found = read_dataset(dataset(tmp_path, image=grey_as_rgb))
    assert found.channel_names == ("grey",)
    assert [len(case.channels) for case in found.cases] == [1, 1, 1]
    assert read_case(found.cases[0]).image.shape == (1, 8, 6, 1)


def test_coloured_pictures_have_three_channels(tmp_path):
    found = read_dataset(dataset(tmp_path, image=colours))
    assert found.channel_names == ("red", "green", "blue")
    stored = np.asarray(Image.open(tmp_path / "images" / "b.png"))
    np.testing.assert_array_equal(
        read_case(found.cases[1]).image[..., 0], stored.transpose(2, 1, 0)
    )


def test_a_coloured_picture_among_grey_ones_is_named_and_so_is_the_contrary(tmp_path):
    root = dataset(tmp_path / "grey")
    picture(root / "images" / "b.png", colours())
    found = read_dataset(root)
    assert found.channel_names == ("grey",)
    with pytest.raises(CaseError, match=r"case b: .*b\.png is in colour"):
        read_case(found.cases[1])
    root = dataset(tmp_path / "coloured", image=colours)
    picture(root / "images" / "c.png")
    found = read_dataset(root)
    assert len(found.channel_names) == 3
    with pytest.raises(CaseError, match=r"case c: .*c\.png is a grey picture"):
        read_case(found.cases[2])


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (1, 2), (100, 255)])
def test_of_any_two_values_the_higher_is_the_structure(tmp_path, low, high):
    found = read_dataset(dataset(tmp_path, label=lambda: mask(low, high)))
    assert found.structures == {str(high): (high,)}
    assert found.background_value == low
    label_map = read_case(found.cases[0]).label_map
    np.testing.assert_array_equal(label_map[..., 0], mask(0, high).T)
    assert audit(found).num_errors == 0


def test_a_mask_that_is_empty_is_background(tmp_path):
    root = dataset(tmp_path, label=lambda: mask(1, 2))
    picture(root / "labels" / "b.png", np.ones((6, 8)))
    assert not read_case(read_dataset(root).cases[1]).label_map.any()


def test_masks_stored_in_colour_are_read_if_they_are_grey(tmp_path):
    root = dataset(tmp_path, label=lambda: np.repeat(mask()[..., None], 3, axis=-1))
    assert read_dataset(root).structures == {"255": (255,)}
    picture(root / "labels" / "b.png", colours())
    with pytest.raises(CaseError, match=r"case b: .*b\.png is in colour"):
        read_case(read_dataset(root).cases[1])


def test_three_values_are_labels_and_0_is_background(tmp_path):
    root = dataset(tmp_path, label=lambda: mask(1, 2))
    picture(root / "labels" / "b.png", mask(1, 7))
    found = read_dataset(root)
    assert found.structures == {"1": (1,), "2": (2,), "7": (7,)}
    assert found.background_value == 0


def test_a_mask_of_one_structure_with_three_values_is_refused(tmp_path):
    three = mask()
    three[0, 0] = 128
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "labels" / "a" / "cell.png", three)
    with pytest.raises(CaseError, match="more than two values: 0, 128 and 255"):
        read_case(read_dataset(tmp_path).cases[0])


def test_image_and_mask_of_different_size_are_refused(tmp_path):
    root = dataset(tmp_path)
    picture(root / "labels" / "a.png", np.zeros((6, 7)))
    with pytest.raises(CaseError, match=r"image is 8.6.1 but label map is 7.6.1"):
        read_case(read_dataset(root).cases[0])


def test_jpegs_are_not_left_out_in_silence(tmp_path):
    root = dataset(tmp_path)
    Image.fromarray(mask().astype(np.uint8)).save(root / "images" / "d.jpg")
    with pytest.raises(DatasetError, match=r"d\.jpg is not read.*JPEG changes"):
        read_dataset(root)


def test_previews_beside_scans_are_no_cases(tmp_path):
    (tmp_path / "images").mkdir()
    nib.save(
        nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)),
        tmp_path / "images" / "a.nii",
    )
    picture(tmp_path / "images" / "preview.png")
    found = read_dataset(tmp_path, find_labels=False)
    assert [case.name for case in found.cases] == ["a"]


def test_colours_of_nnunet_lie_in_one_file(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "imagesTr" / f"{name}_0000.png", colours())
        picture(tmp_path / "labelsTr" / f"{name}.png", mask(0, 1))
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png", '
        '"labels": {"background": 0, "cell": 1}}'
    )
    found = read_dataset(tmp_path)
    assert found.channel_names == ("R", "G", "B")
    assert read_case(found.cases[0]).image.shape == (3, 8, 6, 1)


# ------------------------------------------------------------------------- patients


def slices(root):
    return dataset(root, [f"p{p}-{n}" for p in (1, 2) for n in (10, 20)])


def table(root, text):
    (root / "cells.toml").write_text(text)
    return root / "cells.toml"


def test_a_table_says_who_the_patients_of_a_folder_are(tmp_path):
    slices(tmp_path / "data")
    path = table(
        tmp_path,
        'folder = "data"\npatient = "^([^-]+)-"\nlabels = { cell = 255 }',
    )
    found = read_dataset(path)
    assert {case.name: case.patient for case in found.cases} == {
        "p1-10": "p1",
        "p1-20": "p1",
        "p2-10": "p2",
        "p2-20": "p2",
    }
    assert found.structures == {"cell": (255,)}
    assert found.name == "data"


def test_the_documented_table_finds_the_patients_of_slices(tmp_path):
    text = DOCUMENTATION.read_text(encoding="utf-8").split("```toml\n")[3]
    names = ["SC-HF-I-01-IM-0001-0048", "SC-HF-I-01-IM-0001-0059", "SC-N-40-IM-0001-1"]
    dataset(tmp_path / "cardiac_2d", names)
    found = read_dataset(table(tmp_path, text.split("```")[0]))
    patients = [case.patient for case in found.cases]
    assert patients == ["SC-HF-I-01", "SC-HF-I-01", "SC-N-40"]
    assert found.structures == {"left_ventricle": (255,)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('folder = "data"\npatient = "x[0-9]"', "finds nothing in the name of case p1"),
        ('folder = "data"\npatient = "("', "is no regular expression"),
        ('folder = "nowhere"', "nowhere is no folder"),
        ('folder = "data"\n[[cases]]\ncase = "a"', 'keep "folder" or'),
    ],
)
def test_tables_of_folders_that_cannot_be_used_are_refused(tmp_path, text, message):
    slices(tmp_path / "data")
    with pytest.raises(DatasetError, match=message):
        read_dataset(table(tmp_path, text))


def test_names_that_hold_patients_are_told_until_the_patients_are_said(tmp_path):
    found = audit(read_dataset(slices(tmp_path / "data")))
    (warning,) = [one for one in found.findings if one.kind == "patients not said"]
    assert "the names of 4 cases are of 2 kinds" in warning.what
    assert '2 of them begin with "p1"' in warning.what
    path = table(tmp_path, 'folder = "data"\npatient = "p[0-9]"')
    kinds = {one.kind for one in audit(read_dataset(path)).findings}
    assert "patients not said" not in kinds


@pytest.mark.parametrize(
    "names", [("1", "2", "3"), ("scan_1", "scan_2"), ("set2_001", "set2_002")]
)
def test_numbered_cases_are_patients_of_their_own(tmp_path, names):
    found = audit(read_dataset(dataset(tmp_path, names)))
    assert "patients not said" not in {one.kind for one in found.findings}


# ------------------------------------------------------------------ to be predicted


@pytest.mark.parametrize("num_channels", [1, 3])
def test_the_model_decides_whether_pictures_are_grey(tmp_path, num_channels):
    path = picture(tmp_path / "images" / "a_0001.png", grey_as_rgb())
    for given in (path, path.parent, tmp_path):
        (case,) = cases_to_predict(given, num_channels)
        assert case.name == "a_0001"
        assert len(read_case(case).image) == num_channels
