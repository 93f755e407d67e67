"""A mask that the plan crops to: nothing changes inside, outside is background."""

import dataclasses

import numpy as np
import pytest
import torch
from made_up_models import write_run

import foveal
from foveal.case import Case
from foveal.geometry import Grid
from foveal.inference.model import Pass

SHAPE = (30, 26, 24)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    run = tmp_path_factory.mktemp("masked") / "run"
    plan = {
        "preprocessing": {
            "spacing_mm": [1.5, 1.5, 2.0],
            "crop": "mask",
            "channels": [{"name": "MRI", "normalisation": "none"}],
        }
    }
    write_run(run, plan=plan)
    return foveal.load_model(run).models[0]


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(0)
    mask = np.zeros(SHAPE, bool)
    # Two corners of the box that the mask spans, so that most of it is outside.
    mask[1:4, 1:4, 1:4] = mask[25:29, 22:25, 20:23] = True
    return Case(
        name="c",
        image=random.normal(size=(1, *SHAPE)).astype(np.float32),
        grid=Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0])),
        mask=mask,
    )


def whole(model, prepared, one_pass):
    found = torch.zeros(3, *prepared.restoration.reoriented_shape)
    for first, block in model.probabilities(prepared, one_pass):
        found[:, first : first + block.shape[1]] = block
    return found


@pytest.mark.parametrize("axes", [(), (0, 2)])
def test_nothing_changes_inside_the_mask_and_outside_is_background(model, case, axes):
    prepared = model.prepared(case)
    everywhere = dataclasses.replace(prepared, region=None)
    found = whole(model, prepared, Pass(axes))
    expected = whole(model, everywhere, Pass(axes))
    turned = prepared.restoration.reorientation.apply(case.mask)
    inside = torch.from_numpy(np.ascontiguousarray(turned))
    # Tiles meet others in their batches, which may change last bits.
    torch.testing.assert_close(found[:, inside], expected[:, inside])
    assert (found[0][~inside] == 1).all()
    assert (found[1:, ~inside] == 0).all()
    assert not (expected[0][~inside] == 1).all()
