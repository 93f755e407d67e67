"""Snapshots of a cyclic schedule: kept by training, averaged by prediction."""

import json

import pytest
import torch
from phantoms import write_ball_and_box_dataset

import foveal
from foveal.commands.models import read_models, read_snapshots
from foveal.engine.checkpoints import load_checkpoint
from foveal.errors import RunError, SettingsError

OPTIONS = (
    "network.features=[2,4]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[16,16,16]",
    "patches.batch_size=1",
    "training.threads=1",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "training.validate_every_steps=5",
    "splits.folds=1",
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "dataset"
    return write_ball_and_box_dataset(folder, num_cases=2)


@pytest.fixture(scope="module")
def train(dataset, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")

    def train(*more):
        out = tmp_path_factory.mktemp("runs") / "run"
        options = (*OPTIONS, f'store="{store.as_posix()}"', *more)
        return foveal.train(dataset, out, steps=5, options=options)

    return train


@pytest.fixture(scope="module")
def cyclic(train):
    return train("schedule.name=cyclic", "schedule.cycles=2")


def test_the_end_of_every_cycle_is_kept(cyclic):
    states = [
        json.loads((cyclic / "checkpoints" / f"snapshot_{number}.json").read_text())
        for number in (1, 2)
    ]

    assert [state["step"] for state in states] == [2, 5]
    assert not (cyclic / "checkpoints" / "snapshot_3.json").exists()


def test_the_last_snapshot_is_of_the_end_and_the_first_is_not(cyclic):
    last, _ = load_checkpoint(cyclic / "checkpoints" / "last.safetensors")
    one, two = (dict(stored.weights) for stored in read_snapshots(cyclic))

    assert two.keys() == one.keys()
    assert all(torch.equal(two[name], last[f"predictor.{name}"]) for name in two)
    assert any(not torch.equal(two[name], one[name]) for name in two)


def test_a_prediction_averages_them(cyclic, dataset, tmp_path):
    (outcome,) = foveal.predict(
        cyclic,
        foveal.read_dataset(dataset).cases[:1],
        tmp_path / "out",
        snapshots=True,
        threads=1,
    )

    digests = tuple(stored.digest for stored in read_snapshots(cyclic))
    assert outcome.status == "done"
    assert outcome.models == digests
    assert digests != tuple(stored.digest for stored in read_models(cyclic))


def test_a_run_without_snapshots_is_refused_by_name(train):
    run = train()

    with pytest.raises(RunError, match="run has no snapshots; train with schedule"):
        read_snapshots(run)


def test_what_was_chosen_with_the_best_checkpoint_is_refused(cyclic, dataset, tmp_path):
    file = cyclic / "postprocessing.toml"
    (best,) = read_models(cyclic)
    file.write_text(f'made_of = ["{best.digest}"]\n[temperature]\nvalue = 2.0\n')
    foveal.load_model(cyclic)
    try:
        with pytest.raises(SettingsError, match="was chosen with other weights"):
            foveal.predict(cyclic, dataset, tmp_path / "p", snapshots=True, threads=1)
    finally:
        file.unlink()
