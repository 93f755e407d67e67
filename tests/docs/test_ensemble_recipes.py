"""Recipes of ensembles: every member can be built, and they are as the docs say."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal import building
from foveal.case import Dataset
from foveal.commands.ensemble_members import (
    chosen_members,
    planned_members,
    require_measurable,
)
from foveal.config.plan import Plan
from foveal.settings_files import read_ensemble

FOLDER = Path(__file__).resolve().parents[2] / "recipes"

BRATS = Dataset(
    "brats",
    Path(),
    (),
    ("flair", "t1c"),
    {"necrosis": 1, "oedema": 2, "solid": 3, "enhancing": 4},
)

HIPPOCAMPUS = replace(
    BRATS, channel_names=("MRI",), label_values={"Anterior": 1, "Posterior": 2}
)


def plan_of(dataset):
    labels = dataset.label_values
    return Plan.model_validate(
        {
            "dataset_name": dataset.name,
            "labels": {"names": tuple(labels), "values": tuple(labels.values())},
            "preprocessing": {
                "spacing_mm": (1.0, 1.0, 1.0),
                "channels": [
                    {"name": name, "normalisation": "zscore"}
                    for name in dataset.channel_names
                ],
            },
            "patches": {"size": (32, 48, 32), "batch_size": 2},
            "network": {"name": "unet3d"},
        }
    )


def chosen_of(name, dataset):
    config = read_ensemble(FOLDER / f"{name}.toml")
    require_measurable(config, dataset)
    return chosen_members(config, dataset, building.WITHOUT_PLUGINS, threads=1)


def planned(chosen, dataset):
    with torch.device("meta"):
        return planned_members(chosen, plan_of(dataset), building.WITHOUT_PLUGINS)


def test_emma_is_seven_networks_on_three_normalisations():
    chosen = chosen_of("emma", BRATS)
    assert len(chosen) == 21
    # A normalisation changes no network, so one of each is planned with all of them.
    members = planned([*chosen[:3], *chosen[3::3]], BRATS)
    each = [members[0], *members[3:]]
    networks = [member.plan.network.name for member in each]
    assert networks == [
        "deepmedic-residual",
        "deepmedic-residual",
        "fcn3d",
        "fcn3d-residual",
        "fcn3d-shallow",
        "unet3d-sum",
        "unet3d-concatenated",
    ]
    channels = [member.plan.preprocessing.channels for member in members[:3]]
    assert [len(both) for both in channels] == [2, 2, 2]
    assert [both[1].bias_field is not None for both in channels] == [False, True, True]
    assert [both[1].landmarks for both in channels] == [None, None, "learn"]
    losses = [member.settings.loss.weights for member in each]
    assert [list(weights) for weights in losses] == [
        ["cross_entropy"],
        ["cross_entropy"],
        ["iou"],
        ["dice"],
        ["dice"],
        ["cross_entropy"],
        ["cross_entropy"],
    ]


def test_members_of_the_small_one_differ_in_network_loss_and_normalisation():
    members = planned(chosen_of("emma_small", HIPPOCAMPUS), HIPPOCAMPUS)

    assert len({member.plan.network.name for member in members}) == 4
    assert len({member.plan.preprocessing.channels for member in members}) == 4
    assert len({member.settings.sampling.sampler for member in members}) == 3
    assert {member.settings.training.budget_seconds for member in members} == {300}


@pytest.mark.parametrize("name", ["emma", "emma_small"])
def test_recipe_says_how_it_is_run(name):
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    assert f"foveal ensemble train recipes/{name}.toml --out " in text
