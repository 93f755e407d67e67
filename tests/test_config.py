"""Every mistake in settings and plan is told at once, with its full name."""

import tomllib

import pytest

from foveal.building import LOSSES, NETWORKS, WITHOUT_PLUGINS
from foveal.config import Section
from foveal.config.losses import LossConfig
from foveal.config.networks.unet import UNet3dConfig
from foveal.config.parts import PartSections, network_section, plan_model
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.errors import SettingsError
from foveal.settings_files import (
    changed_plan,
    changed_settings,
    choose_settings,
    read_plan,
    read_settings,
    to_toml,
)


class RobustOptions(Section):
    focus: float = 2.0


class TinyOptions(Section):
    width: int = 8


WITH_PLUGINS = PartSections(
    networks=Plan.networks | {"tiny": network_section("tiny", TinyOptions)},
    losses=("cross_entropy", "dice", "robust"),
    samplers=("uniform", "class_balanced"),
    methods=("supervised",),
    plugins={"robust": RobustOptions},
)

PLAN = {
    "dataset_name": "made up",
    "labels": {"names": ["ball"], "values": [1]},
    "preprocessing": {
        "spacing_mm": [1.0, 1.0, 1.0],
        "channels": [{"name": "MR", "normalisation": "zscore"}],
    },
    "patches": {"size": [16, 16, 16], "batch_size": 2},
    "network": {"name": "unet3d"},
}


def choose(*options, file=None, sections=WITH_PLUGINS, plan=None, **arguments):
    return choose_settings(file, options, arguments, sections=sections, plan=plan)


def problems_of(*options, **keywords):
    with pytest.raises(SettingsError, match="wrong settings in") as caught:
        choose(*options, **keywords)
    heading, *lines = str(caught.value).split("\n")
    return heading, [line.removeprefix("  ") for line in lines]


def names(problems):
    return {problem.partition(": ")[0] for problem in problems}


def test_file_options_and_plan_entries_are_wrong_together(tmp_path):
    path = tmp_path / "night.toml"
    path.write_text(
        "[training]\nstepps = 3\nseed = -1\n[optimizer]\nname = 'sgd'\n"
        "[loss]\nfocl = 1.0\ndice = 'much'\n[method]\nname = 'steady'\n"
        "[patches]\nsize = [16, 'a', 16]\n[network]\nfeature = [4]\n"
    )
    heading, problems = problems_of(
        "seed",
        "sampling.sampler=middle",
        "plugins.robust.fokus=3",
        "plugins.tversky.alpha=0.3",
        "mirroring.axes=[5]",
        "preprocessing.channels=[{name='MR'}]",
        file=path,
    )
    assert heading == f"wrong settings in {path} and --set:"
    assert problems[0] == (
        '"seed" must read table.name=value, for example training.seed=3'
    )
    assert names(problems[1:]) == {
        *("training.stepps", "training.seed", "optimizer", "loss.focl", "loss.dice"),
        *("method.name", "sampling.sampler", "plugins.robust.fokus", "plugins.tversky"),
        *("patches.size.1", "network.feature", "mirroring.axes.0"),
        "preprocessing.channels.0.normalisation",
    }


def test_what_is_wrong_says_what_there_is_and_where_more_comes_from():
    _, problems = problems_of(
        "method.name=steady",
        "loss.focl=1",
        "plugins.robust.fokus=3",
        "network.name=vnet",
        "trainin.seed=1",
        "training=3",
    )
    told = "\n".join(problems)
    assert 'method.name: "steady" is none of supervised; another comes with' in told
    assert 'network.name: "vnet" is none of unet3d, ' in told
    assert ", tiny; another comes with" in told
    assert "loss.focl: no such setting; check the spelling, or give the plugin" in told
    assert "plugins.robust.fokus: no such setting; check the spelling\n" in told + "\n"
    assert "trainin: no such table; there are augmentation, " in told
    assert "training: must be a table, not 3" in told


def test_entries_of_a_plan_to_come_are_not_refused_for_what_the_data_decide():
    options = (
        "network.features=[4,8]",
        "labels.ignore_value=9",
        "patches.size=[9,9,9]",
    )
    _, entries = choose(*options)
    assert entries == {
        "network": {"features": [4, 8]},
        "labels": {"ignore_value": 9},
        "patches": {"size": [9, 9, 9]},
    }


def test_kernels_of_pictures_wait_for_the_network_that_the_planner_chooses():
    flat = "network.kernels=[[3,3],[3,3]]"
    _, entries = choose(flat)
    assert entries == {"network": {"kernels": [[3, 3], [3, 3]]}}
    _, problems = problems_of(flat, "network.name=unet3d")
    assert [problem.split(":")[0] for problem in problems] == [
        "network.kernels.0.2",
        "network.kernels.1.2",
    ]
    _, problems = problems_of('network.kernels=[["a",3]]')
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("border_cross_entropy", "factor=5"),
        ("top_k", "percent=20"),
        ("focal", "gamma=1"),
        ("tversky", "false_positives=0.5"),
    ],
)
def test_options_of_a_loss_without_weight_are_refused(name, option):
    _, problems = problems_of(f"loss_options.{name}.{option}")
    assert problems == [f"loss_options.{name} changes nothing while loss.{name} is 0"]
    choose(f"loss_options.{name}.{option}", f"loss.{name}=1")


