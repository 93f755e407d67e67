"""How large a structure is."""

from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from foveal.geometry import Grid

DEFINITIONS = {
    "prediction_volume_ml": "voxels of the prediction times the volume of a voxel",
    "reference_volume_ml": "voxels of the reference times the volume of a voxel",
    "prediction_voxels": "voxels of the prediction",
    "reference_voxels": "voxels of the reference",
}
"""Metric to what it means, in a line."""


def volume_ml(mask: Bool[NDArray[Any], "i j k"], grid: Grid) -> float:
    """Volume of a mask that lies on ``grid``; 0 if it is empty."""
    return int(np.count_nonzero(mask)) * grid.voxel_volume_ml
