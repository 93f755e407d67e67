"""How settings and a plan become losses."""

import pytest
import torch
from every_loss import BY_NAME

from foveal.building import losses
from foveal.config.losses import (
    CrossEntropyConfig,
    FocalConfig,
    LossConfig,
    LossOptionsConfig,
    TopKConfig,
    TverskyConfig,
)
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.errors import SettingsError
from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.focal import focal_loss
from foveal.losses.top_k import top_k_loss
from foveal.losses.tversky import tversky_loss

LABELS = {"names": ("organ", "lesion"), "values": (1, 2)}
NESTED = LABELS | {"regions": {"organ": ("organ", "lesion"), "lesion": ("lesion",)}}


def plan_of(labels):
    return Plan.model_validate(
        {
            "dataset_name": "made up",
            "labels": labels,
            "preprocessing": {
                "spacing_mm": (1.0, 1.0, 1.0),
                "channels": ({"name": "MR", "normalisation": "zscore"},),
            },
            "patches": {"size": (8, 8, 8), "batch_size": 2},
            "network": {"name": "unet3d"},
        }
    )


def weighing(**class_weights):
    options = CrossEntropyConfig(class_weights=class_weights)
    return Settings(loss_options=LossOptionsConfig(cross_entropy=options))


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return (
        torch.randn(2, 3, 4, 5, 6),
        torch.randint(0, 3, (2, 4, 5, 6)).to(torch.uint8),
        torch.ones(2, 2, dtype=torch.bool),
        torch.eye(3, dtype=torch.bool)[1:],
    )


def test_every_loss_has_a_weight_of_its_own():
    assert LossConfig.model_fields.keys() == BY_NAME.keys()


@pytest.mark.parametrize("name", BY_NAME)
def test_every_loss_is_chosen_by_its_weight(batch, name):
    off = {"cross_entropy": 0.0, "dice": 0.0}
    settings = Settings(loss=LossConfig(**(off | {name: 0.25})))
    ((found, (loss, weight)),) = losses(settings, plan_of(LABELS)).items()
    assert (found, weight) == (name, 0.25)
    torch.testing.assert_close(loss(*batch), BY_NAME[name](*batch))


def test_options_reach_their_losses(batch):
    settings = Settings(
        loss=LossConfig(top_k=1.0, focal=1.0, tversky=1.0),
        loss_options=LossOptionsConfig(
            top_k=TopKConfig(percent=33.0),
            focal=FocalConfig(gamma=1.5),
            tversky=TverskyConfig(false_positives=0.9, false_negatives=0.2),
        ),
    )
    found = losses(settings, plan_of(LABELS))
    for name, expected in {
        "top_k": top_k_loss(*batch, percent=33.0),
        "focal": focal_loss(*batch, gamma=1.5),
        "tversky": tversky_loss(*batch, false_positives=0.9, false_negatives=0.2),
    }.items():
        torch.testing.assert_close(found[name][0](*batch), expected)


@pytest.mark.parametrize(
    ("labels", "named", "expected"),
    [
        (LABELS, {"lesion": 5.0}, (1.0, 1.0, 5.0)),
        (LABELS, {"background": 0.1, "organ": 2.0}, (0.1, 2.0, 1.0)),
        # A lesion is in the organ too.
        (NESTED, {"organ": 2.0, "lesion": 5.0}, (1.0, 2.0, 10.0)),
        (NESTED, {"lesion": 0.5}, (1.0, 1.0, 0.5)),
    ],
)
def test_weights_of_structures_become_those_of_classes(batch, labels, named, expected):
    loss, _ = losses(weighing(**named), plan_of(labels))["cross_entropy"]
    torch.testing.assert_close(
        loss(*batch), cross_entropy(*batch, class_weights=expected)
    )


def test_weight_of_an_unknown_structure_is_refused():
    with pytest.raises(
        SettingsError,
        match=r"class_weights names \['liver'\]; there are \['organ', 'lesion'\] and "
        "background",
    ):
        losses(weighing(liver=2.0), plan_of(LABELS))


def test_weights_that_leave_nothing_are_refused():
    with pytest.raises(SettingsError, match="leaves nothing: every class weighs 0"):
        losses(weighing(background=0.0, organ=0.0), plan_of(NESTED))
