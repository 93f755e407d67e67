"""Recipes are settings that a run would take."""

from pathlib import Path

import pytest
import torch

from foveal import build
from foveal.networks.slices import SliceBySlice
from foveal.settings_files import read_settings

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_settings_are_known_and_patches_suit_the_network(path):
    _, entries = read_settings(path)
    options = dict(entries.get("network", {}))
    size = entries.get("patches", {}).get("size")
    if size is None or "name" not in options:
        return  # the plan finds what suits
    with torch.device("meta"):
        network = build.network(
            options.pop("name"), in_channels=1, num_classes=3, **options
        )
    if len(network.alignment) < len(size):
        network = SliceBySlice(network, axis=size.index(1))
    network.output_shape(size)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_says_how_it_is_run(path):
    assert f"foveal train recipes/{path.name} --out " in path.read_text("utf-8")
