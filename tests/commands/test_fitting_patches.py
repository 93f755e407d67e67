"""Patches of networks that the plan was not made for: what their authors used."""

import pytest

from foveal.building import bare_network
from foveal.commands.rehearsal import fitting_patches
from foveal.config.plan import Plan

PLAN = {
    "dataset_name": "made up",
    "labels": {"names": ["ball"], "values": [1]},
    "preprocessing": {
        "spacing_mm": [1.0, 1.0, 4.0],
        "channels": [{"name": "MR", "normalisation": "zscore"}],
    },
    "patches": {"size": [64, 64, 32], "batch_size": 2},
}


@pytest.mark.parametrize(
    ("options", "size", "batch_size"),
    [
        # 9^3 voxels of the thesis' segments, and the context of 46.
        ({"name": "deepmedic-thesis"}, (55, 55, 55), 10),
        ({"name": "deepmedic-shallow"}, (25, 25, 25), 10),
        ({"name": "deepmedic"}, (101, 101, 101), 10),
        # A slice of the coarse axis.
        ({"name": "deepmedic2d"}, (55, 55, 1), 250),
        ({"name": "deepmedic-thesis", "dimensions": 2}, (55, 55, 1), 10),
        # As many voxels as the authors predict, rounded up to the factors' multiple.
        ({"name": "deepmedic-thesis", "factors": (1, 2)}, (41, 41, 41), 10),
    ],
)
def test_patches_are_the_authors(options, size, batch_size):
    plan = Plan.model_validate({**PLAN, "network": options})
    patches = fitting_patches(plan, bare_network(plan))
    assert patches.size == size
    assert patches.batch_size == batch_size
