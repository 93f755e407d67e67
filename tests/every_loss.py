"""Every loss that is built in, with its default options."""

from functools import partial

import pytest

from foveal.building.names import LOSSES
from foveal.config.losses import LossOptionsConfig

_OPTIONS = LossOptionsConfig().model_dump() | {"cross_entropy": {}}

BY_NAME = {
    name: partial(loss, **_OPTIONS.get(name, {})) for name, loss in LOSSES.items()
}

EVERY_LOSS = [pytest.param(loss, id=name) for name, loss in BY_NAME.items()]

EVERY_LOSS_WITHOUT_PLACES = [
    pytest.param(loss, id=name)
    for name, loss in BY_NAME.items()
    if name != "border_cross_entropy"
]
"""Those to which a voxel's neighbours mean nothing."""
