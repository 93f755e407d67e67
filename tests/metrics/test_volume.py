import numpy as np
import pytest

from foveal.geometry import Grid
from foveal.metrics.volume import volume_ml


def test_volume_counts_voxels_in_millilitres():
    grid = Grid((10, 10, 10), np.diag([-0.5, 2.0, 4.0, 1.0]))
    mask = np.zeros((10, 10, 10), dtype=bool)
    mask[:5, :5, :2] = True
    assert volume_ml(mask, grid) == pytest.approx(50 * 4.0 / 1000)
    assert volume_ml(np.zeros_like(mask), grid) == 0
