"""From settings to optimisers and rules: every option takes effect, or is refused."""

import pytest
import torch
from torch import nn

from foveal import building
from foveal.commands.rehearsal import rehearse
from foveal.config.optimisation import OptimiserConfig, ScheduleConfig
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.rmsprop import NesterovRMSprop
from foveal.errors import SettingsError
from foveal.networks.interface import Network, Output
from foveal.networks.layer_names import layers_named
from foveal.networks.slices import SliceBySlice
from foveal.settings_files import choose_settings, read_settings, to_toml

PLAN = Plan.model_validate(
    {
        "dataset_name": "made up",
        "labels": {"names": ["ball"], "values": [1]},
        "preprocessing": {
            "spacing_mm": [1.0, 1.0, 1.0],
            "channels": [{"name": "MR", "normalisation": "zscore"}],
        },
        "patches": {"size": [8, 8, 8], "batch_size": 1},
        "network": {
            "name": "unet3d",
            "features": [2, 4],
            "kernels": [[3, 3, 3]] * 2,
            "strides": [[2, 2, 2]],
            "norm": "batch",
        },
    }
)


def settings_of(**tables):
    return Settings.model_validate(tables)


def made(**tables):
    settings = settings_of(**tables)
    return settings, building.method(settings, PLAN)


def optimiser(**options):
    settings, method = made(optimiser=options)
    return building.optimisers(settings, method)["network"]


def refused(match, **tables):
    with pytest.raises(SettingsError, match=match):
        rehearse(settings_of(**tables), PLAN, building.WITHOUT_PLUGINS)


def test_jitter_that_leaves_no_spacing_is_refused_before_training():
    refused(
        r"spacing_jitter_mm 1 must be below the smallest of .*spacing_mm, 1",
        augmentation={"spacing_jitter_probability": 1.0, "spacing_jitter_mm": 1.0},
    )


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (
            "adamw",
            torch.optim.AdamW,
            {"lr": 3e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
        ),
        (
            "adam",
            torch.optim.Adam,
            {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0},
        ),
        (
            "sgd",
            torch.optim.SGD,
            {"lr": 3e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0},
        ),
        (
            "rmsprop",
            NesterovRMSprop,
            {"lr": 1e-3, "momentum": 0.6, "squares_decay": 0.9, "epsilon": 1e-4},
        ),
        ("adadelta", torch.optim.Adadelta, {"lr": 1.0, "rho": 0.95, "eps": 1e-6}),
    ],
)
def test_every_optimiser_has_its_own_defaults(name, kind, expected):
    chosen = optimiser(name=name)
    assert type(chosen) is kind
    (group,) = chosen.param_groups
    assert {key: group[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "option", "value", "key"),
    [
        ("adamw", "momentum", 0.8, "betas"),
        ("adamw", "squares_decay", 0.99, "betas"),
        ("adamw", "epsilon", 1e-3, "eps"),
        ("adamw", "weight_decay", 0.1, "weight_decay"),
        ("adam", "momentum", 0.8, "betas"),
        ("adam", "squares_decay", 0.99, "betas"),
        ("adam", "epsilon", 1e-3, "eps"),
        ("sgd", "momentum", 0.8, "momentum"),
        ("sgd", "weight_decay", 0.1, "weight_decay"),
        ("rmsprop", "momentum", 0.8, "momentum"),
        ("rmsprop", "squares_decay", 0.99, "squares_decay"),
        ("rmsprop", "epsilon", 1e-3, "epsilon"),
        ("adadelta", "squares_decay", 0.99, "rho"),
        ("adadelta", "epsilon", 1e-3, "eps"),
        ("adadelta", "learning_rate", 0.5, "lr"),
    ],
)
def test_every_option_takes_effect(name, option, value, key):
    (group,) = optimiser(name=name, **{option: value}).param_groups
    found = group[key]
    assert value in found if key == "betas" else value == found


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"name": "adam", "weight_decay": 0.1}, "adam does not use weight_decay"),
        ({"name": "sgd", "epsilon": 0.1, "squares_decay": 0.5}, "epsilon, squares_dec"),
        (
            {"name": "rmsprop", "weight_decay": 0.0},
            "its options are learning_rate, mom",
        ),
        ({"name": "adadelta", "momentum": 0.5}, "adadelta does not use momentum"),
        ({"regularise_classifier": False}, "changes nothing while l1 and l2 are 0"),
    ],
)
def test_options_of_another_optimiser_are_refused(table, match):
    with pytest.raises(ValueError, match=match):
        OptimiserConfig.model_validate(table)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"name": "cosine", "power": 0.5}, "cosine does not use power; .* are none"),
        ({"drop_at": [0.5]}, "poly does not use drop_at"),
        ({"name": "steps"}, "steps needs drop_at"),
        ({"name": "steps", "drop_at": [0.5], "patience_validations": 2}, "patience"),
        ({"warmup_steps": 0, "warmup_start_fraction": 0.1}, "changes nothing"),
    ],
)
def test_options_of_another_schedule_are_refused(table, match):
    with pytest.raises(ValueError, match=match):
        ScheduleConfig.model_validate(table)


