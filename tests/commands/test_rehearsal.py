"""What fails in the night fails at once on a made-up patch."""

import re

import pytest

from foveal.building import WITHOUT_PLUGINS, parts_with
from foveal.commands.rehearsal import rehearse
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.errors import PluginError, SettingsError

PLAN = Plan.model_validate(
    {
        "dataset_name": "made up",
        "labels": {"names": ["ball", "box"], "values": [1, 2]},
        "preprocessing": {
            "spacing_mm": [1.0, 1.0, 1.0],
            "channels": [{"name": "MR", "normalisation": "zscore"}],
        },
        "patches": {"size": [8, 8, 8], "batch_size": 2},
        "network": {"features": [2], "kernels": [[3, 3, 3]], "strides": []},
    }
)

NETWORK = """
from torch import nn
from foveal.networks.interface import Network, Output

class Tiny(Network):
    padding = "same"
    alignment = (2, 2, 2)
    receptive_field = (1, 1, 1)

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.layer = nn.Conv3d(in_channels, num_classes, 1)

    def forward(self, image, taps=()):
        return Output(self.layer(image))

def register(parts):
    parts.add_network("tiny", Tiny)
"""

LOSS = """
def loss(logits, label_map, annotated, structures):
    return {value}

def register(parts):
    parts.add_loss("mine", loss)
"""

METHOD = """
from foveal.methods.supervised import Supervised
from foveal.methods.interface import Stream

class Mine(Supervised):
    def forward(self, batches, clock):
        return {value}

def built(network, losses, *, sampler, batch_size):
    made = Mine(network, losses, sampler=sampler, batch_size=batch_size)
    made.streams = {{"{cases}": Stream("{cases}", sampler, batch_size)}}
    return made

def register(parts):
    parts.add_method("mine", built)
"""

WITH_LOSS = {"loss": {"mine": 1.0}}
WITH_METHOD = {"method": {"name": "mine"}}


def rehearsed(tmp_path, text, settings, plan=PLAN):
    (tmp_path / "own.py").write_text(text)
    chosen = Settings.model_validate(settings | {"training": {"device": "cpu"}})
    rehearse(chosen, plan, parts_with([tmp_path / "own.py"]))


def planned(**changes):
    return Plan.model_validate(PLAN.model_dump() | changes)


def test_what_works_passes(tmp_path):
    rehearsed(tmp_path, LOSS.format(value="logits.mean()"), WITH_LOSS)
    rehearsed(tmp_path, NETWORK, {}, planned(network={"name": "tiny"}))
    method = METHOD.format(value="super().forward(batches, clock)", cases="labelled")
    rehearsed(tmp_path, method, WITH_METHOD)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("logits.mean(dim=1)", "loss mine gives a tensor of shape (1, 8, 8, 8)"),
        ("0.0", "loss mine gives 0.0, no tensor"),
        ("logits.detach().mean()", "without a gradient for noise; it must be one"),
        ("logits.mean() / 0", "with a gradient for noise; it must be one finite"),
        ("logits + label_map[:, :3]", "own.py, line 3: RuntimeError: The size of"),
    ],
)
def test_wrong_loss_is_told(tmp_path, value, message):
    with pytest.raises(PluginError, match=re.escape(message)):
        rehearsed(tmp_path, LOSS.format(value=value), WITH_LOSS)


@pytest.mark.parametrize(
    ("old", "wrong", "message"),
    [
        ("Output(self.layer(image))", "self.layer(image)", "tiny gives a Tensor; let"),
        ("(image))", "(image)[..., 1:])", "(1, 3, 8, 8, 7) for a patch of (8, 8, 8)"),
        (
            "(2, 2, 2)",
            "(3, 2, 2)",
            "input (8, 8, 8) must be divisible by (3, 2, 2)",
        ),
        ("in_channels, num_classes, 1", "2, num_classes, 1", "line 15: RuntimeError"),
        ("Tiny(Network)", "Tiny(nn.Module)", '"tiny" is of type Tiny; derive it from'),
    ],
)
def test_wrong_network_is_told(tmp_path, old, wrong, message):
    with pytest.raises((PluginError, SettingsError), match=re.escape(message)):
        rehearsed(
            tmp_path, NETWORK.replace(old, wrong), {}, planned(network={"name": "tiny"})
        )


@pytest.mark.parametrize(
    ("value", "cases", "message"),
    [
        ("{'term': batches['labelled'].image}", "labelled", 'loss term "term" of the'),
        ("{'term': 3}", "labelled", "is 3, no tensor; give a tensor of one number"),
        ("{}", "unseen", 'stream "unseen" asks for unseen cases; there'),
        ("batches['labeled']", "labelled", "own.py, line 7: KeyError: 'labeled'"),
    ],
)
def test_wrong_method_is_told(tmp_path, value, cases, message):
    text = METHOD.format(value=value, cases=cases)
    with pytest.raises((PluginError, SettingsError), match=re.escape(message)):
        rehearsed(tmp_path, text, WITH_METHOD)


def test_method_and_sampler_of_another_kind_are_told(tmp_path):
    text = """
def register(parts):
    parts.add_method("mine", lambda network, losses, sampler, batch_size: 3)
    parts.add_sampler("other", lambda structures: 3)
"""
    with pytest.raises(PluginError, match='method "mine" is of type int; derive it'):
        rehearsed(tmp_path, text, WITH_METHOD)
    with pytest.raises(PluginError, match='"other" is of type int, without draw'):
        rehearsed(tmp_path, text, {"sampling": {"sampler": "other"}})


def test_voxel_weights_are_refused_with_a_method_that_gives_losses_none(tmp_path):
    weighted = {"loss_options": {"cross_entropy": {"voxel_weights": True}}}
    text = METHOD.format(value="super().forward(batches, clock)", cases="labelled")
    with pytest.raises(SettingsError, match="is for method supervised; leave it out"):
        rehearsed(tmp_path, text, WITH_METHOD | weighted)
    loss = LOSS.format(value="logits.mean()")
    rehearsed(tmp_path, loss, {"loss": {"mine": 1.0}} | weighted)


def test_settings_that_do_not_fit_the_labels_are_told_without_plugins_too():
    settings = Settings.model_validate(
        {"sampling": {"structure_weights": {"bowl": 1.0}}}
    )
    with pytest.raises(SettingsError, match=r"structure_weights names \['bowl'\]"):
        rehearse(settings, PLAN, WITHOUT_PLUGINS)


def test_a_norm_that_would_see_a_single_value_is_told_with_what_would_do():
    one_voxel_deep = {
        "features": [2, 2],
        "kernels": [[3, 3, 3]] * 2,
        "strides": [[8, 8, 8]],
    }

    def tried(norm, batch_size, side=8):
        plan = planned(
            network={**one_voxel_deep, "norm": norm},
            patches={"size": [side] * 3, "batch_size": batch_size},
        )
        rehearse(Settings(), plan, WITHOUT_PLUGINS)

    tried("batch", 2)
    with pytest.raises(SettingsError, match=r"give patches\.batch_size 2 or more"):
        tried("batch", 1)
    # It divides by the deviation within every patch: more of them are of no use.
    with pytest.raises(SettingsError, match=r"; give a larger patches\.size"):
        tried("instance", 2)
    tried("instance", 1, side=16)
