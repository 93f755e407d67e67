import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as its own documentation writes it
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.io.volumes import (
    ITK_ENDINGS,
    NIFTI_ENDINGS,
    VOLUME_ENDINGS,
    case_stem,
    is_volume,
    read_channels,
    read_grid,
    read_volume,
    volume_ending,
    write_volume,
)

# Stored P, L, I with anisotropic voxels, as planning CT often is.
PLI = np.array(
    [[0, -1.5, 0, 40], [-2.0, 0, 0, 10], [0, 0, -2.5, -7], [0, 0, 0, 1]], dtype=float
)


def counting_array(shape=(3, 4, 5), dtype=np.int16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save_nifti(path, array, affine, *, sform_code=1, qform_code=1):
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, sform_code)
    image.set_qform(affine, qform_code)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


PLACED_ENDINGS = NIFTI_ENDINGS + ITK_ENDINGS
"""Of the formats that know where voxels lie."""


@pytest.mark.parametrize("ending", PLACED_ENDINGS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_every_format_gives_back_values_type_and_grid(tmp_path, ending, dtype):
    path = tmp_path / f"scan.one{ending}"
    array = counting_array(dtype=dtype)
    write_volume(path, array, Grid((3, 4, 5), PLI))
    stored = read_volume(path)
    np.testing.assert_array_equal(stored.array, array)
    assert stored.array.dtype == dtype
    assert stored.grid.shape == (3, 4, 5)
    np.testing.assert_allclose(stored.grid.affine, PLI, atol=1e-5)
    header_grid, num_channels = read_grid(path)
    np.testing.assert_array_equal(header_grid.affine, stored.grid.affine)
    assert (header_grid.shape, num_channels) == ((3, 4, 5), 1)
    assert case_stem(path) == "scan.one"


def test_every_format_names_the_same_place_in_the_world(tmp_path):
    grid = Grid((3, 4, 5), PLI)
    write_volume(tmp_path / "a.nii.gz", counting_array(), grid)
    write_volume(tmp_path / "a.nrrd", counting_array(), grid)
    ours = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    theirs = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-5)
    np.testing.assert_allclose(ours.GetSpacing(), theirs.GetSpacing(), atol=1e-5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing_mm=st.tuples(*[st.floats(0.1, 10)] * 3),
    ending=st.sampled_from([".nii", ".nrrd", ".mha"]),
)
def test_oblique_grids_come_back(tmp_path, angles, spacing_mm, ending):
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles) * spacing_mm
    affine[:3, 3] = [10, -20, 30]
    path = tmp_path / f"a{ending}"
    write_volume(path, counting_array(), Grid((3, 4, 5), affine))
    np.testing.assert_allclose(read_volume(path).grid.affine, affine, atol=1e-4)


@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 1), (0, 0), (4, 2)])
def test_nifti_output_repeats_affine_codes_and_units(tmp_path, codes):
    sform_code, qform_code = codes
    source = tmp_path / "source.nii.gz"
    save_nifti(
        source, counting_array(), PLI, sform_code=sform_code, qform_code=qform_code
    )
    stored = read_volume(source)
    output = tmp_path / "output.nii.gz"
    write_volume(output, np.ones((3, 4, 5), np.uint8), stored.grid, stored.header)
    before, after = nib.load(source), nib.load(output)
    np.testing.assert_array_equal(after.affine, before.affine)
    for name in ("sform_code", "qform_code", "xyzt_units"):
        assert after.header[name] == before.header[name]
    np.testing.assert_array_equal(after.header.get_qform(), before.header.get_qform())
    assert after.get_data_dtype() == np.uint8
    assert np.all(np.asarray(after.dataobj) == 1)


