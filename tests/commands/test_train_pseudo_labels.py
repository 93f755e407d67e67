"""`foveal train` with pseudo-labels: warm, resumable, and never without a structure."""

import json

import pytest
import tomli_w
from phantoms import write_ball_and_box_dataset

import foveal
from foveal.commands.fit import Watcher
from foveal.engine.log import read_log

SMALL = [
    "network.features=[4,8]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[16,16,16]",
    "patches.batch_size=2",
    "training.threads=1",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "prediction.overlap_fraction=0",
]
PSEUDO = [
    "method.name=pseudo_label",
    # A network of a few steps is sure of nothing.
    "method.threshold=0",
    "training.checkpoint_every_seconds=1e-6",
]


class KilledError(Exception):
    pass


def killed_at(step):
    def on_step(now):
        if now.step == step:
            raise KilledError

    return Watcher(on_step=on_step)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two cases to train on, one to validate and two that nobody outlined."""
    folder = tmp_path_factory.mktemp("data")
    whole = write_ball_and_box_dataset(folder / "dataset", shape=(18, 16, 16))
    cases = []
    for number, image in enumerate(sorted((whole / "imagesTr").glob("*.nii.gz"))[:5]):
        case = {
            "case": f"case_{number}",
            "channels": [str(image)],
            "split": "validation" if number == 2 else "train",
        }
        if number < 3:
            case["label_map"] = str(whole / "labelsTr" / image.name)
        cases.append(case)
    table = folder / "table.toml"
    table.write_text(
        tomli_w.dumps(
            {
                "name": "few",
                "channel_names": ["MR"],
                "labels": {"ball": 1, "box": 2},
                "cases": cases,
            }
        )
    )
    return table


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def train(dataset, store):
    def trained(out, *options, steps=4, **arguments):
        return foveal.train(
            dataset,
            out,
            steps=steps,
            options=[*SMALL, f"store={store}", *options],
            **arguments,
        )

    return trained


@pytest.fixture(scope="module")
def teacher(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "first", steps=12)


@pytest.fixture(scope="module")
def run(train, teacher, tmp_path_factory):
    return train(
        tmp_path_factory.mktemp("runs") / "second",
        *PSEUDO,
        "method.every_steps=3",
        "method.least_share=0",
        f"transfer.weights={teacher}",
    )


def refreshes(run):
    return [row for row in read_log(run / "log.jsonl") if row["kind"] == "refresh"]


def test_run_learns_from_labels_of_its_own(run):
    rows = refreshes(run)
    assert [row["step"] for row in rows] == [0, 3]
    for row in rows:
        assert row["labels"]["cases"] == 2
        assert row["labels"]["labelled_share"] == 1
    steps = [row for row in read_log(run / "log.jsonl") if row["kind"] == "step"]
    for row in steps:
        assert set(row["terms"]) == {
            "cross_entropy",
            "dice",
            "pseudo_cross_entropy",
            "pseudo_dice",
        }
        assert row["terms"]["pseudo_cross_entropy"] > 0
        assert 0 < row["measures"]["pseudo_label_share"] <= 1
    assert json.loads((run / "validation" / "metrics.json").read_text())["rows"]
