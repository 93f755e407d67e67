"""Every recipe is a settings file without a mistake, and says how it is used."""

from pathlib import Path

import pytest

from foveal import build
from foveal.settings_files import choose_settings

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_settings_are_right_and_the_command_is_named(path):
    settings, _ = choose_settings(path, (), {}, sections=build.WITHOUT_PLUGINS.sections)
    assert settings.dataset is not None
    text = path.read_text(encoding="utf-8")
    assert f"foveal train recipes/{path.name} --out " in text
