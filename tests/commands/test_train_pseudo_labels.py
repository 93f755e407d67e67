"""`foveal train` with pseudo-labels: warm, resumable, and never without a structure."""

import dataclasses
import json
import shutil

import pytest
import tomli_w
from phantoms import write_ball_and_box_dataset
from safetensors.torch import load_file

import foveal
from foveal import building
from foveal.commands import transfer
from foveal.commands.fit import Watcher
from foveal.commands.report import report
from foveal.engine.log import read_log
from foveal.errors import RunError, SettingsError, TrainingError
from foveal.settings_files import read_plan

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


def test_report_tells_of_the_labels_and_of_those_not_used(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    log = copy / "log.jsonl"
    rows = read_log(log)
    for row in rows:
        if row["kind"] == "refresh" and row["step"] == 3:
            row["labels"]["lost"] = ["ball"]
            row["note"] = "the labels made anew are not used"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report(copy).read_text(encoding="utf-8")
    assert "2 cases without an outline were labelled by the network, 2 times" in page
    assert "those of step 3 (ball)" in page
    assert ">Step 3: the labels made anew are not used.</div>" in page
    assert "<h3>Labels made</h3>" in page


def test_run_killed_right_after_labels_were_made_is_resumed_to_the_same_weights(
    train, dataset, teacher, run, tmp_path
):
    out = tmp_path / "run"

    def on_stage(sentence):
        if "weights of step 3" in sentence:
            raise KilledError

    with pytest.raises(KilledError):
        train(
            out,
            *PSEUDO,
            "method.every_steps=3",
            "method.least_share=0",
            f"transfer.weights={teacher}",
            watcher=Watcher(on_stage=on_stage),
        )
    foveal.train(dataset, out, resume=True)
    first, second = (
        load_file(folder / "checkpoints" / "last.safetensors") for folder in (run, out)
    )
    assert all((second[name] == tensor).all() for name, tensor in first.items())
    assert [row["labels"] for row in refreshes(out)] == [
        row["labels"] for row in refreshes(run)
    ]


def test_method_without_a_trained_run_is_refused_and_told_what_to_do(train, tmp_path):
    with pytest.raises(SettingsError, match=r"set transfer\.weights=runs/first"):
        train(tmp_path / "run", *PSEUDO)
    assert not (tmp_path / "run").exists()


def test_dead_start_is_refused_before_the_first_step(train, teacher, tmp_path):
    """A network of twelve steps is sure of nothing but background."""
    with pytest.raises(TrainingError, match="find ball, box in none of the 2 unlabel"):
        train(
            tmp_path / "run",
            "method.name=pseudo_label",
            "method.threshold=1",
            f"transfer.weights={teacher}",
        )
    kinds = {row["kind"] for row in read_log(tmp_path / "run" / "log.jsonl")}
    assert "step" not in kinds


def test_weights_that_cannot_label_are_refused(teacher, monkeypatch):
    parts = building.WITHOUT_PLUGINS
    plan = read_plan(teacher / "plan.toml")
    network = building.planned_network(plan)
    opened = transfer.opened_weights(teacher, parts)
    transfer.require_teacher(network, teacher, plan, parts)
    labels = plan.labels.model_copy(update={"names": ("ball", "cube")})
    names = list(opened.source.weights)
    fewer = {name: opened.source.weights[name] for name in names[:-1]}
    source = dataclasses.replace(opened.source, weights=fewer)
    for changes, here, message in (
        ({"plan": None}, plan, "it is not known what they outline"),
        ({"is_classifier": True}, plan, "of a classifier, which outlines nothing"),
        (
            {},
            plan.model_copy(update={"labels": labels}),
            r"outline ball \(1\), box \(2\), and this run ball \(1\), cube",
        ),
        ({"source": source}, plan, f"lack {names[-1]}, which would begin untrained"),
    ):
        given = dataclasses.replace(opened, **changes)
        monkeypatch.setattr(transfer, "opened_weights", lambda *_, given=given: given)
        with pytest.raises(RunError, match=message):
            transfer.require_teacher(network, teacher, here, parts)
