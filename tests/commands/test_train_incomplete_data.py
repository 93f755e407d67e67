"""Cases without a label map or without a channel, from the table to the prediction."""

import csv

import nibabel as nib
import numpy as np
import pytest
from phantoms import ball_and_box
from typer.testing import CliRunner

from foveal.cli.main import app

SMALL = (
    "--steps 1",
    "--set network.features=[4,8]",
    "--set network.kernels=[[3,3,3],[3,3,3]]",
    "--set network.strides=[[2,2,2]]",
    "--set patches.size=[16,16,16]",
    "--set patches.batch_size=1",
    "--set training.threads=1",
    "--set training.precision=float32",
    "--set training.memory_layout=contiguous",
    "--set splits.folds=2",
)

ROWS = [
    # In one of them the first channel is missing, which else gives grid and header.
    ("p1", "image_1.nii", "image_1.nii", "label_1.nii"),
    ("p2", "", "image_2.nii", "label_2.nii"),
    ("p3", "image_3.nii", "", "label_3.nii"),
]


def foveal(*words):
    """Run a command in this process; returns its exit status and all it printed."""
    arguments = [part for word in words for part in str(word).split(" ")]
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for n in (1, 2, 3):
        image, label_map = ball_and_box(n, (16, 16, 16))
        for name, array in (("image", image), ("label", label_map)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}_{n}.nii")
    return folder


def table(folder, name, rows):
    with (folder / name).open("w", newline="") as file:
        columns = ("case", "channel_t1", "channel_t2", "label_map")
        csv.writer(file).writerows([columns, *rows])
    return folder / name


def test_a_missing_channel_goes_through_training_prediction_and_export(
    folder, tmp_path
):
    data = table(folder, "missing.csv", ROWS)
    status, text = foveal(
        "train", data, "--out", tmp_path / "run", *SMALL,
        f"--set store={tmp_path / 'store'}",
        "--set preprocessing.missing_channel_value=-4",
    )  # fmt: skip
    assert status == 0, text
    assert "cases lack t1, which is filled with a constant there" in text
    assert foveal("export", tmp_path / "run", tmp_path / "m.foveal")[0] == 0
    for model, out in ((tmp_path / "run", "a"), (tmp_path / "m.foveal", "b")):
        status, text = foveal("predict", model, data, tmp_path / out)
        assert status == 0, text
        assert "channel t1 is missing: the network sees a constant" in text
    for name in ("p1", "p2", "p3"):
        first, second = (
            np.asanyarray(nib.load(tmp_path / out / f"{name}.nii").dataobj)
            for out in ("a", "b")
        )
        assert first.shape == (16, 16, 16)
        np.testing.assert_array_equal(first, second)


def refused(folder, out, data, *options):
    status, text = foveal(
        "train", data, "--out", out, *SMALL, f"--set store={folder / 'store'}", *options
    )
    assert status == 1, text
    assert not (out / "settings.toml").exists()
    assert not (folder / "store").exists()
    return text


def test_what_a_method_lacks_is_refused_before_anything_is_preprocessed(
    folder, tmp_path
):
    complete = [(f"p{n}", *[f"image_{n}.nii"] * 2, f"label_{n}.nii") for n in (1, 2, 3)]
    text = refused(tmp_path, tmp_path / "a", table(folder, "missing.csv", ROWS))
    assert "case p2: it lacks the channel(s) t1" in text
    assert "preprocessing.missing_channel_value=-4" in text
    data = table(folder, "labelled.csv", complete)
    text = refused(tmp_path, tmp_path / "b", data, "--set method.name=mean_teacher")
    assert "all 3 cases of the data set are labelled or for the test" in text
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 5)), np.eye(4)), folder / "odd.nii")
    data = table(
        folder, "odd.csv", [*complete[:2], ("u", "image_3.nii", "odd.nii", "")]
    )
    text = refused(tmp_path, tmp_path / "c", data, "--set method.name=mean_teacher")
    assert "case u: channel 0 is" in text