def test_nifti_output_on_another_grid_keeps_the_codes_and_takes_the_grid(tmp_path):
    save_nifti(tmp_path / "a.nii", counting_array(), PLI, sform_code=4, qform_code=0)
    header = read_volume(tmp_path / "a.nii").header
    cropped = PLI.copy()
    cropped[:3, 3] += 5
    write_volume(
        tmp_path / "b.nii", counting_array((2, 2, 2)), Grid((2, 2, 2), cropped), header
    )
    after = nib.load(tmp_path / "b.nii")
    np.testing.assert_allclose(after.affine, cropped)
    assert (after.header["sform_code"], after.header["qform_code"]) == (4, 0)


def test_output_carries_no_texts_of_the_input(tmp_path):
    image = nib.Nifti1Image(counting_array(), PLI)
    image.header["descrip"] = b"Jane Doe"
    image.header["cal_max"] = 100
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "a.nii")
    stored = read_volume(tmp_path / "a.nii")
    write_volume(tmp_path / "b.nii", stored.array, stored.grid, stored.header)
    assert b"Jane" in (tmp_path / "a.nii").read_bytes()
    assert b"Jane" not in (tmp_path / "b.nii").read_bytes()
    assert nib.load(tmp_path / "b.nii").header["cal_max"] == 0


def test_header_scaling_is_applied(tmp_path):
    image = nib.Nifti1Image(counting_array(), PLI)
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([2, -1024], "<f4").tobytes()
    raw[352:] = counting_array().tobytes(order="F")
    (tmp_path / "a.nii").write_bytes(raw)
    array = read_volume(tmp_path / "a.nii").array
    np.testing.assert_array_equal(array, counting_array() * 2.0 - 1024)
    assert array.dtype == np.float32


def test_big_endian_and_nifti2_files_are_read(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(counting_array(), PLI, header), tmp_path / "big.nii")
    nib.save(nib.Nifti2Image(counting_array(), PLI), tmp_path / "two.nii.gz")
    for name in ("big.nii", "two.nii.gz"):
        stored = read_volume(tmp_path / name)
        np.testing.assert_array_equal(stored.array, counting_array())
        assert stored.array.dtype.isnative
        np.testing.assert_array_equal(read_grid(tmp_path / name)[0].affine, PLI)


def test_a_gzipped_file_is_read_whatever_its_name_says(tmp_path):
    save_nifti(tmp_path / "a.nii", counting_array(), PLI)
    plain = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    (tmp_path / "zipped.nii").write_bytes(gzip.compress(plain))
    for name in ("plain.nii.gz", "zipped.nii"):
        np.testing.assert_array_equal(
            read_volume(tmp_path / name).array, counting_array()
        )
        assert read_grid(tmp_path / name)[0].shape == (3, 4, 5)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_channels_of_a_4d_file_are_told_apart(tmp_path, ending):
    array = counting_array((3, 4, 5, 2))
    path = tmp_path / f"a{ending}"
    if ending == ".nii.gz":
        save_nifti(path, array, PLI)
    else:
        vectors = np.ascontiguousarray(array.transpose(2, 1, 0, 3))
        sitk.WriteImage(sitk.GetImageFromArray(vectors, isVector=True), str(path))
    assert read_grid(path)[1] == 2
    np.testing.assert_array_equal(read_volume(path, 1).array, array[..., 1])
    with pytest.raises(CaseError, match="holds 2 channels where one was expected"):
        read_volume(path)
    with pytest.raises(CaseError, match="there is no channel 2"):
        read_volume(path, 2)


def test_neighbouring_channels_of_one_file_are_read_once(tmp_path, monkeypatch):
    from foveal.case import ChannelFile
    from foveal.io import nifti

    save_nifti(tmp_path / "a.nii", counting_array((3, 4, 5, 3)), PLI)
    reads, read_nifti = [], nifti.read_nifti
    monkeypatch.setattr(
        nifti, "read_nifti", lambda path: reads.append(path) or read_nifti(path)
    )
    channels = [ChannelFile(tmp_path / "a.nii", index) for index in (2, 0, 1)]
    firsts = [volume.array[0, 0, 0] for volume in read_channels(channels)]
    assert firsts == [2, 0, 1]
    assert len(reads) == 1


