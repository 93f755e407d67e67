import nibabel as nib
import numpy as np
import pytest
from conftest import data_folder

import foveal
from foveal.io.volumes import read_volume, write_volume


@pytest.mark.parametrize(
    ("folder", "channel", "structures"),
    [("hippocampus", "MRI", 2), ("headneck_ct", "CT", 7)],
)
def test_nothing_is_wrong_with_the_decathlon_folders(folder, channel, structures):
    found = foveal.check(data_folder(folder))
    assert found.findings == ()
    assert found.dataset.channel_names == (channel,)
    assert len(found.dataset.label_values) == structures


def test_annotated_organs_are_those_in_the_label_maps():
    found = foveal.check(data_folder("headneck_ct"))
    assert found.annotated_cases == found.present_cases
    assert found.annotated_cases["Esophagus"] < found.annotated_cases["Brainstem"] < 60


def brats_table(tmp_path):
    """A table of the BraTS patients with their masks."""
    lines = ['channel_names = ["flair", "t1c"]']
    for patient in sorted(data_folder("brats").iterdir()):
        files = {
            name: (patient / f"{name}.nii.gz").as_posix()
            for name in ("flair", "t1c", "label", "brainmask")
        }
        lines += [
            "[[cases]]",
            f'case = "{patient.name}"',
            f'channels = ["{files["flair"]}", "{files["t1c"]}"]',
            f'label_map = "{files["label"]}"',
            f'mask = "{files["brainmask"]}"',
        ]
    path = tmp_path / "brats.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.slow
def test_brats_table_is_sound_and_its_mask_is_not_empty(tmp_path):
    found = foveal.check(brats_table(tmp_path))
    assert found.num_errors == 0
    assert found.present_cases == {"1": 4, "2": 4, "3": 4, "4": 4}
    case = foveal.read_case(found.dataset.cases[0])
    assert case.image.shape == (2, 240, 240, 155)
    # The stored brain mask reads as 0.99999997, which int() would empty.
    assert case.mask.sum() > 1_000_000
    # Outside it every channel was set to one value.
    assert [np.unique(channel[~case.mask]).size for channel in case.image] == [1, 1]


@pytest.mark.parametrize(
    "name",
    [
        "headneck_ct/imagesTr/pt_1.nii.gz",
        "headneck_ct/labelsTr/pt_1.nii.gz",
        "brats/brats_2013_pat0003_1/label.nii.gz",
        "sarcoma/STS_004/CT_image.nii.gz",
        "hippocampus/imagesTr/hippocampus_001.nii.gz",
    ],
)
def test_a_prediction_repeats_the_geometry_of_its_image(tmp_path, name):
    folder, _, rest = name.partition("/")
    source = data_folder(folder) / rest
    stored = read_volume(source)
    prediction = (stored.array > stored.array.mean()).astype(np.int16)
    output = tmp_path / "prediction.nii.gz"
    write_volume(output, prediction, stored.grid, stored.header)
    before, after = nib.load(source), nib.load(output)
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(after.header.get_qform(), before.header.get_qform())
    for field in ("sform_code", "qform_code", "xyzt_units"):
        assert after.header[field] == before.header[field]
    # Of the sign of the third axis and the three spacings; the rest is for 4D files.
    np.testing.assert_array_equal(
        after.header["pixdim"][:4], before.header["pixdim"][:4]
    )
    assert after.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(after.dataobj), prediction)


def test_itk_and_nifti_hold_the_same_place(tmp_path):
    source = data_folder("headneck_ct") / "imagesTr" / "pt_1.nii.gz"
    stored = read_volume(source)
    assert stored.grid.orientation == "PLI"
    for ending in (".nrrd", ".mha"):
        path = tmp_path / f"a{ending}"
        write_volume(path, stored.array, stored.grid, stored.header)
        again = read_volume(path)
        np.testing.assert_allclose(again.grid.affine, stored.grid.affine, atol=1e-4)
        np.testing.assert_array_equal(again.array, stored.array)


def test_rater_masks_in_nrrd_share_one_grid():
    paths = sorted(data_folder("two_raters").rglob("Brain*.nrrd"))[:2]
    first, second = (read_volume(path) for path in paths)
    assert first.array.shape == first.grid.shape
    assert set(np.unique(first.array)) <= {0, 1}
    np.testing.assert_array_equal(first.grid.affine, second.grid.affine)
