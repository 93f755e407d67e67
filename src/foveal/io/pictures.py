"""Pictures: PNG through Pillow, TIFF through tifffile, as volumes of pixels.

A picture is a volume of one slice; a TIFF of several pages is a volume of as many
slices. Array axes are i to the right, j downwards, k from page to page. Pixels have no
place in a patient and no size: the grid counts pixels, one unit each, along LPS axes,
as ITK does with 2D files; TIFF's resolution tags are left unread, since for most files
they say how large to print.
"""

import logging
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from foveal.errors import CaseError
from foveal.geometry import Grid

PNG_ENDING = ".png"
TIFF_ENDINGS = (".tif", ".tiff")
PICTURE_ENDINGS = (PNG_ENDING, *TIFF_ENDINGS)

LOSSY_ENDINGS = (".jpg", ".jpeg")
WHY_NOT_LOSSY = (
    "JPEG changes the pixels, which masks do not survive and images only in part; "
    "save the original as PNG or TIFF, or convert what there is if the loss is known"
)

ORIENTATION = "LPS"
"""Of every picture, so that a slice shown as radiologists do is shown as it is."""

COLOURS = ("red", "green", "blue")

READ_ERRORS = (
    *(OSError, SyntaxError, ValueError, IndexError, KeyError, EOFError, TypeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow and tifffile raise for damaged files."""

# What it complains of is either raised too or of no weight, such as a damaged date.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_PNG_DEPTH_AND_COLOUR = slice(24, 26)
"""Bytes of a PNG's header; Pillow does not tell 16 bits per colour from 8."""

_GREY = 0
"""Kind of colour in a PNG's header."""

_SCALED_BY = {2: 85, 4: 17}
"""Bits of a PNG's grey values to what Pillow multiplies them by, so that the largest is
255."""

_PIXEL_AXES = "YX"
_CHANNEL_AXES = "SC"


@dataclass(frozen=True)
class PictureHeader:
    """What is to be known of a picture beyond its pixels."""

    has_palette: bool
    """The pixels are numbers of colours, as in many label maps, and no intensities."""


def is_picture(path: Path) -> bool:
    """Whether the name ends like a picture."""
    return path.name.lower().endswith(PICTURE_ENDINGS)


def is_lossy_picture(path: Path) -> bool:
    """Whether the name ends like a JPEG."""
    return path.suffix.lower() in LOSSY_ENDINGS


def read_picture(path: Path) -> tuple[NDArray[Any], Grid, PictureHeader]:
    """Read a picture.

    A channel for opacity is dropped where everything is opaque.

    Returns:
        Values ``(i, j, k, channel)`` in the file's number type, grid and header.

    Raises:
        CaseError: The file holds something that has no plain pixels.
        Exception: One of `READ_ERRORS` for a damaged file.
    """
    if path.name.lower().endswith(PNG_ENDING):
        array, has_palette = _png_pixels(path)
    else:
        array, has_palette = _tiff_pixels(path)
    return array, _grid(array.shape[:3]), PictureHeader(has_palette)


def read_picture_grid(path: Path) -> tuple[Grid, int]:
    """Read the grid and the number of channels from the header alone.

    Three channels may turn out to be a grey picture, see `without_colours`.
    """
    if path.name.lower().endswith(PNG_ENDING):
        with Image.open(path, formats=["PNG"]) as picture:
            bands = [band for band in picture.getbands() if band != "A"]
            return _grid((*picture.size, 1)), len(bands)
    with tifffile.TiffFile(path) as file:
        layout = _tiff_layout(path, file)
        return _grid(layout.shape), layout.num_channels


def without_colours(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """One channel of a picture whose channels are all equal.

    Args:
        path: For messages.
        array: ``(i, j, k, channel)``.

    Raises:
        CaseError: The channels differ.
    """
    if not is_grey(array):
        raise CaseError(
            f"{path} is in colour ({array.shape[3]} channels that differ) where a grey "
            "picture is expected; a data set is in colour only if all of its images "
            "have three channels: convert the ones or the others"
        )
    return array[..., :1]


def is_grey(array: NDArray[Any]) -> bool:
    """Whether all channels ``(i, j, k, channel)`` are equal."""
    return all(
        np.array_equal(array[..., 0], array[..., channel])
        for channel in range(1, array.shape[3])
    )


def write_picture(path: Path, array: NDArray[Any]) -> None:
    """Write a volume ``(i, j, k)`` without loss; the format follows the ending.

    Raises:
        CaseError: The format cannot hold the values.
    """
    if path.name.lower().endswith(PNG_ENDING):
        if array.shape[2] != 1:
            raise CaseError(
                f"{path} would hold {array.shape[2]} slices, but a PNG holds one; "
                "write a TIFF (.tif) or a volume"
            )
        Image.fromarray(np.ascontiguousarray(_whole(path, array)[..., 0].T)).save(path)
        return
    if array.dtype.kind in "iu":
        array = _whole(path, array)
    pages = np.ascontiguousarray(array.T)
    tifffile.imwrite(
        path,
        pages if len(pages) > 1 else pages[0],
        photometric="minisblack",
        compression="zlib",
        metadata=None,
        software=False,
    )


def _whole(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """The values in the smallest unsigned type that PNG knows."""
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if array.dtype.kind not in "iub" or low < 0 or high > np.iinfo(np.uint16).max:
        raise CaseError(
            f"{path} cannot hold {array.dtype} values from {low:g} to {high:g}: "
            "pictures of whole numbers go from 0 to 65535; write .nii.gz or .nrrd"
        )
    return array.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)


def _grid(shape: tuple[int, ...]) -> Grid:
    i, j, k = shape
    return Grid((i, j, k), np.diag([-1.0, -1.0, 1.0, 1.0]))


# ------------------------------------------------------------------------------- PNG


def _png_pixels(path: Path) -> tuple[NDArray[Any], bool]:
    with path.open("rb") as file:
        depth, colour = file.read(_PNG_DEPTH_AND_COLOUR.stop)[_PNG_DEPTH_AND_COLOUR]
    if depth == 16 and colour != _GREY:
        raise CaseError(
            f"{path} has 16 bits per colour, of which the PNG reader gives 8; "
            "save it as TIFF"
        )
    with Image.open(path, formats=["PNG"]) as picture:
        pixels, mode = np.asarray(picture), picture.mode
    if mode not in ("1", "L", "LA", "P", "I;16", "I", "RGB", "RGBA"):
        raise CaseError(f"{path} has pixels of the kind {mode}; save it as grey or RGB")
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    if colour == _GREY and depth in _SCALED_BY:
        # Labels are what is written in the file.
        pixels = pixels // _SCALED_BY[depth]
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if mode.endswith("A"):
        pixels = _opaque(path, pixels)
    return pixels.transpose(1, 0, 2)[:, :, None], mode == "P"


def _opaque(path: Path, pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels ``(…, channel)`` without the last channel, their opacity."""
    opacity = pixels[..., -1]
    full = np.iinfo(opacity.dtype).max if opacity.dtype.kind in "iu" else 1
    if (opacity != full).any():
        raise CaseError(
            f"{path} is transparent in {int((opacity != full).sum())} pixels, so its "
            "values there depend on what lies behind; save it without transparency"
        )
    return pixels[..., :-1]


# ------------------------------------------------------------------------------ TIFF


@dataclass(frozen=True)
class _TiffLayout:
    """Which axis of a TIFF is which."""

    axes: str
    """Letters of tifffile, axes of one element left out, Y and X kept."""

    shape: tuple[int, int, int]
    """Along i, j, k."""

    num_channels: int
    """Without opacity."""

    has_opacity: bool


def _tiff_pixels(path: Path) -> tuple[NDArray[Any], bool]:
    with tifffile.TiffFile(path) as file:
        layout = _tiff_layout(path, file)
        series, page = file.series[0], file.series[0].keyframe
        if page.compression == tifffile.COMPRESSION.LZW:
            # tifffile would need all of imagecodecs for it.
            stored = _pages_through_pillow(path, series)
        else:
            try:
                stored = series.asarray()
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                raise _unknown_compression(path, page) from error
        is_inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        has_palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE
    stored = stored.reshape(
        [
            length
            for letter, length in zip(series.axes, series.shape, strict=True)
            if letter in layout.axes
        ]
    )
    if stored.dtype == np.bool_:
        stored = (stored != is_inverted).astype(np.uint8)
    elif is_inverted and stored.dtype.kind == "u":
        stored = np.iinfo(stored.dtype).max - stored
    if stored.dtype.kind not in "iuf":
        raise CaseError(f"{path} holds {stored.dtype} values; save real numbers")
    slices = [letter for letter in layout.axes if letter not in "YXSC"]
    channels = [letter for letter in layout.axes if letter in _CHANNEL_AXES]
    order = [layout.axes.index(letter) for letter in ("X", "Y", *slices, *channels)]
    pixels = stored.transpose(order)
    if not slices:
        pixels = pixels[:, :, None]
    if not channels:
        pixels = pixels[..., None]
    return (_opaque(path, pixels) if layout.has_opacity else pixels), has_palette


def _pages_through_pillow(path: Path, series: tifffile.TiffPageSeries) -> NDArray[Any]:
    with Image.open(path, formats=["TIFF"]) as picture:
        pages = np.stack([np.asarray(page) for page in ImageSequence.Iterator(picture)])
    is_plain = series.keyframe.photometric != tifffile.PHOTOMETRIC.MINISWHITE
    if pages.dtype != series.dtype or pages.size != series.size or not is_plain:
        raise _unknown_compression(path, series.keyframe)
    return pages


def _unknown_compression(path: Path, page: tifffile.TiffPage) -> CaseError:
    method = tifffile.COMPRESSION(page.compression).name
    return CaseError(
        f"{path} is compressed by a method ({method}) that is not read for its kind of "
        "pixels; save it with Deflate (zip) or without compression"
    )


def _tiff_layout(path: Path, file: tifffile.TiffFile) -> _TiffLayout:
    if len(file.series) != 1:
        raise CaseError(
            f"{path} holds {len(file.series)} pictures of different sizes or kinds; "
            "save each to a file of its own"
        )
    series = file.series[0]
    page = series.keyframe
    kinds = tifffile.PHOTOMETRIC
    plain = (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB, kinds.PALETTE)
    if page.photometric not in plain:
        raise CaseError(
            f"{path} has pixels of the kind {kinds(page.photometric).name}; save it as "
            "grey or RGB, without JPEG compression"
        )
    lengths = dict(zip(series.axes, series.shape, strict=True))
    axes = "".join(
        letter for letter in series.axes if letter in _PIXEL_AXES or lengths[letter] > 1
    )
    channels = [letter for letter in axes if letter in _CHANNEL_AXES]
    slices = [letter for letter in axes if letter not in "YXSC"]
    if len(set(axes)) < len(axes) or len(channels) > 1 or len(slices) > 1:
        raise CaseError(
            f"{path} has the axes {series.axes} of lengths {series.shape}; at most one "
            "axis of slices and one of channels may go with its pixels: split it"
        )
    num_channels = lengths[channels[0]] if channels else 1
    opacity = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}
    has_opacity = num_channels > 1 and bool(opacity & set(page.extrasamples))
    return _TiffLayout(
        axes=axes,
        shape=(lengths["X"], lengths["Y"], lengths[slices[0]] if slices else 1),
        num_channels=num_channels - has_opacity,
        has_opacity=has_opacity,
    )
