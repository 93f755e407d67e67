"""Every recipe is a settings file that a run would take, and says how it is used."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
import torch

from foveal import building
from foveal.commands.rehearsal import fitting_patches
from foveal.config.plan import Plan
from foveal.settings_files import changed_plan, choose_settings

FOLDER = Path(__file__).resolve().parents[2] / "recipes"

ENSEMBLES = ("emma", "emma_small")

RECIPES = sorted(path for path in FOLDER.glob("*.toml") if path.stem not in ENSEMBLES)

PLAN = Plan.model_validate(
    {
        "dataset_name": "made up",
        "labels": {"names": ("organ", "lesion"), "values": (1, 2)},
        "preprocessing": {
            "spacing_mm": (1.0, 1.0, 1.0),
            "channels": ({"name": "MR", "normalisation": "zscore"},),
        },
        "patches": {"size": (256, 256, 256), "batch_size": 2},
        "network": {"name": "unet3d"},
    }
)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_what_a_run_takes(path):
    parts = building.WITHOUT_PLUGINS
    settings, entries = choose_settings(path, (), {}, sections=parts.sections)
    assert settings.dataset is not None
    plan = changed_plan(PLAN, entries, parts.plan_model)
    with torch.device("meta"):
        fitting = fitting_patches(plan, building.bare_network(plan)).model_dump()
        patches = fitting | entries.get("patches", {})
        plan = changed_plan(plan, {"patches": patches})
        method = building.method(settings, plan)
        building.optimisers(settings, method)
    method.predictor.output_shape(plan.patches.size)
    building.tiles(settings, plan, method.predictor)
    building.update_rules(settings, method)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_says_how_it_is_run(path):
    assert f"foveal train recipes/{path.name} --out " in path.read_text("utf-8")


def options_named(path):
    """What the comments at the top of a recipe give to --set in lines of commands."""
    comments = re.match(r"(#.*\n)+", path.read_text("utf-8")).group()
    lines = [line[2:] for line in comments.splitlines() if line.startswith("#     ")]
    words = shlex.split("\n".join(lines))
    return [after for word, after in itertools.pairwise(words) if word == "--set"]


@pytest.mark.parametrize("part", ["", "_brats", "_isles", "_tbi", "_thesis"])
def test_deepmedic_is_given_z_scores_of_every_channel(part):
    path = FOLDER / f"deepmedic{part}.toml"

    _, entries = choose_settings(
        path, options_named(path), {}, sections=building.WITHOUT_PLUGINS.sections
    )

    changed_plan(PLAN, entries, building.WITHOUT_PLUGINS.plan_model)
    channels = entries["preprocessing"]["channels"]
    assert len(channels) == (5 if part == "_tbi" else 4)
    assert {channel["normalisation"] for channel in channels} == {"zscore"}


def test_the_challenge_of_isles_trains_on_all_cases_without_a_plateau_to_follow():
    path = FOLDER / "deepmedic_isles.toml"

    settings, _ = choose_settings(
        path, options_named(path), {}, sections=building.WITHOUT_PLUGINS.sections
    )

    assert settings.splits.folds == 1
    assert settings.schedule.name == "steps"
    assert settings.schedule.drop_at == (0.4857, 0.6286, 0.7714, 0.8571, 0.9429)


def test_isample_is_its_own_baseline_without_adaptive_sampling():
    sections = building.WITHOUT_PLUGINS.sections

    chosen, plan = choose_settings(
        FOLDER / "isample.toml", ["sampling.adaptive=false"], {}, sections=sections
    )

    baseline, planned = choose_settings(
        FOLDER / "dual_path.toml", (), {}, sections=sections
    )
    assert chosen.model_dump() == baseline.model_dump()
    assert plan == planned


EMMA = [path for path in RECIPES if path.stem.startswith("emma_")]


@pytest.mark.parametrize(
    "path",
    [path for path in EMMA if "deepmedic" not in path.stem],
    ids=lambda path: path.stem,
)
def test_patches_of_emma_are_drawn_from_each_label_alike(path):
    settings, _ = choose_settings(
        path, (), {}, sections=building.WITHOUT_PLUGINS.sections
    )

    assert settings.sampling.sampler == "class_equal"


NORMALISATIONS = ("", ", bias_field={}", ', bias_field={}, landmarks="learn"')


@pytest.mark.parametrize("options", NORMALISATIONS)
@pytest.mark.parametrize("path", EMMA, ids=lambda path: path.stem)
def test_members_of_emma_take_each_of_three_normalisations(path, options):
    channel = '{name="MR", normalisation="zscore"' + options + "}"
    parts = building.WITHOUT_PLUGINS

    _, entries = choose_settings(
        path, [f"preprocessing.channels=[{channel}]"], {}, sections=parts.sections
    )

    (chosen,) = changed_plan(PLAN, entries, parts.plan_model).preprocessing.channels
    assert chosen.normalisation == "zscore"
    assert (chosen.bias_field is not None) == ("bias_field" in options)
    assert chosen.landmarks == ("learn" if "landmarks" in options else None)
