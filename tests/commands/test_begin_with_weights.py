"""`foveal train` with weights that were learned elsewhere, as a user types it."""

import hashlib
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import ball_and_box, write_ball_and_box_dataset
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.commands.out_of_fold import division
from foveal.engine.checkpoints import load_checkpoint
from foveal.engine.run_directory import RunDirectory
from foveal.networks.resnet import ResNet
from foveal.planning.splits import Fold, Splits, splits_to_toml

COMMON = (
    "--set patches.batch_size=2",
    "--set training.threads=1",
    "--set training.precision=float32",
    "--set training.memory_layout=contiguous",
    "--set splits.folds=1",
    "--steps 1",
)

UNET = (
    *COMMON,
    "--set network.features=[4,8]",
    "--set network.kernels=[[3,3,3],[3,3,3]]",
    "--set network.strides=[[2,2,2]]",
    "--set patches.size=[8,8,8]",
)

DEEPLAB = (
    *COMMON,
    "--set network.name=deeplabv3",
    "--set network.backbone=resnet18",
    "--set network.first_features=2",
    "--set network.head_features=2",
    "--set patches.size=[16,16,1]",
)

UNMOVED = ("--set optimiser.learning_rate=1e-12",)
"""What a run ends with is what it began with, to a hair."""


def foveal(*words):
    arguments = [part for word in words for part in str(word).split(" ")]
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def weights_of(run):
    tensors, _ = load_checkpoint(run / "checkpoints" / "last.safetensors")
    return {
        name.removeprefix("predictor."): tensor
        for name, tensor in tensors.items()
        if name.startswith("predictor.")
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_ball_and_box_dataset(tmp_path_factory.mktemp("data") / "one", 2)


@pytest.fixture(scope="module")
def other_dataset(tmp_path_factory):
    """Two channels and one class in place of one channel and two classes."""
    folder = tmp_path_factory.mktemp("data") / "other"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for n in range(2):
        image, label_map = ball_and_box(n)
        for part, array in (
            ("imagesTr", np.stack([image, -image], axis=-1)),
            ("labelsTr", (label_map == 1).astype(np.uint8)),
        ):
            nib.save(
                nib.Nifti1Image(array, np.eye(4)), folder / part / f"case_{n}.nii.gz"
            )
    description = {
        "name": "Ball",
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "ball"},
        "training": [
            {
                "image": f"./imagesTr/case_{n}.nii.gz",
                "label": f"./labelsTr/case_{n}.nii.gz",
            }
            for n in range(2)
        ],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"--set store={tmp_path_factory.mktemp('store')}"


@pytest.fixture(scope="module")
def run(dataset, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    status, text = foveal("train", dataset, "--out", out, store, *UNET)
    assert status == 0, text
    return out


@pytest.fixture(scope="module")
def classification_weights(tmp_path_factory):
    """As torchvision saves them: RGB, and a classifier of ten classes."""
    torch.manual_seed(0)
    resnet = ResNet(3, depth=18, first_features=2, output_stride=32)
    path = tmp_path_factory.mktemp("weights") / "resnet.pth"
    torch.save({**resnet.state_dict(), "fc.weight": torch.randn(10, 16)}, path)
    return path


def test_a_run_is_fine_tuned_on_other_classes_and_channels(
    run, other_dataset, store, tmp_path
):
    out = tmp_path / "tuned"
    status, text = foveal(
        "train", other_dataset, "--out", out, store, *UNET, *UNMOVED,
        f"--set transfer.weights={run}",
    )  # fmt: skip
    assert status == 0, text
    assert "transfer: 14 layers loaded" not in text
    assert "transfer: 13 layers loaded" in text
    assert "classifiers.0.weight is not loaded but drawn anew: it is 3 x 4 x" in text
    before, after = weights_of(run), weights_of(out)
    torch.testing.assert_close(
        after["encoder.1.0.0.weight"], before["encoder.1.0.0.weight"]
    )
    first = before["encoder.0.0.0.weight"]
    torch.testing.assert_close(
        after["encoder.0.0.0.weight"], first.expand(-1, 2, -1, -1, -1) / 2
    )
    assert len(after["classifiers.0.weight"]) == 2
    record = json.loads((out / "transfer.json").read_text())
    checkpoint = run / "checkpoints" / "last.safetensors"
    assert record["file"] == str(checkpoint)
    assert record["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert record["replaced"][0] == {
        "name": "classifiers.0.weight",
        "here": [2, 4, 1, 1, 1],
        "there": [3, 4, 1, 1, 1],
    }
    status, text = foveal("train", other_dataset, "--out", out, "--resume")
    assert status == 0, text
    assert "transfer" not in text


def test_an_exported_model_is_as_good_as_its_run(run, dataset, store, tmp_path):
    model = tmp_path / "model.foveal"
    assert foveal("export", run, model)[0] == 0
    status, text = foveal(
        "train", dataset, "--out", tmp_path / "tuned", store, *UNET, *UNMOVED,
        f"--set transfer.weights={model}",
    )  # fmt: skip
    assert status == 0, text
    before, after = weights_of(run), weights_of(tmp_path / "tuned")
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight)


def test_classification_weights_start_a_network_that_sees_slices(
    classification_weights, dataset, store, tmp_path
):
    settings = tmp_path / "settings.toml"
    copy = tmp_path / "resnet.pth"
    copy.write_bytes(classification_weights.read_bytes())
    settings.write_text(
        f'dataset = "{dataset.as_posix()}"\n[transfer]\nweights = "resnet.pth"\n'
    )
    out = tmp_path / "run"
    status, text = foveal("train", settings, "--out", out, store, *DEEPLAB, *UNMOVED)
    assert status == 0, text
    assert "transfer: 40 layers loaded" in text
    assert "backbone.conv1.weight was learned from images with 3 channels" in text
    assert "in the file, but not in this network: 1 layer, fc" in text
    source = torch.load(copy, weights_only=True)
    after = weights_of(out)
    torch.testing.assert_close(
        after["network.backbone.layer3.1.conv2.weight"],
        source["layer3.1.conv2.weight"],
    )
    torch.testing.assert_close(
        after["network.backbone.conv1.weight"],
        source["conv1.weight"].sum(dim=1, keepdim=True),
    )
    copy.unlink()
    status, text = foveal("train", settings, "--out", out, "--resume")
    assert status == 0, text


def test_weights_that_changed_before_the_first_checkpoint_are_not_mixed_in(
    classification_weights, dataset, store, tmp_path
):
    copy = tmp_path / "resnet.pth"
    copy.write_bytes(classification_weights.read_bytes())
    out = tmp_path / "run"
    status, text = foveal(
        "train", dataset, "--out", out, store, *DEEPLAB,
        f"--set transfer.weights={copy}",
    )  # fmt: skip
    assert status == 0, text
    for checkpoint in (out / "checkpoints").iterdir():
        checkpoint.unlink()
    content = torch.load(copy, weights_only=True)
    torch.save(content | {"fc.weight": torch.zeros(10, 16)}, copy)
    status, text = foveal("train", dataset, "--out", out, "--resume")
    assert status == 1
    assert "resnet.pth changed since the run began" in text


def test_weights_that_do_not_fit_are_refused_before_the_run_begins(
    run, classification_weights, dataset, store, tmp_path
):
    def refused(*words):
        out = tmp_path / "out"
        status, text = foveal("train", dataset, "--out", out, store, *words)
        assert status != 0
        assert not (out / "settings.toml").exists()
        return text

    text = refused(*UNET, "--set network.features=[4,6]",
                   f"--set transfer.weights={run}")  # fmt: skip
    assert "do not fit network unet3d: they are of another network" in text
    assert "encoder.1.0.0.weight is 8 x 4 x 3 x 3 x 3 there and 6 x 4 x" in text
    assert "Their network has network.features=[4, 8]; set the same" in text
    text = refused(*DEEPLAB, f"--set transfer.weights={run}")
    assert 'network.name="unet3d", network.features=[4, 8]' in text
    text = refused(*UNET, f"--set transfer.weights={classification_weights}")
    assert "none of its layers (conv1, bn1, layer1.0.conv1" in text
    text = refused(*UNET, f"--set transfer.weights={tmp_path / 'none.pth'}")
    assert "none.pth does not exist; give a run, an exported model" in text
    checkpoint = run / "checkpoints" / "last.safetensors"
    text = refused(*UNET, f"--set transfer.weights={checkpoint}")
    assert "is a checkpoint; give the folder of its run" in text
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    text = refused(*UNET, f"--set transfer.weights={tmp_path / 'bad.pth'}")
    assert "bad.pth" in text


def test_a_plugins_run_needs_its_plugin(dataset, store, tmp_path):
    plugin = tmp_path / "own_network.py"
    plugin.write_text(
        "from torch import nn\n"
        "from foveal.config import Section\n"
        "from foveal.networks.interface import Network, Output\n"
        "class Options(Section):\n"
        "    features: int = 2\n"
        "class Pointwise(Network):\n"
        "    padding = 'same'\n"
        "    alignment = (1, 1, 1)\n"
        "    classifier_names = ('classifier',)\n"
        "    receptive_field = (1, 1, 1)\n"
        "    def __init__(self, in_channels, num_classes, *, features):\n"
        "        super().__init__()\n"
        "        self.hidden = nn.Conv3d(in_channels, features, 1)\n"
        "        self.classifier = nn.Conv3d(features, num_classes, 1)\n"
        "    def forward(self, image, taps=()):\n"
        "        return Output(self.classifier(self.hidden(image).relu()))\n"
        "def register(parts):\n"
        "    parts.add_network('pointwise', Pointwise, Options)\n"
    )
    own = (
        *COMMON,
        "--set patches.size=[8,8,8]",
        "--set network.name=pointwise",
        f"--plugin {plugin}",
    )
    first = tmp_path / "first"
    status, text = foveal("train", dataset, "--out", first, store, *own)
    assert status == 0, text
    weights = f"--set transfer.weights={first}"
    status, text = foveal(
        "train", dataset, "--out", tmp_path / "second", store, *own, weights
    )
    assert status == 0, text
    assert "transfer: 2 layers loaded" in text
    status, text = foveal(
        "train", dataset, "--out", tmp_path / "third", store, *UNET, weights
    )
    assert status == 1
    assert "needs the plugin own_network.py" in text


def test_a_classifier_starts_a_segmentation_network(dataset, store, tmp_path):
    answers = (*UNET, "--set network.norm=batch")
    status, text = foveal(
        "train", dataset, "--out", tmp_path / "classifier", store, *answers,
        "--set method.name=classification",
    )  # fmt: skip
    assert status == 0, text
    status, text = foveal(
        "train", dataset, "--out", tmp_path / "run", store, *answers, *UNMOVED,
        f"--set transfer.weights={tmp_path / 'classifier'}",
    )  # fmt: skip
    assert status == 0, text
    name = "decoder.0.0.0.weight"
    torch.testing.assert_close(
        weights_of(tmp_path / "run")[name], weights_of(tmp_path / "classifier")[name]
    )


def test_frozen_layers_stay_as_they_were_loaded(
    classification_weights, dataset, store, tmp_path
):
    out = tmp_path / "run"
    status, text = foveal(
        "train", dataset, "--out", out, store, *DEEPLAB,
        f"--set transfer.weights={classification_weights}",
        "--set transfer.freeze=[\"backbone.layer1\"]",
        "--set transfer.learning_rate_factors.classifier=10",
    )  # fmt: skip
    assert status == 0, text
    source = torch.load(classification_weights, weights_only=True)
    after = weights_of(out)
    for name in ("conv1.weight", "bn1.running_mean"):
        kept, moved = f"layer1.1.{name}", f"layer2.1.{name}"
        assert torch.equal(after[f"network.backbone.{kept}"], source[kept])
        assert not torch.equal(after[f"network.backbone.{moved}"], source[moved])


FOLDS = (*[word for word in UNET if "folds" not in word], "--set splits.folds=2")


@pytest.fixture(scope="module")
def four_patients(tmp_path_factory):
    return write_ball_and_box_dataset(tmp_path_factory.mktemp("data") / "four", 4)


@pytest.fixture(scope="module")
def folds(four_patients, store, tmp_path_factory):
    """A cross-validation."""
    out = tmp_path_factory.mktemp("runs") / "folds"
    status, text = foveal(
        "train", four_patients, "--out", out, "--fold all", store, *FOLDS
    )
    assert status == 0, text
    return out


def test_patients_that_weights_have_seen_are_not_measured(
    folds, four_patients, store, tmp_path
):
    trained_on = division(RunDirectory(folds / "fold_0")).train

    def refused(*words):
        out = tmp_path / "out"
        status, text = foveal("train", four_patients, "--out", out, store, *words)
        assert status == 1
        assert not (out / "settings.toml").exists()
        assert not (out / "cross_validation.toml").exists()
        return text

    first = f"--set transfer.weights={folds / 'fold_0'}"
    for text in (
        refused(*FOLDS, first, "--fold 1"),
        refused(*FOLDS, first, "--fold all"),
    ):
        assert f"are validated or tested here ({', '.join(trained_on)})" in text
        assert "begin with a run that left out the same patients" in text
    status, text = foveal(
        "train", four_patients, "--out", tmp_path / "same", store, *FOLDS, first
    )
    assert status == 0, text
    # A run that saw none of them itself, but began with one that did.
    splits = tmp_path / "same" / "splits.toml"
    splits.write_text(splits_to_toml(Splits((Fold(("somebody",), (), ()),))))
    second = f"--set transfer.weights={tmp_path / 'same'}"
    assert "fold_0 was trained on 2 patient(s)" in refused(*FOLDS, second, "--fold 1")


def test_each_fold_begins_with_its_own_of_a_cross_validation(
    folds, four_patients, store, tmp_path
):
    out = tmp_path / "tuned"
    status, text = foveal(
        "train", four_patients, "--out", out, "--fold all", store, *FOLDS, *UNMOVED,
        f"--set transfer.weights={folds}",
    )  # fmt: skip
    assert status == 0, text
    for fold in ("fold_0", "fold_1"):
        record = json.loads((out / fold / "transfer.json").read_text())
        assert record["weights"] == str(folds / fold)
        name = "encoder.1.0.0.weight"
        torch.testing.assert_close(
            weights_of(out / fold)[name], weights_of(folds / fold)[name]
        )
    status, text = foveal(
        "train", four_patients, "--out", tmp_path / "other", "--fold 2", store, *FOLDS,
        "--set splits.folds=4", f"--set transfer.weights={folds}",
    )  # fmt: skip
    assert status == 1
    assert "is a cross-validation without a fold 2" in text


def test_names_that_two_data_sets_share_are_told(folds, other_dataset, store, tmp_path):
    status, text = foveal(
        "train", other_dataset, "--out", tmp_path / "run", store, *FOLDS,
        f"--set transfer.weights={folds / 'fold_0'}", "--fold 1",
    )  # fmt: skip
    assert status == 0, text
    assert "was trained on another data set with patients of the same names" in text


def test_folds_that_would_begin_with_different_weights_are_refused(
    classification_weights, four_patients, store, tmp_path
):
    copy = tmp_path / "resnet.pth"
    copy.write_bytes(classification_weights.read_bytes())
    out = tmp_path / "run"
    words = [word for word in DEEPLAB if "folds" not in word]
    status, text = foveal(
        "train", four_patients, "--out", out, "--fold all", store, *words,
        "--set splits.folds=2", f"--set transfer.weights={copy}",
    )  # fmt: skip
    assert status == 0, text
    shutil.rmtree(out / "fold_1")
    content = torch.load(copy, weights_only=True)
    torch.save(content | {"fc.weight": torch.zeros(10, 16)}, copy)
    status, text = foveal("train", four_patients, "--out", out, "--resume")
    assert status == 1
    assert "resnet.pth changed since the run began" in text