def test_a_picture_is_a_volume_of_one_slice(tmp_path):
    picture = counting_array((4, 5))
    nib.save(nib.Nifti1Image(picture, np.diag([2.0, 3, 1, 1])), tmp_path / "a.nii")
    sitk.WriteImage(sitk.GetImageFromArray(picture.T), str(tmp_path / "a.nrrd"))
    for name in ("a.nii", "a.nrrd"):
        stored = read_volume(tmp_path / name)
        assert stored.grid.shape == (4, 5, 1)
        np.testing.assert_array_equal(stored.array[..., 0], picture)


def noise():
    return np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_a_file_cut_short_is_named(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write_volume(path, noise(), Grid((16, 16, 16), PLI))
    data = tmp_path / "a.zraw" if ending == ".mhd" else path
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(CaseError, match=rf"a{ending} cannot be read .*copy or export"):
        read_volume(path)


def test_a_damaged_checksum_is_noticed(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_volume(path, noise(), Grid((16, 16, 16), PLI))
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 255
    path.write_bytes(raw)
    with pytest.raises(CaseError, match="cannot be read"):
        read_volume(path)


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_a_file_of_something_else_is_named(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"not an image at all")
    with pytest.raises(CaseError, match="cannot be read"):
        read_volume(path)
    with pytest.raises(CaseError, match="cannot be read"):
        read_grid(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(CaseError, match=r"a\.nii\.gz does not exist or is no file"):
        read_volume(tmp_path / "a.nii.gz")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(CaseError, match=r"folder\.nii does not exist or is no file"):
        read_grid(tmp_path / "folder.nii")


def test_unknown_endings_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CaseError, match=r"must be one of \.nii\.gz, \.nii"):
        read_volume(tmp_path / "a.txt")
    with pytest.raises(CaseError, match="must be one of"):
        write_volume(tmp_path / "b.bmp", counting_array(), Grid((3, 4, 5), PLI))
    assert volume_ending(tmp_path / "A.NII.GZ") == ".nii.gz"
    assert not is_volume(tmp_path / "._a.nii.gz")


def test_singular_and_sheared_grids_are_refused(tmp_path):
    flat, sheared = PLI.copy(), PLI.copy()
    flat[:, 2] = 0
    sheared[:3, 2] += 0.3 * sheared[:3, 1]
    for name, affine in (("flat.nii", flat), ("sheared.nii", sheared)):
        image = nib.Nifti1Image(counting_array(), None)
        image.header["sform_code"] = 1
        for row, values in zip("xyz", affine, strict=False):
            image.header[f"srow_{row}"] = values
        nib.save(image, tmp_path / name)
    with pytest.raises(CaseError, match=r"flat\.nii has a singular affine"):
        read_volume(tmp_path / "flat.nii")
    with pytest.raises(CaseError, match="not perpendicular"):
        read_grid(tmp_path / "sheared.nii")


def nifti_with(path, **entries):
    """A NIfTI file with entries of its header changed by hand."""
    save_nifti(path, counting_array(), PLI)
    raw = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in entries.items():
        header[name] = value
    raw[:348] = header.binaryblock
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"sform_code": 0, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, "voxels of 0 x 1 x 1"),
        (
            {"sform_code": 0, "qform_code": 0, "pixdim": [1, 2, 1, 0, 0, 0, 0, 0]},
            "voxels of 2 x 1 x 0 mm; export it again with spacing",
        ),
        ({"sform_code": 0, "pixdim": [1, np.nan, 1, 1, 0, 0, 0, 0]}, "singular affine"),
        ({"sform_code": 0, "quatern_b": np.nan}, "singular affine"),
        ({"srow_x": [np.inf, 0, 0, 0]}, "singular affine"),
        ({"srow_x": [0, 0, 0, 0]}, "singular affine"),
        ({"srow_x": [0, 1e30, 0, 0]}, "singular affine"),
        ({"dim": [3, 0, 4, 5, 1, 1, 1, 1]}, "no voxels"),
        ({"dim": [3, -3, 4, 5, 1, 1, 1, 1]}, "no voxels"),
        ({"dim": [5, 1, 2, 2, 3, 5, 1, 1]}, r"axes of \[1, 2, 2, 3, 5\] voxels"),
        ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "it holds 472 of 54000"),
        ({"datatype": 9999}, "cannot be read .*9999"),
        ({"magic": b"zzz"}, "cannot be read .*magic"),
    ],
)
def test_absurd_headers_are_refused(tmp_path, entries, match):
    with pytest.raises(CaseError, match=match):
        read_volume(nifti_with(tmp_path / "a.nii", **entries))


