"""The liver pair of the CHAOS challenge, measured by the challenge's own program."""

import numpy as np
import pytest
import SimpleITK
from conftest import data_folder
from PIL import Image

from foveal.geometry import Grid
from foveal.metrics.evaluation import measure

NUM_SLICES = 78


def stack(folder):
    """Masks of a folder of PNG slices, in order of name, as ``(i, j, k)``."""
    slices = [np.asarray(Image.open(path)) > 0 for path in sorted(folder.glob("*.png"))]
    return np.stack(slices, axis=2)


def spacing_mm(folder):
    """Rows, columns, and the distance of the slices by their positions."""
    paths = sorted(folder.glob("*.dcm"))
    reader = SimpleITK.ImageFileReader()
    positions_mm = []
    for path in paths:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        positions_mm.append(reader.GetOrigin())
    # The thickness that the headers name (3.2 mm) is not the distance.
    steps_mm = np.linalg.norm(np.diff(positions_mm, axis=0), axis=1)
    np.testing.assert_allclose(steps_mm, steps_mm[0], rtol=1e-4)
    columns_mm, rows_mm = reader.GetSpacing()[:2]
    return rows_mm, columns_mm, float(steps_mm[0])


@pytest.fixture(scope="module")
def liver():
    folder = data_folder("liver_ct_dicom")
    reference, prediction = stack(folder / "Ground"), stack(folder / "Segmentation")
    assert reference.shape == prediction.shape == (512, 512, NUM_SLICES)
    spacing = spacing_mm(folder / "DICOM_anon")
    assert spacing[2] == pytest.approx(2.0)
    grid = Grid(reference.shape, np.diag([*spacing, 1.0]))
    return measure(prediction, reference, grid)


def test_overlap_of_the_liver_pair_is_that_of_the_challenge(liver):
    assert liver["dice"] == pytest.approx(0.978, abs=5e-4)


def test_surface_distances_of_the_liver_pair_are_those_of_the_challenge(liver):
    assert liver["assd_mm"] == pytest.approx(0.734, abs=5e-4)
    assert liver["hd_mm"] == pytest.approx(14.0, abs=5e-2)


def test_volume_difference_of_the_liver_pair_is_that_of_the_challenge(liver):
    reference_ml = liver["reference_volume_ml"]
    difference = abs(liver["prediction_volume_ml"] - reference_ml) / reference_ml
    assert 100 * difference == pytest.approx(0.665, abs=5e-4)
