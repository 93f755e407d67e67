import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from PIL import Image

from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.io.cases import read_case
from foveal.io.volumes import is_volume, only_volumes, read_grid, read_volume
from foveal.io.volumes import write_volume as write

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
"""Three rows of four pixels: 0 to 3 in the first row."""


def png(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def tiff(path, pixels, **options):
    tifffile.imwrite(path, pixels, **options)
    return path


def in_colour(pixels=GREY):
    return np.stack([pixels, pixels + 1, pixels + 2], axis=-1)


# ------------------------------------------------------------------------- reading


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_axes_run_to_the_right_and_down_and_pixels_are_units(tmp_path, ending, dtype):
    path = tmp_path / f"a{ending}"
    pixels = GREY.astype(dtype)
    png(path, pixels) if ending == ".png" else tiff(path, pixels)
    volume = read_volume(path)
    assert volume.array.dtype == dtype
    assert volume.array.shape == volume.grid.shape == (4, 3, 1)
    assert volume.array[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert volume.array[0, :, 0].tolist() == [0, 4, 8]
    assert volume.grid.spacing_mm == (1.0, 1.0, 1.0)


def test_a_picture_lies_where_itk_puts_a_file_of_two_axes(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(GREY), str(tmp_path / "a.nrrd"))
    ours, theirs = read_volume(png(tmp_path / "b.png", GREY)), tmp_path / "a.nrrd"
    np.testing.assert_array_equal(ours.array, read_volume(theirs).array)
    np.testing.assert_array_equal(ours.grid.affine, read_volume(theirs).grid.affine)


def test_colours_are_three_channels_and_equal_ones_are_one(tmp_path):
    path = png(tmp_path / "a.png", in_colour())
    assert read_grid(path)[1] == 3
    assert read_case(path).image[:, 1, 0, 0].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(CaseError, match=r"a\.png is in colour \(3 channels"):
        read_volume(path)
    grey = png(tmp_path / "b.png", np.stack([GREY] * 3, axis=-1))
    np.testing.assert_array_equal(read_volume(grey).array[..., 0], GREY.T)
    assert read_case(grey).image.shape == (1, 4, 3, 1)


def test_opacity_is_dropped_where_all_is_opaque_and_refused_elsewhere(tmp_path):
    opaque = np.full_like(GREY, 255)
    path = png(tmp_path / "a.png", np.dstack([in_colour(), opaque]))
    assert read_grid(path)[1] == 3
    assert read_case(path).image.shape == (3, 4, 3, 1)
    opaque[0, 0] = 254
    see_through = png(tmp_path / "b.png", np.dstack([in_colour(), opaque]))
    with pytest.raises(CaseError, match=r"b\.png is transparent in 1 pixels"):
        read_case(see_through)


def test_a_palette_makes_a_label_map_but_no_image(tmp_path):
    numbered = Image.fromarray(GREY).copy()
    numbered = Image.frombytes("P", (4, 3), GREY.tobytes())
    numbered.putpalette([n for n in range(256) for _ in range(3)][::-1])
    numbered.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array[..., 0], GREY.T)
    with pytest.raises(CaseError, match="case a: the image has a palette"):
        read_case(tmp_path / "a.png")


def test_one_bit_is_0_and_1(tmp_path):
    path = png(tmp_path / "a.png", GREY > 5)
    np.testing.assert_array_equal(read_volume(path).array[..., 0], (GREY > 5).T)
    assert read_volume(path).array.dtype == np.uint8


def written_png(path, *, depth, colour, size, rows):
    """A PNG byte by byte; each of the rows begins with its filter, 0."""

    def chunk(name, data):
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(
    ("depth", "row", "values"),
    [(2, "00011011", [0, 1, 2, 3]), (4, "0000000111101111", [0, 1, 14, 15])],
)
def test_grey_of_few_bits_is_what_the_file_holds(tmp_path, depth, row, values):
    rows = bytes([0, *int(row, 2).to_bytes(len(row) // 8, "big")])
    path = tmp_path / "a.png"
    written_png(path, depth=depth, colour=0, size=(4, 1), rows=rows)
    assert read_volume(path).array[:, 0, 0].tolist() == values


def test_16_bits_per_colour_are_refused_as_half_would_be_lost(tmp_path):
    path = tmp_path / "a.png"
    written_png(path, depth=16, colour=2, size=(1, 1), rows=bytes(7))
    with pytest.raises(CaseError, match=r"16 bits per colour.*save it as TIFF"):
        read_volume(path)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff_is_read(tmp_path, compression):
    Image.fromarray(GREY).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array[..., 0], GREY.T)


def test_pages_of_a_tiff_are_slices(tmp_path):
    pages = np.arange(60, dtype=np.uint16).reshape(5, 3, 4)
    path = tiff(tmp_path / "a.tif", pages, photometric="minisblack")
    assert read_grid(path)[0].shape == (4, 3, 5)
    np.testing.assert_array_equal(read_volume(path).array, pages.T)
    coloured = np.stack([pages.astype(np.uint8)] * 2 + [pages.astype(np.uint8) + 1], -1)
    path = tiff(tmp_path / "b.tif", coloured, photometric="rgb")
    image = read_case(path).image
    np.testing.assert_array_equal(image[2], coloured[..., 2].T)


def test_axes_and_kinds_of_tiff_that_no_volume_has_are_refused(tmp_path):
    films = np.zeros((2, 5, 3, 4), np.uint16)
    path = tiff(tmp_path / "a.tif", films, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(CaseError, match="at most one axis of slices"):
        read_volume(path)
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(GREY)
        file.write(GREY[:2])
    with pytest.raises(CaseError, match="2 pictures of different sizes"):
        read_volume(tmp_path / "b.tif")


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_picture_that_was_cut_short_is_refused(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)
    path = tmp_path / f"a{ending}"
    png(path, noise) if ending == ".png" else tiff(path, noise, compression="zlib")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(CaseError, match="damaged or cut short"):
        read_volume(path)


def test_jpeg_is_refused_with_the_reason(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    with pytest.raises(CaseError, match="JPEG changes the pixels"):
        read_volume(tmp_path / "a.jpg")
    assert not is_volume(tmp_path / "a.jpg")


def test_pictures_beside_scans_are_previews(tmp_path):
    scan, preview = tmp_path / "a.nii.gz", tmp_path / "a.png"
    assert only_volumes([preview, scan]) == [scan]
    assert only_volumes([preview]) == [preview]


# ------------------------------------------------------------------------- writing


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("highest", [1, 255, 256, 65535])
def test_what_is_written_comes_back(tmp_path, ending, highest):
    grid = read_volume(png(tmp_path / "a.png", GREY)).grid
    array = (GREY.T[..., None] > 4).astype(np.int32) * highest
    write(tmp_path / f"b{ending}", array, grid)
    stored = read_volume(tmp_path / f"b{ending}")
    np.testing.assert_array_equal(stored.array, array)
    assert stored.array.dtype == (np.uint8 if highest < 256 else np.uint16)
    np.testing.assert_array_equal(stored.grid.affine, grid.affine)


@pytest.mark.parametrize("length", [2, 3, 4])
def test_slices_are_written_as_pages_and_never_as_colours(tmp_path, length):
    array = np.arange(12 * length, dtype=np.float32).reshape(4, 3, length)
    write(tmp_path / "a.tif", array, Grid(array.shape, np.eye(4)))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, array)
    with pytest.raises(CaseError, match=f"{length} slices, but a PNG holds one"):
        write(tmp_path / "a.png", array > 3, Grid(array.shape, np.eye(4)))


@pytest.mark.parametrize("value", [-1, 65536, 0.5])
def test_values_that_a_png_cannot_hold_are_refused(tmp_path, value):
    array = np.full((4, 3, 1), value)
    with pytest.raises(CaseError, match="from 0 to 65535"):
        write(tmp_path / "a.png", array, Grid(array.shape, np.eye(4)))
    assert list(tmp_path.iterdir()) == []
