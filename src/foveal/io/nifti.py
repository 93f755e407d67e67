"""NIfTI-1 and NIfTI-2 files, compressed or not.

World axes are RAS+ millimetres, as in `geometry`. The whole file is read and its
checksum verified, so a damaged ``.nii.gz`` never passes for an image.
"""

import gzip
import logging
import math
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from foveal.errors import CaseError
from foveal.geometry import Grid

# nibabel tells standard error of damaged headers as well; here they become errors that
# name the file.
nib.imageglobals.logger.setLevel(logging.CRITICAL)

READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)
"""What reading a damaged file raises."""

GZIP_START = b"\x1f\x8b"
NIFTI2_HEADER_BYTES = 540

AFFINE_TOLERANCE_MM = 1e-6
"""A grid this close to a header's own affine leaves the header's codes untouched."""


def read_nifti(path: Path) -> tuple[NDArray[Any], Grid, nib.Nifti1Header]:
    """Read a file's values, grid and header.

    Returns:
        Values ``(i, j, k, channel)`` in stored order, in the file's own number type
        unless the header scales them.

    Raises:
        CaseError: The file holds colours or complex numbers, or more than four axes.
        Exception: One of `READ_ERRORS` for a damaged file.
    """
    content = path.read_bytes()
    if content.startswith(GZIP_START):
        content = gzip.decompress(content)
    kind = nib.Nifti2Image if _is_nifti2(content[:4]) else nib.Nifti1Image
    image = kind.from_bytes(content)
    grid, num_channels = _grid(path, image.header)
    _require_all_bytes(len(content), image.header)
    array = _values(image).reshape(*grid.shape, num_channels, order="F")
    return array, grid, image.header


def read_nifti_grid(path: Path) -> tuple[Grid, int]:
    """Read the grid and the number of channels from the header alone."""
    with path.open("rb") as file:
        is_compressed = file.read(2) == GZIP_START
        file.seek(0)
        stream = BufferedReader(gzip.GzipFile(fileobj=file)) if is_compressed else file
        is_nifti2 = _is_nifti2(stream.peek(4)[:4])
        kind: Any = nib.Nifti2Header if is_nifti2 else nib.Nifti1Header
        # Without extensions, which nibabel looks for even in a file of something else.
        header = kind(stream.read(kind.template_dtype.itemsize), check=False)
    _require_spacing(path, header)
    # nibabel mends small faults of a header, and raises for others.
    return _grid(path, kind(header.binaryblock))


def write_nifti(
    path: Path, array: NDArray[Any], grid: Grid, header: nib.Nifti1Header | None
) -> None:
    """Write a volume ``(i, j, k)``, repeating the codes and units of ``header``.

    What describes the other file's intensities or its patient (display range, intent,
    description, extensions) is not repeated.
    """
    if header is None:
        header = nib.Nifti1Header()
        header.set_xyzt_units("mm")
        header.set_sform(grid.affine, code="scanner")
        header.set_qform(grid.affine, code="scanner")
    else:
        header = _header_for(grid, header)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    is_nifti2 = isinstance(header, nib.Nifti2Header)
    kind: Any = nib.Nifti2Image if is_nifti2 else nib.Nifti1Image
    # Without an affine of its own the image takes the header's, codes included.
    nib.save(kind(array, None, header, dtype=array.dtype), path)


def _header_for(grid: Grid, header: nib.Nifti1Header) -> nib.Nifti1Header:
    """Copy of a header with its codes, for a volume on ``grid``."""
    copy = header.copy()
    copy.extensions.clear()
    for field in (
        "cal_min",
        "cal_max",
        "intent_code",
        "descrip",
        "aux_file",
        "db_name",
    ):
        if field in copy:
            copy[field] = np.zeros_like(copy[field])
    copy["intent_name"] = b""
    if np.allclose(
        header.get_best_affine(), grid.affine, rtol=0, atol=AFFINE_TOLERANCE_MM
    ):
        return copy
    codes = int(header["sform_code"]), int(header["qform_code"])
    sform_code, qform_code = codes if any(codes) else (2, 0)
    copy.set_sform(grid.affine, code=sform_code)
    copy.set_qform(grid.affine, code=qform_code)
    return copy


def _values(image: nib.Nifti1Image) -> NDArray[Any]:
    """All values, scaled only where the header says so, in native byte order."""
    stored: Any = image.dataobj
    is_scaled = (stored.slope, stored.inter) != (1.0, 0.0)
    # float32 is enough for intensities, and half of what nibabel would take.
    array = (
        np.asanyarray(stored, dtype=np.float32) if is_scaled else stored.get_unscaled()
    )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _grid(path: Path, header: nib.Nifti1Header) -> tuple[Grid, int]:
    """Grid and number of channels; a 2D picture is one slice thick."""
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise CaseError(
            f"{path} holds colours or complex numbers ({dtype}); "
            "export one number per voxel"
        )
    lengths = [int(length) for length in header.get_data_shape()]
    i, j, k = [*lengths, 1, 1, 1][:3]
    more = [length for length in lengths[3:] if length != 1]
    if len(more) > 1:
        raise CaseError(
            f"{path} has axes of {lengths} voxels; at most one axis may follow i, j, k"
        )
    return Grid((i, j, k), header.get_best_affine()), more[0] if more else 1


def _require_spacing(path: Path, header: nib.Nifti1Header) -> None:
    """Refuse lengths of 0 mm, which nibabel would silently take for 1."""
    axes = min(int(header["dim"][0]), 3)
    lengths, spacing_mm = header["dim"][1 : axes + 1], header["pixdim"][1 : axes + 1]
    if int(header["sform_code"]) == 0 and ((lengths > 1) & (spacing_mm == 0)).any():
        raise CaseError(
            f"{path} has voxels of {' x '.join(f'{mm:g}' for mm in spacing_mm)} mm; "
            "export it again with spacing and orientation"
        )


def _require_all_bytes(num_bytes: int, header: nib.Nifti1Header) -> None:
    """Refuse a file that is shorter than its header says, before memory is taken."""
    num_voxels = math.prod(int(length) for length in header.get_data_shape())
    wanted = int(header.get_data_offset()) + (
        num_voxels * header.get_data_dtype().itemsize
    )
    if num_bytes < wanted:
        raise EOFError(f"it holds {num_bytes} of {wanted} bytes")


def _is_nifti2(start: bytes) -> bool:
    sizes = (int.from_bytes(start, "little"), int.from_bytes(start, "big"))
    return NIFTI2_HEADER_BYTES in sizes