@pytest.mark.parametrize(
    ("ending", "right", "wrong", "match"),
    [
        (".nrrd", b"(1,0,0)", b"(0,0,0)", "singular affine"),
        (".nrrd", b"(1,0,0)", b"(nan,0,0)", r"cannot be read \(.*space vector"),
        (".nrrd", b"(0,1,0)", b"(0.5,1,0)", "not perpendicular"),
        (".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 0 1 1", "singular"),
    ],
)
def test_absurd_headers_of_itk_are_refused(tmp_path, ending, right, wrong, match):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(counting_array()), str(path))
    raw = path.read_bytes()
    assert right in raw
    path.write_bytes(raw.replace(right, wrong))
    with pytest.raises(CaseError, match=match):
        read_volume(path)


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_an_empty_file_is_named(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.touch()
    for read in (read_volume, read_grid):
        with pytest.raises(
            CaseError, match=rf"a{ending} cannot be read \(it is empty\)"
        ):
            read(path)


def test_gz_that_is_no_gz_is_named(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"\x1f\x8bhello, I was renamed")
    for read in (read_volume, read_grid):
        with pytest.raises(CaseError, match=r"a\.nii\.gz cannot be read .*copy or exp"):
            read(path)


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_long_names_in_any_language_are_read_and_written(tmp_path, ending):
    path = tmp_path / "Größe 肝臓" / f"{'é' * 90}{ending}"
    shape = (3, 4, 1)
    write_volume(path, counting_array(shape), Grid(shape, PLI))
    np.testing.assert_array_equal(read_volume(path).array, counting_array(shape))
    assert case_stem(path) == "é" * 90


def test_one_slice_is_a_volume(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_volume(path, counting_array((3, 4, 1)), Grid((3, 4, 1), PLI))
    stored = read_volume(path)
    assert stored.grid.shape == (3, 4, 1)
    assert stored.grid.spacing_mm == (2.0, 1.5, 2.5)


def test_colours_and_complex_numbers_are_refused(tmp_path):
    colours = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, PLI), tmp_path / "rgb.nii")
    with pytest.raises(CaseError, match="colours or complex"):
        read_volume(tmp_path / "rgb.nii")


@pytest.mark.parametrize(
    ("given_type", "written_type"),
    [(np.bool_, np.uint8), (np.float16, np.float32), (np.int64, np.int32)],
)
def test_number_types_are_written_so_that_viewers_read_them(
    tmp_path, given_type, written_type
):
    array = np.ones((3, 4, 5), given_type)
    write_volume(tmp_path / "a.nii", array, Grid((3, 4, 5), PLI))
    assert read_volume(tmp_path / "a.nii").array.dtype == written_type


def test_large_64_bit_values_are_not_cut(tmp_path):
    array = np.full((1, 1, 1), 2**40)
    write_volume(tmp_path / "a.nii", array, Grid((1, 1, 1), PLI))
    assert read_volume(tmp_path / "a.nii").array[0, 0, 0] == 2**40


def test_an_array_on_another_grid_is_refused(tmp_path):
    with pytest.raises(ValueError, match="but its grid is"):
        write_volume(tmp_path / "a.nii", counting_array(), Grid((3, 4, 6), PLI))