def test_class_weights_without_cross_entropy_are_refused():
    weights = "loss_options.cross_entropy.class_weights.lesion=5"
    settings, _ = choose(weights)
    assert settings.loss_options.cross_entropy.class_weights == {"lesion": 5.0}
    _, problems = problems_of(weights, "loss.cross_entropy=0")
    assert problems == [
        "loss_options.cross_entropy changes nothing while loss.cross_entropy is 0"
    ]


@pytest.mark.parametrize(
    "option",
    [
        *("top_k.percent=0", "top_k.percent=101", "focal.gamma=-1"),
        *("tversky.false_positives=0", "cross_entropy.class_weights.liver=-1"),
        *("dice.smooth=1", "top_k.k=10"),
    ],
)
def test_options_outside_their_range_are_refused(option):
    name = option.split("=")[0].removesuffix(".smooth")
    _, problems = problems_of(f"loss_options.{option}", "loss.top_k=1")
    assert any(problem.startswith(f"loss_options.{name}:") for problem in problems)


def test_a_plan_file_is_checked_with_its_changes_before_anything_is_read(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(to_toml(Plan.model_validate(PLAN)))
    heading, problems = problems_of(
        "patches.size=[0,16,16]", "training.seed=x", plan=path
    )
    assert heading == f"wrong settings in {path} and --set:"
    assert len(problems) == 2
    assert "patches.size" in problems[1]
    _, entries = choose("patches.size=[8,8,8]", plan=path)
    assert entries == {"patches": {"size": [8, 8, 8]}}


def test_later_sources_win_and_paths_are_those_of_their_source(tmp_path, monkeypatch):
    path = tmp_path / "night.toml"
    path.write_text(
        'dataset = "scans"\nstore = "here"\n[training]\nseed = 1\nsteps = 5\n'
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings, _ = choose(
        "training.seed=2", "store=there", file=path, training={"steps": 7}
    )
    assert settings.dataset == tmp_path / "scans"
    assert settings.store == tmp_path / "elsewhere" / "there"
    assert (settings.training.seed, settings.training.steps) == (2, 7)


def test_options_of_a_plugin_have_its_defaults_and_are_saved():
    settings, _ = choose("loss.robust=0.5")
    assert settings.loss.weights == {"cross_entropy": 1.0, "dice": 1.0, "robust": 0.5}
    saved = tomllib.loads(to_toml(settings))
    assert saved["plugins"] == {"robust": {"focus": 2.0}}
    again = changed_settings(settings, {"training": {"steps": 3}})
    assert tomllib.loads(to_toml(again))["plugins"] == {"robust": {"focus": 2.0}}
    with pytest.raises(SettingsError, match=r"plugins\.robust\.fokus: no such setting"):
        changed_settings(again, {"plugins": {"robust": {"fokus": 3}}})


def test_what_a_run_saved_is_read_without_its_plugins_and_unchanged(tmp_path):
    settings, _ = choose("loss.robust=0.5", "plugins.robust.focus=3")
    (tmp_path / "settings.toml").write_text(to_toml(settings))
    read, _ = read_settings(tmp_path / "settings.toml")
    assert read.loss.weights["robust"] == 0.5
    assert to_toml(read) == to_toml(settings)
    plan = plan_model(WITH_PLUGINS).model_validate(
        PLAN | {"network": {"name": "tiny", "width": 3}}
    )
    (tmp_path / "plan.toml").write_text(to_toml(plan))
    read_again = read_plan(tmp_path / "plan.toml")
    assert read_again.network.model_dump() == {"name": "tiny", "width": 3}
    assert to_toml(read_again) == to_toml(plan)


def test_another_network_begins_with_its_own_defaults():
    model = plan_model(WITH_PLUGINS)
    plan = changed_plan(Plan.model_validate(PLAN), {"network": {"name": "tiny"}}, model)
    assert plan.network.model_dump() == {"name": "tiny", "width": 8}
    back = changed_plan(plan, {"network": {"name": "unet3d"}})
    assert back.network == UNet3dConfig()
    kept = changed_plan(back, {"network": {"convolutions": 1}})
    assert kept.network == UNet3dConfig(convolutions=1)


def test_weights_of_all_losses_may_not_be_zero_together():
    with pytest.raises(SettingsError, match="loss: at least one weight must be above"):
        choose("loss.dice=0", "loss.cross_entropy=0")
    settings, _ = choose("loss.dice=0", "loss.cross_entropy=0", "loss.robust=2")
    assert settings.loss.weights == {"robust": 2.0}


def test_a_value_and_a_table_of_one_name_do_not_break_the_options():
    settings, _ = choose("training=3", "training.seed=4")
    assert settings.training.seed == 4


def test_settings_name_every_part_that_is_built_in():
    assert set(LossConfig.model_fields) == set(LOSSES)
    assert set(Plan.networks) == set(NETWORKS)
    settings, _ = choose(sections=WITHOUT_PLUGINS.sections)
    assert settings.model_dump() == Settings().model_dump()


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ({"name": "deeplabv2", "dropout_fraction": 0.2}, "is for backbone vgg16"),
        ({"name": "deepmedic", "initial_deviation": 0.1}, "initialisation normal"),
    ],
)
def test_network_options_that_would_change_nothing_are_refused(options, unused):
    with pytest.raises(ValueError, match=unused):
        Plan.model_validate(PLAN | {"network": options})
    used = {"backbone": "vgg16", "initialisation": "normal"}
    name = "backbone" if options["name"] == "deeplabv2" else "initialisation"
    Plan.model_validate(PLAN | {"network": options | {name: used[name]}})
