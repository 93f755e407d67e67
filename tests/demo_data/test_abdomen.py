import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from foveal.demo_data.abdomen import (
    NUM_TEST_CASES,
    STRUCTURES,
    draw_abdomen,
    write_abdomens,
)
from foveal.errors import DatasetError

SEED = 11


@pytest.fixture(scope="module")
def abdomens():
    return [draw_abdomen(np.random.default_rng([SEED, index])) for index in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_abdomens(tmp_path_factory.mktemp("demo") / "data", 2, SEED)


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_same_seed_gives_the_same_bytes_and_another_seed_other_scans(folder, tmp_path):
    first = digests(folder)
    again = digests(write_abdomens(tmp_path / "elsewhere" / "again", 2, SEED))
    other = digests(write_abdomens(tmp_path / "other", 2, SEED + 1))
    assert again == first
    assert other.keys() == first.keys()
    assert not set(other.values()) & set(first.values())


def test_folder_lists_labelled_cases_and_hides_the_references_of_the_others(folder):
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert description["labels"] == {
        "0": "background",
        "1": "LeftKidney",
        "2": "RightKidney",
        "3": "Spleen",
        "4": "Aorta",
    }
    assert [entry["image"] for entry in description["training"]] == [
        "./imagesTr/abdomen_000.nii.gz",
        "./imagesTr/abdomen_001.nii.gz",
    ]
    assert len(description["test"]) == NUM_TEST_CASES
    for entry in description["test"]:
        assert (folder / entry).is_file()
        assert (folder / entry.replace("imagesTs", "labelsTs")).is_file()
    assert "labelsTs" not in json.dumps(description)


def test_files_hold_int16_hu_and_one_byte_labels_on_the_same_grid(folder):
    image = nib.load(folder / "imagesTr" / "abdomen_000.nii.gz")
    label_map = nib.load(folder / "labelsTr" / "abdomen_000.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert label_map.get_data_dtype() == np.uint8
    assert np.array_equal(image.affine, label_map.affine)
    assert image.header["sform_code"] == image.header["qform_code"] == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.unique(np.asarray(label_map.dataobj)).tolist() == [0, 1, 2, 3, 4]


def test_progress_counts_every_case(tmp_path):
    calls = []
    write_abdomens(tmp_path / "data", 1, SEED, lambda *call: calls.append(call))
    assert calls == [
        (1, 3, "abdomen_000"),
        (2, 3, "abdomen_001"),
        (3, 3, "abdomen_002"),
    ]


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="already exists"):
        write_abdomens(tmp_path, 1, SEED)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_fills_a_believable_share_of_the_volume(abdomens, structure):
    for abdomen in abdomens:
        fraction = np.mean(abdomen.label_map == STRUCTURES[structure])
        assert 0.003 < fraction < 0.05


@pytest.mark.parametrize(
    ("structure", "lowest_hu", "highest_hu"),
    [
        ("LeftKidney", 115, 215),
        ("RightKidney", 115, 215),
        ("Spleen", 90, 150),
        ("Aorta", 125, 210),
    ],
)
def test_organs_have_the_hu_of_a_contrast_scan(
    abdomens, structure, lowest_hu, highest_hu
):
    for abdomen in abdomens:
        values = abdomen.image[abdomen.label_map == STRUCTURES[structure]]
        assert lowest_hu < np.median(values) < highest_hu


def test_a_scan_holds_air_fat_muscle_and_bone(abdomens):
    for abdomen in abdomens:
        image = abdomen.image
        assert np.median(image[:3, :3]) == pytest.approx(-1000, abs=30)
        in_fat = np.mean((image > -130) & (image < -70))
        in_muscle_or_organ = np.mean((image > 30) & (image < 140))
        in_bone = np.mean(image > 250)
        assert in_fat > 0.1
        assert in_muscle_or_organ > 0.15
        assert 0.005 < in_bone < 0.06


def test_left_and_right_are_true_in_the_world_in_both_orientations(abdomens):
    orientations = set()
    for abdomen in abdomens:
        orientations.add("".join(nib.aff2axcodes(abdomen.affine)))
        centres = {
            structure: abdomen.affine[:3, :3]
            @ ndimage.center_of_mass(abdomen.label_map == value)
            + abdomen.affine[:3, 3]
            for structure, value in STRUCTURES.items()
        }
        assert centres["LeftKidney"][0] < -40
        assert centres["RightKidney"][0] > 40
        assert centres["Spleen"][0] < centres["LeftKidney"][0]
        assert centres["Spleen"][2] > centres["LeftKidney"][2]
    assert orientations == {"RAS", "LPS"}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_structure_is_one_piece(abdomens, structure):
    for abdomen in abdomens:
        mask = abdomen.label_map == STRUCTURES[structure]
        pieces, _ = ndimage.label(mask, np.ones((3, 3, 3)))
        assert np.bincount(pieces[mask]).max() > 0.98 * mask.sum()


def test_cases_differ_in_size_and_spacing(abdomens):
    assert len({abdomen.image.shape for abdomen in abdomens}) == len(abdomens)
    spacings = [np.abs(np.diag(abdomen.affine))[:3] for abdomen in abdomens]
    assert len({tuple(spacing) for spacing in spacings}) == len(abdomens)
    for abdomen, spacing in zip(abdomens, spacings, strict=True):
        assert np.all(abdomen.image.shape <= np.array([112, 92, 62]))
        assert np.all((spacing >= 3) & (spacing <= 6))
