import nibabel as nib
import numpy as np
import pytest
from conftest import data_folder

import foveal
import foveal.io.datasets
from foveal.case import CaseFiles, ChannelFile, StructureFile
from foveal.errors import CaseError, DatasetError
from foveal.io.label_maps import read_reference
from foveal.io.volumes import case_stem, read_grid, read_volume, write_volume


@pytest.mark.parametrize(
    ("folder", "channel", "structures"),
    [("hippocampus", "MRI", 2), ("headneck_ct", "CT", 7)],
)
def test_nothing_is_wrong_with_the_decathlon_folders(folder, channel, structures):
    found = foveal.check(data_folder(folder))
    assert [finding for finding in found.findings if finding.severity != "note"] == []
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


def sarcoma_table(tmp_path):
    """A table of the sarcoma patients with three channels on different grids."""
    lines = ["case,channel_ct,channel_pet,channel_t1,label_map"]
    for patient in sorted(data_folder("sarcoma").iterdir()):
        images = [patient / f"{name}_image.nii.gz" for name in ("CT", "PET", "MR_T1")]
        files = [*images, patient / "CT_mask.nii.gz"]
        lines.append(",".join([patient.name, *(file.as_posix() for file in files)]))
    path = tmp_path / "sarcoma.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def independent_sample(volume, points):
    """Linear interpolation at world points by hand, the lowest value outside."""
    inverse = np.linalg.inv(volume.grid.affine)
    shape = np.array(volume.grid.shape)[:, None]
    places = inverse[:3, :3] @ points + inverse[:3, 3:]
    is_inside = ((places >= -0.5) & (places <= shape - 0.5)).all(axis=0)
    places = np.clip(places, 0, shape - 1)
    start = np.minimum(places.astype(int), np.maximum(shape - 2, 0))
    rest = places - start
    values = np.zeros(points.shape[1])
    for corner in np.ndindex(2, 2, 2):
        step = np.array(corner)[:, None]
        weight = np.where(step == 1, rest, 1 - rest).prod(axis=0)
        values += weight * volume.array[tuple(np.minimum(start + step, shape - 1))]
    return np.where(is_inside, values, volume.array.min()), is_inside


def test_channels_on_different_grids_are_resampled_by_their_place(tmp_path):
    dataset = foveal.io.datasets.read_dataset(sarcoma_table(tmp_path))
    assert dataset.channel_names == ("ct", "pet", "t1")
    with pytest.raises(CaseError, match="resample_channels=true"):
        foveal.read_case(dataset.cases[1])
    for files in dataset.cases[:3]:
        case = foveal.read_case(files, resample_channels=True)
        assert case.label_map.sum() > 100
        ends = [(0, length - 1) for length in case.grid.shape]
        corners = np.array(np.meshgrid(*ends)).reshape(3, -1)
        inner = np.random.default_rng(0).integers(
            0, np.array(case.grid.shape)[:, None], (3, 3000)
        )
        voxels = np.concatenate([corners, inner], axis=1)
        points = case.grid.affine[:3, :3] @ voxels + case.grid.affine[:3, 3:]
        for channel in (1, 2):
            stored = read_volume(files.channels[channel].path)
            expected, is_inside = independent_sample(stored, points)
            assert is_inside.mean() > 0.1
            np.testing.assert_allclose(
                case.image[channel][tuple(voxels)],
                expected,
                atol=1e-6 * np.ptp(stored.array),
            )


@pytest.mark.parametrize("folder", ["sarcoma", "two_raters", "brats"])
def test_folders_that_do_not_tell_images_from_labels_say_what_to_do(folder):
    with pytest.raises(DatasetError, match="write a CSV table with a row per case"):
        foveal.io.datasets.read_dataset(data_folder(folder))


def test_overlapping_masks_of_a_rater_come_back():
    patient = min(data_folder("two_raters").iterdir())
    paths = [
        path
        for path in sorted((patient / "oncologist").glob("*.nrrd"))
        if path.name.startswith(("Lens", "Orbit", "Brainstem"))
    ]
    files = tuple(StructureFile(case_stem(path), path) for path in paths)
    channel = ChannelFile(paths[0])
    label_map, combinations = read_reference(
        CaseFiles("a", "a", (channel,), structure_files=files), read_grid(paths[0])[0]
    )
    # A lens lies inside its orbit.
    assert {len(structures) for structures in combinations} == {0, 1, 2}
    for path in paths:
        inside = np.array([case_stem(path) in names for names in combinations])
        assert np.array_equal(inside[label_map], read_volume(path).array > 0)


def test_masks_per_organ_say_the_same_as_the_label_map(tmp_path):
    root = data_folder("headneck_ct")
    dataset = foveal.io.datasets.read_dataset(root)
    names = {}
    for files in dataset.cases[:3]:
        stored = read_volume(files.label_map)
        names[files.name] = files.annotated
        for organ in files.annotated:
            mask = (stored.array == dataset.label_values[organ]).astype(np.uint8) * 255
            path = tmp_path / "labels" / files.name / f"{organ}.nrrd"
            write_volume(path, mask, stored.grid)
        image = tmp_path / "images" / files.channels[0].path.name
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(files.channels[0].path.read_bytes())
    masks = foveal.io.datasets.read_dataset(tmp_path)
    everything = {organ for organs in names.values() for organ in organs}
    assert masks.label_values.keys() == everything
    for files in masks.cases:
        all_organs = set(names[files.name]) == everything
        assert files.annotated == (None if all_organs else names[files.name])
        case = foveal.read_case(files)
        whole = read_volume(root / "labelsTr" / f"{files.name}.nii.gz").array
        for number, organs in case.meaning(masks.structures).items():
            assert len(organs) <= 1
            value = dataset.label_values[next(iter(organs))] if organs else 0
            np.testing.assert_array_equal(case.label_map == number, whole == value)


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
