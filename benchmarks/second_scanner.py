"""What a scan would look like from another scanner: made up, the same every time.

Not a benchmark by itself.
"""

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveal.io.files import atomic_path

BLUR_VOXELS = 0.6
"""Standard deviation."""

BIAS = 0.25
"""Largest logarithm of the factor, about."""

NOISE = 0.04
"""Standard deviation of both parts of a voxel's complex value, of the range."""


def write_second_scan(source: Path, path: Path, *, curve: float, seed: int) -> Path:
    """Write a scan as the second scanner sees it, unless it is there.

    Args:
        source: NIfTI of one channel.
        path: To be written, by its name for this source, ``curve`` and seed.
        curve: See `seen_by_second_scanner`.
        seed: Together with the name of the source it decides all draws.
    """
    if path.exists():
        return path
    scan = nib.load(source)
    words = f"{seed} {source.name}".encode()
    number = int.from_bytes(hashlib.sha256(words).digest()[:8], "big")
    changed = seen_by_second_scanner(
        np.asarray(scan.dataobj, np.float64),  # type: ignore[attr-defined]
        np.random.default_rng(number),
        curve=curve,
    )
    with atomic_path(path) as temporary:
        nib.save(nib.Nifti1Image(changed, scan.affine), temporary)  # type: ignore[attr-defined]
    return path


def seen_by_second_scanner(
    image: NDArray[np.float64], generator: np.random.Generator, *, curve: float
) -> NDArray[np.float32]:
    """Other contrast, less sharp, a bias field and Rician noise.

    Normalisation takes away what is linear, and augmentation trains against mild
    gammas, so the contrast is not even monotone: of the range between percentiles 1
    and 99, ``(1 - curve) * x + curve * 4x(1 - x)``, as fluid is dark in T1 and in
    FLAIR, but white matter is bright in one only.

    Args:
        image: `(i, j, k)`.
        generator: Of field and noise.
        curve: Share of the parabola, in [0, 1].

    Returns:
        About 0 to 1000.
    """
    low, high = np.percentile(image, (1, 99))
    x = np.clip((image - low) / (high - low), 0, 1)
    seen = (1 - curve) * x + curve * 4 * x * (1 - x)
    seen = ndimage.gaussian_filter(seen, BLUR_VOXELS)
    seen *= np.exp(bias_field(image.shape, generator))
    real, imaginary = generator.normal(0, NOISE, (2, *image.shape))
    return (1000 * np.hypot(seen + real, imaginary)).astype(np.float32)


def bias_field(
    shape: tuple[int, ...], generator: np.random.Generator
) -> NDArray[np.float64]:
    """A polynomial of degree 2 over the volume, within about ``BIAS`` of 0."""
    field = np.zeros(shape)
    axes = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    for first, axis in enumerate(axes):
        field += generator.uniform(-1, 1) * axis
        for other in axes[first:]:
            field += generator.uniform(-1, 1) * axis * other
    return BIAS * field / np.abs(field).max()
