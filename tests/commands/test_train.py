"""`foveal train`, `predict` and `evaluate` as a user types them, on small phantoms."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import nibabel as nib
import numpy as np
import pytest
import tomli_w
from phantoms import ball_and_box, write_ball_and_box_dataset
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.engine.checkpoints import load_checkpoint
from foveal.engine.log import read_log

SMALL = (
    "--set network.features=[4,8]",
    "--set network.kernels=[[3,3,3],[3,3,3]]",
    "--set network.strides=[[2,2,2]]",
    "--set patches.size=[16,16,16]",
    "--set patches.batch_size=2",
    "--set training.threads=1",
    "--set training.precision=float32",
    "--set training.memory_layout=contiguous",
    "--set splits.folds=3",
)


def foveal(*words):
    """Run a command in this process; returns its exit status and all it printed."""
    arguments = [part for word in words for part in str(word).split(" ")]
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_ball_and_box_dataset(
        tmp_path_factory.mktemp("data") / "dataset", values=(7, 300)
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def run(dataset, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    status, text = foveal(
        "train",
        dataset,
        "--out",
        out,
        "--steps 60",
        f"--set store={store}",
        *SMALL,
        "--set optimiser.learning_rate=1e-2",
    )
    assert status == 0, text
    return out


def test_small_network_learns_the_phantom(run):
    metrics = json.loads((run / "validation" / "metrics.json").read_text())
    dice = [row["value"] for row in metrics["rows"] if row["metric"] == "dice"]
    assert len(dice) == 2 * 2  # two validation cases, two structures
    assert sum(dice) / 4 > 0.85
    assert min(dice) > 0.7


def test_run_holds_all_that_is_needed_to_understand_it(run):
    settings = tomllib.loads((run / "settings.toml").read_text())
    assert settings["training"]["steps"] == 60
    assert settings["training"]["precision"] == "float32"
    plan = tomllib.loads((run / "plan.toml").read_text())
    assert plan["labels"]["names"] == ["ball", "box"]
    assert plan["labels"]["values"] == [7, 300]
    splits = tomllib.loads((run / "splits.toml").read_text())
    first = splits["folds"][0]
    assert len(first["train"]) == 4
    assert len(first["validation"]) == 2
    assert not set(first["train"]) & set(first["validation"])
    rows = read_log(run / "log.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "step"] == list(range(60))
    best = max(row["mean"] for row in rows if row["kind"] == "validation")
    _, state = load_checkpoint(run / "checkpoints" / "best.safetensors")
    assert state["mean"] == best
    assert list((run / "tensorboard").iterdir())


def test_prediction_has_the_inputs_grid_and_the_users_values(run, dataset, tmp_path):
    image_path = dataset / "imagesTr" / "case_0.nii.gz"
    status, text = foveal("predict", run, image_path, tmp_path / "out")
    assert status == 0, text
    image = nib.load(image_path)
    prediction = nib.load(tmp_path / "out" / "case_0.nii.gz")
    np.testing.assert_array_equal(prediction.affine, image.affine)
    assert prediction.shape == image.shape
    for code in ("sform_code", "qform_code", "xyzt_units"):
        assert prediction.header[code] == image.header[code]
    values = np.asarray(prediction.dataobj)
    assert values.dtype == np.int16
    assert set(np.unique(values)) == {0, 7, 300}
    _, label_map = ball_and_box(0)
    overlap = (values == 7) & (label_map == 1)
    assert 2 * overlap.sum() / ((values == 7).sum() + (label_map == 1).sum()) > 0.8


def test_probabilities_belong_to_the_prediction(run, dataset, tmp_path):
    image_path = dataset / "imagesTr" / "case_1.nii.gz"
    status, text = foveal("predict", run, image_path, tmp_path, "--probabilities")
    assert status == 0, text
    label_map = np.asarray(nib.load(tmp_path / "case_1.nii.gz").dataobj)
    ball, box = (
        nib.load(tmp_path / "probabilities" / "case_1" / f"{name}.nii.gz").get_fdata()
        for name in ("ball", "box")
    )
    assert min(ball.min(), box.min()) >= 0
    assert (ball + box).max() <= 1 + 1e-5
    likeliest = np.stack([1 - ball - box, ball, box]).argmax(axis=0)
    np.testing.assert_array_equal(np.array([0, 7, 300])[likeliest], label_map)


def test_a_run_is_not_averaged_with_itself(run, dataset, tmp_path):
    image_path = dataset / "imagesTr" / "case_1.nii.gz"
    status, text = foveal("predict", run, run, image_path, tmp_path / "two")
    assert status == 1
    assert f"{run} is given twice" in " ".join(text.split())
    assert not (tmp_path / "two").exists()


def test_volume_smaller_than_the_patch_is_predicted(run, tmp_path):
    image, _ = ball_and_box(3, (13, 14, 17))
    affine = np.diag([1.5, 1.5, 2.0, 1.0])
    nib.save(nib.Nifti1Image(image[:, :9], affine), tmp_path / "small.nii.gz")
    status, text = foveal("predict", run, tmp_path / "small.nii.gz", tmp_path / "out")
    assert status == 0, text
    assert nib.load(tmp_path / "out" / "small.nii.gz").shape == (13, 9, 17)


def test_taken_folder_is_refused_and_left_alone(run, dataset):
    before = (run / "settings.toml").read_bytes()
    status, text = foveal("train", dataset, "--out", run, "--steps 2")
    assert status == 1
    assert "already holds something" in text
    assert "--resume" in text
    assert (run / "settings.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("training.sed=3", "training.sed: no such setting"),
        ("trainin.seed=3", "trainin: no such table; there are augmentation"),
        ("patches.sizes=[8,8,8]", "patches.sizes: no such setting"),
        ("patches.size=[9,8,8]", "must be divisible by"),
        ("seed", "must read table.name=value"),
        (
            "sampling.structure_weights={bowl=1.0}",
            "sampling.structure_weights names ['bowl']",
        ),
    ],
)
def test_wrong_setting_is_named(dataset, store, tmp_path, option, message):
    status, text = foveal(
        "train",
        dataset,
        "--out",
        tmp_path / "run",
        "--steps 2",
        f"--set store={store}",
        "--set splits.folds=3",
        f"--set {option}",
    )
    assert status == 1
    assert message in text


def test_misspelt_key_in_a_settings_file_is_named(dataset, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(f'dataset = "{dataset.as_posix()}"\n[training]\nstepps = 3\n')
    status, text = foveal("train", path, "--out", tmp_path / "run")
    assert status == 1
    assert "training.stepps: no such setting" in text


def test_settings_file_names_the_data_set_and_the_plan(dataset, store, tmp_path):
    path = tmp_path / "settings.toml"
    small = "\n".join(option.removeprefix("--set ") for option in SMALL)
    path.write_text(
        f'dataset = "{dataset.as_posix()}"\nstore = "{store.as_posix()}"\n'
        f"{small.replace('float32', chr(34) + 'float32' + chr(34))}\n".replace(
            "contiguous", '"contiguous"'
        )
        + "training.steps = 2\n"
    )
    status, text = foveal("train", path, "--out", tmp_path / "run")
    assert status == 0, text
    plan = tomllib.loads((tmp_path / "run" / "plan.toml").read_text())
    assert plan["network"]["features"] == [4, 8]


@pytest.mark.parametrize("bad", ["grid", "nan", "truncated", "missing", "label"])
def test_bad_case_stops_before_training_and_is_named(tmp_path, bad):
    folder = write_ball_and_box_dataset(tmp_path / "dataset")
    image_path = folder / "imagesTr" / "case_2.nii.gz"
    label_path = folder / "labelsTr" / "case_2.nii.gz"
    image, label = nib.load(image_path), nib.load(label_path)
    array, labels = image.get_fdata(), np.asarray(label.dataobj)
    if bad == "grid":
        nib.save(nib.Nifti1Image(labels[:-1], label.affine), label_path)
        message = "label map"
    elif bad == "nan":
        array[3, 4, 5] = np.nan
        nib.save(nib.Nifti1Image(array, image.affine), image_path)
        message = "NaN"
    elif bad == "truncated":
        image_path.write_bytes(image_path.read_bytes()[:2000])
        message = "case_2.nii.gz"
    elif bad == "missing":
        image_path.unlink()
        message = "case_2.nii.gz"
    else:
        labels = labels.copy()
        labels[0, 0, 0] = 9
        nib.save(nib.Nifti1Image(labels, label.affine), label_path)
        message = "9"
    status, text = foveal(
        "train",
        folder,
        "--out",
        tmp_path / "run",
        "--steps 2",
        f"--set store={tmp_path / 'store'}",
        *SMALL,
    )
    assert status == 1
    assert "case_2" in text
    assert message in text
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_missing_channel_is_named(run, dataset, tmp_path):
    image = nib.load(dataset / "imagesTr" / "case_0.nii.gz")
    both = np.stack([image.get_fdata()] * 2, axis=3)
    nib.save(nib.Nifti1Image(both, image.affine), tmp_path / "two.nii.gz")
    status, text = foveal("predict", run, tmp_path / "two.nii.gz", tmp_path / "out")
    assert status == 1
    assert "it has 2 channel(s), the plan needs 1" in text.replace("│ ", "")


def test_prediction_never_replaces_an_input(run, dataset):
    folder = dataset / "imagesTr"
    status, text = foveal("predict", run, folder, folder)
    assert status == 1
    assert "would be overwritten" in text


def test_folder_that_is_no_run_is_named(dataset, tmp_path):
    status, text = foveal("predict", tmp_path, dataset, tmp_path / "out")
    assert status == 1
    assert "is not a run" in text


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_ends_with_the_same_weights(
    dataset, store, run, tmp_path
):
    """The process is killed for good, again and again, until it gets through."""
    out = tmp_path / "killed"
    options = [word for part in SMALL for word in part.split(" ")] + [
        "--set",
        f"store={store}",
        "--set",
        "optimiser.learning_rate=1e-2",
        "--set",
        "training.checkpoint_every_seconds=0.01",
    ]
    start = [sys.executable, "-m", "foveal", "train", str(dataset), "--out", str(out)]
    kills = 0
    command = [*start, "--steps", "60", *options]
    for step in (1, 17, 42):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            rows = read_log(out / "log.jsonl")
            if rows and rows[-1]["step"] >= step:
                process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
                process.wait()
                kills += 1
                break
            time.sleep(0.005)
        process.stderr.close()
        command = [*start, "--resume"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
    assert kills >= 2
    unbroken, _ = load_checkpoint(run / "checkpoints" / "last.safetensors")
    resumed, state = load_checkpoint(out / "checkpoints" / "last.safetensors")
    assert state["step"] == 60
    assert unbroken.keys() == resumed.keys()
    for name, tensor in unbroken.items():
        assert tensor.equal(resumed[name]), name
    steps = [
        row["step"] for row in read_log(out / "log.jsonl") if row["kind"] == "step"
    ]
    assert steps == list(range(60))


@pytest.mark.parametrize(
    "change",
    ["--steps 9", "--fold 1", "--set training.seed=4", "--plan {run}/plan.toml"],
)
def test_resuming_with_other_settings_is_refused(run, dataset, change):
    change = change.format(run=run)
    status, text = foveal("train", dataset, "--out", run, "--resume", change)
    assert status == 1
    assert "goes on with the settings and the plan of the run" in text


@pytest.mark.parametrize(
    ("line", "difference"),
    [
        ("training.seed = 4", "training.seed is 0, not 4"),
        ("training.steps = 61", "training.steps is 60, not 61"),
        ('store = "elsewhere"', "store is "),
        ("patches.size = [8, 8, 8]", "patches.size is [16, 16, 16], not [8, 8, 8]"),
        ("sampling.structure_weights = {box = 2}", "structure_weights is {}, not"),
    ],
)
def test_resuming_with_a_file_that_says_otherwise_is_refused(
    run, dataset, tmp_path, line, difference
):
    path = tmp_path / "settings.toml"
    path.write_text(f'dataset = "{dataset.as_posix()}"\n{line}\n')
    status, text = foveal("train", path, "--out", run, "--resume")
    assert status == 1
    assert "the run does not follow" in text
    assert difference in text


def test_resuming_with_a_file_of_another_data_set_is_refused(run, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('dataset = "other"\n')
    status, text = foveal("train", path, "--out", run, "--resume")
    assert status == 1
    assert "dataset is " in text


def test_a_run_begun_with_a_file_goes_on_with_it_and_with_its_data_set(
    run, dataset, tmp_path
):
    """The run is finished, so that there is nothing to train."""
    copy = tmp_path / "runs" / "run"
    shutil.copytree(run, copy)
    # As if begun with a file that names the data set from where it lies.
    (tmp_path / "files").mkdir()
    relative = os.path.relpath(dataset, tmp_path / "files")
    settings = tomllib.loads((copy / "settings.toml").read_text())
    settings["dataset"] = (tmp_path / "files" / relative).as_posix()
    (copy / "settings.toml").write_text(tomli_w.dumps(settings))
    file = tmp_path / "files" / "settings.toml"
    file.write_text(
        f'dataset = "{relative}"\npatches.size = [16, 16, 16]\n'
        '[training]\nsteps = 60\nprecision = "auto"\n'
    )
    for source in (file, dataset):
        status, text = foveal("train", source, "--out", copy, "--resume")
        assert status == 0, text


def test_resuming_on_another_data_set_is_refused(run, tmp_path):
    other = write_ball_and_box_dataset(tmp_path / "other", num_cases=1)
    status, text = foveal("train", other, "--out", run, "--resume")
    assert status == 1
    assert "the run was trained on" in text


@pytest.mark.slow
def test_two_processes_train_one_run(dataset, store, tmp_path):
    options = [word for part in SMALL for word in part.split(" ")]
    subprocess.run(
        [
            *(sys.executable, "-m", "foveal", "train", str(dataset)),
            *("--out", str(tmp_path / "run"), "--budget", "2s"),
            *options,
            *("--set", f"store={store}", "--set", "training.devices=2"),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    rows = read_log(tmp_path / "run" / "log.jsonl")
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert steps == list(range(len(steps)))
    settings = tomllib.loads((tmp_path / "run" / "settings.toml").read_text())
    assert settings["training"]["steps"] == len(steps)
    assert (tmp_path / "run" / "validation" / "metrics.json").exists()


def test_a_batch_norm_of_one_voxel_per_patch_is_timed_with_two_patches(
    dataset, store, tmp_path
):
    status, text = foveal(
        "train", dataset, "--out", tmp_path / "run", "--steps 1",
        f"--set store={store}", *SMALL, "--set training.precision=auto",
        "--set network.norm=batch", "--set network.strides=[[16,16,16]]",
    )  # fmt: skip
    assert status == 0, text
    assert "a small batch forward and backward takes" in text


def test_a_plateau_without_validation_is_refused_before_the_run_exists(
    dataset, tmp_path
):
    for more in ("--fold 0", "--fold all"):
        status, text = foveal(
            "train", dataset, "--out", tmp_path / "run", "--steps 1", *SMALL[:-1],
            "--set schedule.name=plateau", f"--set splits.folds=1 {more}",
        )  # fmt: skip
        assert status == 1
        files = [path.name for path in tmp_path.rglob("*.toml")]
        assert files == []
        if more == "--fold 0":
            assert "schedule plateau follows the validation" in text


def test_slices_that_count_as_patients_are_told_when_training_begins(tmp_path):
    folder = tmp_path / "slices"
    rows = ["case,channels,label_map"]
    write_ball_and_box_dataset(folder, 4)
    rows += [
        f"p{n // 2}_{n},imagesTr/case_{n}.nii.gz,labelsTr/case_{n}.nii.gz"
        for n in range(4)
    ]
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    status, text = foveal(
        "train", folder / "cases.csv", "--out", tmp_path / "run", "--steps 1",
        f"--set store={tmp_path / 'store'}", *SMALL,
    )  # fmt: skip
    assert status == 0, text
    assert "Warning: the names of 4 cases are of 2 kinds that differ by" in text
    assert "each counts as a patient of its own" in text


def test_drops_after_the_end_of_a_run_are_refused(dataset, tmp_path):
    status, text = foveal(
        "train", dataset, "--out", tmp_path / "run", "--steps 10", *SMALL,
        "--set schedule.name=steps", "--set schedule.drop_at=[0.5,9,10,5000]",
    )  # fmt: skip
    assert status == 1
    assert "at step 10, 5000 the run of 10 steps has ended" in text
    assert not (tmp_path / "run").exists()


def test_options_of_a_2d_network_are_refused_with_its_name(dataset, tmp_path):
    status, text = foveal(
        "train", dataset, "--out", tmp_path / "run", "--steps 1",
        "--set network.kernels=[[3,3],[3,3]]",
    )  # fmt: skip
    assert status == 1
    assert "network.kernels.0.2" in text
    assert "The planned network is unet3d; for options of another name it" in text
