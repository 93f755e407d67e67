"""Recipes can be read, and their networks take their patches."""

from pathlib import Path

import pytest

from foveal import build
from foveal.config.settings import Settings
from foveal.settings_files import read_settings

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("emma_fcn*"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_network_of_a_recipe_takes_its_patches(recipe):
    settings, plan = read_settings(recipe)
    assert isinstance(settings, Settings)
    network = build.network(in_channels=4, num_classes=4, **plan["network"])
    size = tuple(plan["patches"]["size"])
    assert network.output_shape(size) == size


def test_all_three_are_there():
    assert [recipe.stem for recipe in RECIPES] == [
        "emma_fcn_plain",
        "emma_fcn_residual",
        "emma_fcn_shallow",
    ]
