"""`foveal train` with a mean teacher, as a user types it."""

import json

import pytest
import torch
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.engine.checkpoints import load_checkpoint
from foveal.engine.training import under

COMMON = (
    "--set patches.batch_size=2 --set patches.size=[8,8,8] --set network.features=[4,8]"
    " --set network.kernels=[[3,3,3],[3,3,3]] --set network.strides=[[2,2,2]]"
    " --set training.threads=1 --set training.precision=float32"
    " --set training.memory_layout=contiguous --set splits.folds=1 --steps 1"
)
"""Without folds nobody is validated."""


def foveal(*words):
    arguments = [part for word in words for part in str(word).split(" ")]
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two labelled cases and one that nobody outlined."""
    folder = write_ball_and_box_dataset(tmp_path_factory.mktemp("data") / "few", 3)
    description = json.loads((folder / "dataset.json").read_text())
    (folder / "imagesUn").mkdir()
    case = description["training"].pop()
    (folder / case["image"]).rename(folder / "imagesUn" / "new.nii.gz")
    (folder / case["label"]).unlink()
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def test_transferred_weights_reach_teacher_and_student(dataset, tmp_path):
    store = f"--set store={tmp_path / 'store'}"
    begun, out = tmp_path / "begun", tmp_path / "out"
    status, text = foveal(
        "train", dataset, "--out", begun, store, COMMON, "--set training.seed=1"
    )
    assert status == 0, text
    status, text = foveal(
        "train", dataset, "--out", out, store, COMMON,
        "--set method.name=mean_teacher", f"--set transfer.weights={begun}",
        "--set optimiser.learning_rate=1e-12",
    )  # fmt: skip
    assert status == 0, text
    there, _ = load_checkpoint(begun / "checkpoints" / "last.safetensors")
    here, _ = load_checkpoint(out / "checkpoints" / "last.safetensors")
    for network in ("method.teacher.", "method.student.", "predictor."):
        weights = under(network, here)
        assert weights.keys() == under("predictor.", there).keys()
        for name, tensor in under("predictor.", there).items():
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6)
    (row,) = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert row["terms"]["consistency"] == 0.0
    assert row["measures"]["confident_fraction"] == 1.0


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("training.ema_decay=0.9", "an average already; set method.decay"),
        ("training.batch_norm_batches=60", "mean_teacher sees none"),
    ],
)
def test_a_second_average_is_refused_before_a_run_is_made(
    dataset, tmp_path, setting, problem
):
    status, text = foveal(
        "train", dataset, "--out", tmp_path / "run", COMMON,
        "--set method.name=mean_teacher", f"--set {setting}",
    )  # fmt: skip
    assert status != 0
    assert problem in text
    assert not (tmp_path / "run").exists()
