"""`foveal train` with error maps: told of in the log, resumed, or refused."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import tomli_w
import torch
from phantoms import write_ball_and_box_dataset
from safetensors.torch import load_file

import foveal
from foveal.commands.fit import Watcher
from foveal.engine.log import read_log
from foveal.errors import CaseError, PluginError, RunError, SettingsError
from foveal.settings_files import read_settings

STEPS = 8
SMALL = [
    "network.features=[4,8]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[16,16,16]",
    "patches.batch_size=2",
    "training.threads=1",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "splits.folds=3",
]
ADAPTIVE = [
    "sampling.adaptive=true",
    "error_maps.refresh=epoch",
    "error_maps.every_steps=3",
    "error_maps.cases_per_refresh=3",
    # Each may be the one that is resumed from.
    "training.checkpoint_every_seconds=1e-6",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "dataset"
    return write_ball_and_box_dataset(folder, shape=(18, 16, 16))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def train(dataset, store):
    def trained(out, *options, source=dataset, **arguments):
        return foveal.train(
            source,
            out,
            steps=STEPS,
            options=[*SMALL, f"store={store}", *options],
            **arguments,
        )

    return trained


@pytest.fixture(scope="module")
def run(dataset, store, tmp_path_factory):
    return foveal.train(
        dataset,
        tmp_path_factory.mktemp("runs") / "run",
        steps=STEPS,
        options=[*SMALL, *ADAPTIVE, f"store={store}"],
    )


class KilledError(Exception):
    pass


def killed_at(step):
    def on_step(now):
        if now.step == step:
            raise KilledError

    return Watcher(on_step=on_step)


def without_seconds(run):
    return [
        {key: row[key] for key in row if "seconds" not in key}
        for row in read_log(run / "log.jsonl")
    ]


def test_log_and_maps_of_an_adaptive_run(run):
    rows = read_log(run / "log.jsonl")
    refreshes = [row for row in rows if row["kind"] == "refresh"]
    assert [(row["step"], len(row["cases"])) for row in refreshes] == [(3, 3), (6, 3)]
    for row in refreshes:
        for told in row["cases"].values():
            assert 0 < told["mean_error"] < 1
            assert 0 < told["difficulty"] <= 1
            assert set(told["dice"]) == {"ball", "box"}
    steps = [row for row in rows if row["kind"] == "step"]
    assert all(row["acceptance"] == 1 for row in steps[:3])
    assert all(0 < row["acceptance"] < 1 for row in steps[3:])
    assert any("map_age_steps" in row for row in steps[3:])
    assert all(len(row["patches"]["labelled"]) == 2 for row in steps)
    written = {
        path.parent.name for path in (run / "error_maps").glob("cases/*/*.tiles")
    }
    assert len(written) == 4
    assert json.loads((run / "validation" / "metrics.json").read_text())["rows"]


@pytest.mark.parametrize("stop", [3, 5])
def test_killed_adaptive_run_is_resumed_to_the_same_weights_and_log(
    train, dataset, run, tmp_path, stop
):
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        train(out, *ADAPTIVE, watcher=killed_at(stop))
    foveal.train(dataset, out, resume=True)
    first, second = (
        load_file(folder / "checkpoints" / "last.safetensors") for folder in (run, out)
    )
    assert all((second[name] == tensor).all() for name, tensor in first.items())
    assert without_seconds(out) == without_seconds(run)


def test_run_whose_error_maps_are_lost_says_so(train, dataset, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        train(out, *ADAPTIVE, watcher=killed_at(5))
    shutil.rmtree(out / "error_maps")
    with pytest.raises(RunError, match=r"error map .*step_0000003\.tiles is missing"):
        foveal.train(dataset, out, resume=True)


def test_rhythm_found_by_timing_is_kept_for_the_resumed_run(train, dataset, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        train(
            out,
            "sampling.adaptive=true",
            "error_maps.draw=loop",
            "error_maps.block_voxels=2",
            "error_maps.curriculum_steps=6",
            "sampling.one_case_per_batch=true",
            watcher=killed_at(1),
        )
    begun = read_settings(out / "settings.toml")[0].error_maps
    assert begun.every_steps >= 1
    assert 1 <= begun.cases_per_refresh <= 4
    foveal.train(dataset, out, resume=True)
    assert read_settings(out / "settings.toml")[0].error_maps == begun
    for row in read_log(out / "log.jsonl"):
        if row["kind"] == "step":
            assert len({name for name, *_ in row["patches"]["labelled"]}) == 1


def test_run_begun_with_more_cases_than_there_are_goes_on_with_its_file(
    dataset, store, tmp_path
):
    path, out = tmp_path / "settings.toml", tmp_path / "run"
    tables = {
        "dataset": str(dataset),
        "store": str(store),
        "network": {
            "features": [4, 8],
            "kernels": [[3, 3, 3]] * 2,
            "strides": [[2, 2, 2]],
        },
        "patches": {"size": [16, 16, 16], "batch_size": 2},
        "splits": {"folds": 3},
        "training": {"steps": 3, "threads": 1, "precision": "float32"},
        "sampling": {"adaptive": True},
        "error_maps": {
            "refresh": "epoch",
            "every_steps": 2,
            "cases_per_refresh": 100,
        },
    }
    path.write_text(tomli_w.dumps(tables))
    sentences = []
    with pytest.raises(KilledError):
        foveal.train(
            path,
            out,
            watcher=Watcher(on_stage=sentences.append, on_step=killed_at(2).on_step),
        )
    (told,) = (one for one in sentences if one.startswith("patches from where"))
    assert "every 2 steps the error maps of 4 of 4" in told
    assert told.endswith("so the first round takes 2 steps")
    (warning,) = (one for one in sentences if "Warning: training has 3 steps" in one)
    assert "and the first round of error maps takes 2; until then" in warning
    foveal.train(path, out, resume=True)
    refresh = next(
        row for row in read_log(out / "log.jsonl") if row["kind"] == "refresh"
    )
    assert len(refresh["cases"]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["error_maps.epsilon=0.1"],
            "error_maps changes nothing .* leave the table out, or set sampling.adapt",
        ),
        (
            ["sampling.adaptive=false", "error_maps.epsilon=0.1"],
            "error_maps changes nothing while",
        ),
        (["sampling.adaptive=true", "error_maps.epsilon=1.5"], r"error_maps\.epsilon"),
        (["sampling.adaptive=true", "error_maps.epsilon=-1"], r"error_maps\.epsilon"),
        (["sampling.adaptive=true", "error_maps.epsilon=nan"], r"error_maps\.epsilon"),
        (
            ["sampling.adaptive=true", "method.name=classification"],
            "adaptive looks at errors of outlines, which method classification",
        ),
        pytest.param(
            [
                "sampling.adaptive=true",
                "error_maps.refresh=concurrent",
                "error_maps.device=cuda",
            ],
            "PyTorch finds no cuda device",
            marks=pytest.mark.skipif(
                torch.cuda.is_available(), reason="there is a cuda device"
            ),
        ),
        (
            ["sampling.sampler=uniform", "sampling.structure_weights={ball=2}"],
            "structure_weights changes nothing with sampler uniform",
        ),
        (
            ["sampling.sampler=class_equal", "sampling.foreground_fraction=0.2"],
            "foreground_fraction changes nothing with sampler class_equal",
        ),
        (
            [
                "sampling.adaptive=true",
                "error_maps.refresh=epoch",
                "error_maps.refresh_fraction=0.2",
            ],
            "epoch does not use refresh_fraction",
        ),
    ],
)
def test_settings_that_cannot_be_or_change_nothing_are_refused(
    train, tmp_path, options, message
):
    with pytest.raises(SettingsError, match=message):
        train(tmp_path / "run", *options)
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_plugin_sampler_without_a_law_cannot_be_adaptive(train, tmp_path):
    plugin = tmp_path / "corner.py"
    plugin.write_text(
        "from foveal.config import Section\n"
        "from foveal.sampling.samplers import Draw\n"
        "class Corner:\n"
        "    def draw(self, cases, patch_size, generator):\n"
        "        return Draw(0, (0, 0, 0))\n"
        "def register(parts):\n"
        "    parts.add_sampler('corner', lambda structures: Corner(), Section)\n"
    )
    with pytest.raises(
        (SettingsError, PluginError), match='needs to know the law of sampler "corner"'
    ):
        train(
            tmp_path / "run",
            "sampling.sampler=corner",
            "sampling.adaptive=true",
            plugins=[plugin],
        )
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_empty_mask_is_refused_before_training(train, dataset, tmp_path):
    listed = []
    for number, image in enumerate(sorted((dataset / "imagesTr").glob("*.nii.gz"))):
        mask = tmp_path / f"mask_{number}.nii.gz"
        volume = nib.load(image)
        inside = np.ones(volume.shape, np.uint8) * (number != 2)
        nib.save(nib.Nifti1Image(inside, volume.affine), mask)
        listed.append(
            {
                "case": f"case_{number}",
                "channels": [str(image)],
                "label_map": str(dataset / "labelsTr" / image.name),
                "mask": str(mask),
            }
        )
    table = tmp_path / "table.toml"
    labels = {"ball": 1, "box": 2}
    table.write_text(
        tomli_w.dumps(
            {
                "name": "masks",
                "channel_names": ["MR"],
                "labels": labels,
                "cases": listed,
            }
        )
    )
    with pytest.raises(CaseError, match=r"case_2: .* the mask is empty"):
        train(tmp_path / "run", "sampling.sampler=mask", source=table)
    assert not (tmp_path / "run" / "log.jsonl").exists()
