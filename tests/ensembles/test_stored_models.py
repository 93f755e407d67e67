"""Models that users keep go on predicting: one stored file of every format version.

To add the next version, raise `FORMAT_VERSION`, keep reading the ones before, and run
`python tests/models/make_model.py`, which adds ``format_<version>.foveal`` and what it
says of one made-up case.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import foveal
from foveal.case import Case
from foveal.ensembles.model_file import FORMAT_VERSION
from foveal.geometry import Grid, reorientation

MODELS = Path(__file__).resolve().parents[1] / "models"

PROBABILITY_TOLERANCE = 2e-3
"""Processors add in another order; the expected values are kept in half precision."""


def test_every_version_so_far_has_a_stored_model():
    stored = {path.stem for path in MODELS.glob("*.foveal")}
    assert stored == {f"format_{n}" for n in range(1, FORMAT_VERSION + 1)}


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_stored_model_predicts_as_when_it_was_made(version):
    path = MODELS / f"format_{version}.foveal"
    with np.load(path.with_suffix(".npz")) as expected:
        image, affine = expected["image"], expected["affine"]
        probabilities, label_map = expected["probabilities"], expected["label_map"]
    grid = Grid(image.shape[1:], affine)
    case = Case("stored", image, grid)
    model = foveal.load_model(path, device="cpu")
    rows = torch.cat(list(model.probabilities(case)), dim=1).numpy()
    np.testing.assert_allclose(rows, probabilities, atol=PROBABILITY_TOLERANCE)
    prediction = model.predict(case)
    assert prediction.dtype == label_map.dtype
    assert prediction.shape == label_map.shape
    assert set(np.unique(label_map)) == {0, 7, 300}
    best = np.sort(probabilities.astype(np.float32), axis=0)
    is_clear = best[-1] - best[-2] > 2 * PROBABILITY_TOLERANCE
    is_clear = reorientation(grid, model.task.orientation).undo(is_clear)
    assert is_clear.mean() > 0.95
    np.testing.assert_array_equal(prediction[is_clear], label_map[is_clear])


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_stored_model_has_a_card(version):
    card = foveal.model_card(MODELS / f"format_{version}.foveal")
    assert card["structures"] == {"ball": [7], "box": [300]}
    assert card["members"][0]["training_cases"] == 4
    assert card["members"][0]["validation"]["ball"]["dice"]["cases"] == 2
