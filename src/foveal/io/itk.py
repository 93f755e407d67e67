"""nrrd, mha and mhd files through SimpleITK.

ITK's world axes are LPS+ millimetres; they are turned to RAS+ on reading and back on
writing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as its own documentation writes it
from numpy.typing import NDArray

from foveal.errors import CaseError
from foveal.geometry import Grid

READ_ERRORS = (RuntimeError, OSError)
"""What reading a damaged file raises."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_itk(path: Path) -> tuple[NDArray[Any], Grid]:
    """Read a file's values and grid.

    Returns:
        Values ``(i, j, k, channel)`` in stored order, in the file's number type.

    Raises:
        CaseError: The file holds complex numbers or more than four axes.
        Exception: One of `READ_ERRORS` for a damaged file.
    """
    header = _header(path)
    grid, num_channels = _grid(path, header)
    array = sitk.GetArrayFromImage(header.Execute())
    if header.GetNumberOfComponents() > 1:
        array = np.moveaxis(array, -1, 0)
    # ITK's arrays run k, j, i; their transpose runs i, j, k without a copy.
    return array.T.reshape(*grid.shape, num_channels, order="F"), grid


def read_itk_grid(path: Path) -> tuple[Grid, int]:
    """Read the grid and the number of channels from the header alone."""
    return _grid(path, _header(path))


def read_itk_entries(path: Path) -> dict[str, str]:
    """Read what a file's header says beyond its grid, name to text."""
    header = _header(path)
    return {name: header.GetMetaData(name) for name in header.GetMetaDataKeys()}


def resample_linear(
    array: NDArray[Any], grid: Grid, target: Grid, *, outside: float
) -> NDArray[np.float32]:
    """Interpolate a volume at the voxels of another grid.

    Args:
        array: ``(i, j, k)``, finite. It is not smoothed before, so fine detail may
            alias where ``target`` is coarser.
        grid: Of ``array``.
        target: Grid of the result.
        outside: Value where the voxels of ``array`` do not reach.
    """
    resampled = sitk.Resample(
        _image(array.astype(np.float32), grid),
        _image(np.zeros(target.shape, np.uint8), target),
        sitk.Transform(),
        sitk.sitkLinear,
        outside,
        sitk.sitkFloat32,
    )
    return sitk.GetArrayFromImage(resampled).T


def write_itk(path: Path, array: NDArray[Any], grid: Grid) -> None:
    """Write a volume ``(i, j, k)``, compressed; the format follows the ending."""
    sitk.WriteImage(_image(array, grid), str(path), useCompression=True)


def _image(array: NDArray[Any], grid: Grid) -> sitk.Image:
    """ITK's form of a volume ``(i, j, k)``."""
    affine = LPS_TO_RAS @ grid.affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / grid.spacing_mm).ravel().tolist())
    return image


def _header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _grid(path: Path, header: sitk.ImageFileReader) -> tuple[Grid, int]:
    """Grid and number of channels; a 2D picture is one slice thick."""
    dimensions = header.GetDimension()
    components = header.GetNumberOfComponents()
    if dimensions > 4 or (dimensions == 4 and components > 1):
        raise CaseError(
            f"{path} has {dimensions} axes of {components} numbers; "
            "at most one axis may follow i, j, k"
        )
    if "complex" in sitk.GetPixelIDValueAsString(header.GetPixelID()):
        raise CaseError(f"{path} holds complex numbers; export one number per voxel")
    size = [*header.GetSize(), 1][:4]
    i, j, k = size[:3]
    num_channels = size[3] if dimensions == 4 else components
    affine = _affine(header.GetSpacing(), header.GetOrigin(), header.GetDirection())
    return Grid((i, j, k), LPS_TO_RAS @ affine), num_channels


def _affine(
    spacing_mm: Sequence[float], origin_mm: Sequence[float], direction: Sequence[float]
) -> NDArray[np.float64]:
    """4 x 4, voxel index to LPS+ millimetres, from a header of two to four axes."""
    axes = len(spacing_mm)
    shared = min(axes, 3)
    affine = np.eye(4)
    matrix = np.reshape(direction, (axes, axes)) * spacing_mm
    affine[:shared, :shared] = matrix[:shared, :shared]
    affine[:shared, 3] = origin_mm[:shared]
    return affine
