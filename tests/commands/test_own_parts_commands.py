"""A network and a sampler of a plugin, from training to prediction."""

import tomllib

import nibabel as nib
import pytest
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

import foveal
from foveal.cli.main import app
from foveal.errors import PluginError

PLUGIN = """
from pathlib import Path

import torch
from torch import nn

from foveal.config import Section
from foveal.networks.interface import Network, Output
from foveal.sampling.samplers import Draw

with Path(r"{marker}").open("a") as file:
    file.write("x")


class Options(Section):
    width: int = 4


class Tiny(Network):
    padding = "same"
    alignment = (7, 7, 7)
    receptive_field = (1, 1, 1)

    def __init__(self, in_channels, num_classes, *, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(in_channels, width, 1), nn.Conv3d(width, num_classes, 1)
        )

    def forward(self, image, taps=()):
        return Output(self.layers(image))


class Middle:
    def __init__(self, structures):
        assert structures == {{"ball": (1,), "box": (2,)}}

    def draw(self, cases, patch_size, generator):
        n = int(torch.randint(len(cases), (), generator=generator))
        pairs = zip(cases[n].shape, patch_size, strict=True)
        return Draw(n, tuple((length - size) // 2 for length, size in pairs))


def register(parts):
    parts.add_network("tiny", Tiny, Options)
    parts.add_sampler("middle", Middle)
"""

OPTIONS = (
    *("--steps", "2", "--set", "network.name=tiny", "--set", "network.width=3"),
    *("--set", "sampling.sampler=middle", "--set", "training.precision=float32"),
    *("--set", "training.memory_layout=contiguous", "--set", "training.threads=1"),
    *("--set", "splits.folds=3"),
)


def command(*words):
    """Exit status and all that was printed."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with a data set, a plugin and a run made with it."""
    folder = tmp_path_factory.mktemp("own")
    dataset = write_ball_and_box_dataset(folder / "dataset", num_cases=3)
    (folder / "own.py").write_text(PLUGIN.format(marker=folder / "marker"))
    status, text = command(
        *("train", dataset, "--out", folder / "run", "--plugin", folder / "own.py"),
        *("--set", f"store={folder / 'store'}", *OPTIONS),
    )
    assert status == 0, text
    assert "of (21, 21, 21) voxels, as suits network tiny" in text
    assert 'own.py adds network "tiny", sampler "middle"; a copy is kept' in text
    return folder


def runs_of(folder):
    return len((folder / "marker").read_text())


def test_plan_holds_the_network_of_the_plugin_and_a_patch_that_fits(made):
    plan = tomllib.loads((made / "run" / "plan.toml").read_text())
    assert plan["network"] == {"name": "tiny", "width": 3}
    assert plan["patches"]["size"] == [21, 21, 21]


def test_training_and_its_predictions_run_the_plugin_once(made):
    (made / "marker").unlink()
    foveal.train(
        made / "dataset",
        made / "again",
        steps=1,
        options=[
            f"store={made / 'store'}",
            *(word for word in OPTIONS[2:] if word != "--set"),
        ],
        plugins=[made / "own.py"],
    )
    assert runs_of(made) == 1
    assert (made / "again" / "validation" / "metrics.json").exists()


def test_a_saved_run_runs_nothing_by_itself(made):
    before = runs_of(made)
    image = made / "dataset" / "imagesTr" / "case_0.nii.gz"
    status, text = command("predict", made / "run", image, made / "none")
    assert status == 1
    assert "needs the plugin own.py (blake2b" in text
    assert f"add --plugin {made / 'run' / 'plugins' / 'own.py'}" in text
    assert not (made / "none").exists()
    with pytest.raises(PluginError, match="A saved run never runs code by itself"):
        foveal.load_model(made / "run")
    assert command("report", made / "run")[0] == 0
    status, text = command("train", made / "dataset", "--out", made / "run", "--resume")
    assert status == 1
    assert 'which adds network "tiny", sampler "middle"' in text
    assert runs_of(made) == before


def test_report_names_what_the_plugin_added(made):
    command("report", made / "run")
    page = (made / "run" / "report.html").read_text(encoding="utf-8")
    assert "tiny, width 3" in page
    assert "Drawn by middle, a plugin" in page
    assert "The plugin own.py adds network " in page


def test_the_kept_copy_predicts_and_resumes(made):
    copy = made / "run" / "plugins" / "own.py"
    image = made / "dataset" / "imagesTr" / "case_0.nii.gz"
    status, text = command(
        "predict", made / "run", image, made / "out", "--plugin", copy
    )
    assert status == 0, text
    assert nib.load(made / "out" / "case_0.nii.gz").shape == (22, 20, 18)
    status, text = command(
        *("train", made / "dataset", "--out", made / "run", "--resume"),
        *("--plugin", copy),
    )
    assert status == 0, text


def test_a_changed_plugin_does_not_predict(made):
    changed = made / "changed" / "own.py"
    changed.parent.mkdir(exist_ok=True)
    changed.write_text((made / "own.py").read_text() + "# harmless?\n")
    image = made / "dataset" / "imagesTr" / "case_0.nii.gz"
    status, text = command(
        "predict", made / "run", image, made / "none", "--plugin", changed
    )
    assert status == 1
    assert "is another. A saved run never runs" in text


def test_a_plugin_of_which_nothing_is_used_is_refused(made):
    status, text = command(
        *("train", made / "dataset", "--out", made / "unused", "--steps", "2"),
        *("--plugin", made / "own.py"),
    )
    assert status == 1
    assert "--set network.name=tiny, --set sampling.sampler=middle, or leave" in text
    assert not (made / "unused").exists()


def test_mistakes_are_told_before_the_data_are_read(made, tmp_path):
    settings = tmp_path / "night.toml"
    settings.write_text(
        'dataset = "nowhere"\n[network]\nname = "tiny"\nwidht = 3\n'
        "[training]\nsteps = 0\n"
    )
    status, text = command(
        *("train", settings, "--out", tmp_path / "run", "--plugin", made / "own.py"),
        *("--set", "patches.batch_sise=3"),
    )
    assert status == 1
    assert "network.widht: no such setting" in text
    assert "patches.batch_sise: no such setting" in text
    assert "training.steps: Input should be greater than 0" in text