def test_wrong_options_are_told_with_their_table():
    parts = building.WITHOUT_PLUGINS
    with pytest.raises(SettingsError) as caught:
        choose_settings(
            None,
            ["optimiser.name=adam", "optimiser.weight_decay=1", "schedule.name=step"],
            {},
            sections=parts.sections,
        )
    assert "optimiser: adam does not use weight_decay" in str(caught.value)
    assert "schedule.name: Input should be 'poly'" in str(caught.value)


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"optimiser": {"name": "rmsprop", "gradient_clip_norm": float("inf")}},
        {"optimiser": {"name": "adadelta", "l1": 1e-6, "regularise_classifier": False}},
        {"schedule": {"name": "steps", "drop_at": [0.5, 900.0]}},
        {"schedule": {"name": "plateau", "warmup_start_fraction": 0.1}},
    ],
)
def test_settings_are_kept_whole_in_a_file(tmp_path, tables):
    settings = settings_of(**tables)
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(settings))
    assert read_settings(path)[0] == settings


def test_defaults_of_a_name_do_not_count_as_set():
    chosen = settings_of(optimiser={"name": "sgd"}).optimiser
    assert chosen.learning_rate == 3e-3
    assert chosen.model_fields_set == {"name"}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"power": 2.0}, [1.0, 0.25, 0.01]),
        ({"name": "poly", "power": 1.0, "wait_fraction": 0.5}, [1.0, 1.0, 0.2]),
        ({"name": "cosine"}, [1.0, 0.5, 0.024472]),
        ({"name": "constant"}, [1.0, 1.0, 1.0]),
        ({"name": "steps", "drop_at": [0.5, 9]}, [1.0, 0.5, 0.25]),
        ({"name": "steps", "drop_at": [0.9], "drop_factor": 0.1}, [1.0, 1.0, 0.1]),
        ({"name": "plateau", "warmup_steps": 10}, [1 / 11, 6 / 11, 10 / 11]),
        (
            {"name": "constant", "warmup_steps": 10, "warmup_start_fraction": 0.2},
            [0.2, 0.6, 0.92],
        ),
    ],
)
def test_schedules_of_settings(table, expected):
    settings, method = made(schedule={"warmup_steps": 0} | table)
    factor = building.update_rules(settings, method).learning_rate_factor
    assert [factor(step, 10) for step in (0, 5, 9)] == pytest.approx(expected, abs=1e-6)


def test_plateau_of_settings():
    settings, method = made(
        schedule={"name": "plateau", "drop_factor": 0.1, "patience_validations": 3}
    )
    rule = building.update_rules(settings, method).plateau
    assert (rule.patience, rule.drop_factor) == (3, 0.1)


@pytest.mark.parametrize("with_classifier", [True, False])
def test_weights_of_convolutions_are_regularised_and_nothing_else(with_classifier):
    settings, method = made(
        optimiser={"l1": 1e-6, "l2": 1e-4, "regularise_classifier": with_classifier}
    )
    penalty = building.update_rules(settings, method).penalty
    names = {parameter: name for name, parameter in method.named_parameters()}
    expected = {
        f"{name}.weight"
        for name, module in method.named_modules()
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)
        and (with_classifier or "classifiers" not in name)
    }
    assert {names[weight] for weight in penalty.weights} == expected
    assert ("network.classifiers.0.weight" in expected) == with_classifier
    assert (penalty.l1, penalty.l2) == (1e-6, 1e-4)


def test_frozen_layers_and_rates_of_groups():
    settings, method = made(
        transfer={
            "freeze": ["encoder.0"],
            "learning_rate_factors": {"encoder": 0.1, "classifiers": 10.0},
        },
        optimiser={"name": "sgd", "learning_rate": 0.5, "l2": 1.0},
    )
    groups = building.optimisers(settings, method)["network"].param_groups
    names = {parameter: name for name, parameter in method.named_parameters()}
    found = {
        names[parameter].split(".")[1]: group["lr"]
        for group in groups
        for parameter in group["params"]
    }
    assert found == pytest.approx(
        {"encoder": 0.05, "upsampling": 0.5, "decoder": 0.5, "classifiers": 5.0}
    )
    learned = {names[each] for group in groups for each in group["params"]}
    frozen = {name for name in names.values() if "encoder.0." in name}
    assert learned == set(names.values()) - frozen
    rules = building.update_rules(settings, method)
    assert list(rules.frozen) == [method.network.encoder[0]]
    assert not {names[each] for each in rules.penalty.weights} & frozen
    assert not any(
        each.requires_grad for each in method.network.encoder[0].parameters()
    )


def test_the_longest_name_counts_whatever_the_order():
    settings, method = made(
        transfer={"learning_rate_factors": {"encoder.1.0": 3.0, "encoder": 0.0}}
    )
    groups = building.optimisers(settings, method)["network"].param_groups
    names = {parameter: name for name, parameter in method.named_parameters()}
    rates = {names[each]: group["lr"] for group in groups for each in group["params"]}
    assert rates["network.encoder.1.0.0.weight"] == pytest.approx(9e-3)
    assert rates["network.encoder.1.1.0.weight"] == 0.0
    assert rates["network.decoder.0.0.0.weight"] == pytest.approx(3e-3)


@pytest.mark.parametrize("setting", ["freeze", "learning_rate_factors"])
def test_names_that_fit_nothing_are_refused_with_those_there_are(setting):
    for name in ("encode", "network.encoder", "encoder.0.0.0.weight", ""):
        value = [name] if setting == "freeze" else {name: 1.0}
        refused(
            f'transfer.{setting}: no layer is called "{name}"; there are encoder, '
            "upsampling, decoder, classifiers",
            transfer={setting: value},
        )


def test_what_would_change_nothing_is_refused():
    everything = ["encoder", "upsampling", "decoder", "classifiers"]
    refused("leaves nothing to learn in network", transfer={"freeze": everything})
    refused(
        'learning_rate_factors: nothing in "encoder.0" learns',
        transfer={"freeze": ["encoder"], "learning_rate_factors": {"encoder.0": 2.0}},
    )
    refused(
        "no batch norm that learns",
        transfer={"freeze": ["encoder", "decoder"]},
        training={"batch_norm_batches": 60},
    )
    refused("has no residual block that ends with", training={"zero_gamma": True})


class Flat(Network):
    padding = "same"
    alignment = (1, 1)
    classifier_names = ("score",)
    receptive_field = (3, 3)

    def __init__(self):
        super().__init__()
        self.body, self.score = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 1)

    def forward(self, image, taps=()):
        return Output(self.score(self.body(image)))


def test_layers_of_a_2d_network_have_its_own_names():
    whole = nn.Sequential(SliceBySlice(Flat(), 2))
    (body,) = layers_named(whole, "body", "transfer.freeze")
    assert body is whole[0].network.body
    with pytest.raises(SettingsError, match="there are body, score"):
        layers_named(whole, "network", "transfer.freeze")


def test_initialisation_of_settings():
    deviations = {}
    for rule in ("network", "he", "normal"):
        torch.manual_seed(0)
        _, method = made(training={"initialisation": rule})
        deviations[rule] = method.network.decoder[0][0][0].weight.std().item()
    assert deviations["normal"] == pytest.approx(0.01, rel=0.1)
    assert deviations["he"] == pytest.approx((2 / (4 * 27)) ** 0.5, rel=0.1)
    assert deviations["network"] != deviations["he"]


def test_batches_of_batch_norm_reach_the_engine():
    settings, method = made(training={"batch_norm_batches": 60})
    assert building.update_rules(settings, method).batch_norm_batches == 60
