"""Landmarks are learned on training cases only, and go where the network goes."""

import json
import re
import tomllib

import nibabel as nib
import numpy as np
import pytest
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.commands import landmarks as learning
from foveal.commands.preprocess import preprocess
from foveal.errors import CaseError, DatasetError, SettingsError
from foveal.io.datasets import read_dataset
from foveal.settings_files import read_plan, to_toml

PERCENTILES = [1, *range(10, 100, 10), 99]

SMALL = (
    "--steps 1",
    "--set network.features=[4,8]",
    "--set network.kernels=[[3,3,3],[3,3,3]]",
    "--set network.strides=[[2,2,2]]",
    "--set patches.size=[16,16,16]",
    "--set training.threads=1",
    "--set training.precision=float32",
    "--set training.memory_layout=contiguous",
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
        tmp_path_factory.mktemp("data") / "dataset", num_cases=4
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def settings_file(dataset, store, tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "night.toml"
    path.write_text(
        f'dataset = "{dataset}"\nstore = "{store}"\n[splits]\nfolds = 2\n'
        '[[preprocessing.channels]]\nname = "MRI"\nnormalisation = "zscore"\n'
        'landmarks = "learn"\n'
    )
    return path


@pytest.fixture(scope="module")
def folds(settings_file, tmp_path_factory):
    """A cross-validation of two folds."""
    out = tmp_path_factory.mktemp("runs") / "folds"
    status, text = foveal("train", settings_file, "--out", out, "--fold all", *SMALL)
    assert status == 0, text
    assert "Landmarks: those of MRI are learned from 2 training cases" in text
    return out


@pytest.fixture
def plan(folds):
    """Of a fold, with the numbers."""
    return read_plan(folds / "fold_0" / "plan.toml")


def with_landmarks(plan, landmarks, **options):
    channel = {"name": "MRI", "normalisation": "zscore", "landmarks": landmarks}
    return learning.changed_plan(
        plan, {"preprocessing": {"channels": [channel | options]}}
    )


def by_hand(dataset, names):
    scaled = []
    for name in names:
        image = nib.load(dataset / "imagesTr" / f"{name}.nii.gz").get_fdata()
        found = np.percentile(image.astype(np.float32), PERCENTILES)
        scaled.append(100 * (found - found[0]) / (found[-1] - found[0]))
    return np.mean(scaled, axis=0)


@pytest.mark.parametrize("number", [0, 1])
def test_every_fold_learns_from_its_training_cases(folds, dataset, number):
    run = folds / f"fold_{number}"
    training = tomllib.loads((run / "splits.toml").read_text())["folds"][number]
    (learned,) = json.loads((run / "landmarks.json").read_text())["channels"]

    expected = by_hand(dataset, training["train"])
    np.testing.assert_allclose(learned["values"], expected, atol=1e-4)
    assert learned["channel"] == "MRI"
    assert learned["percentiles"] == PERCENTILES
    assert learned["num_cases"] == 2
    (channel,) = read_plan(run / "plan.toml").preprocessing.channels
    assert list(channel.landmarks.values) == learned["values"]


def test_the_plan_that_all_folds_share_has_no_landmarks(folds):
    (channel,) = read_plan(folds / "plan.toml").preprocessing.channels
    assert channel.landmarks == "learn"
    first, second = (
        json.loads((folds / f"fold_{number}" / "landmarks.json").read_text())
        for number in (0, 1)
    )
    assert first != second


def test_a_model_file_predicts_as_the_run(folds, dataset, tmp_path):
    run, model = folds / "fold_0", tmp_path / "one.foveal"
    image = dataset / "imagesTr" / "case_0.nii.gz"
    for command in (
        ("export", run, model),
        ("predict", run, image, tmp_path / "a"),
        ("predict", model, image, tmp_path / "b"),
    ):
        status, text = foveal(*command)
        assert status == 0, text

    first, second = (
        np.asarray(nib.load(tmp_path / name / "case_0.nii.gz").dataobj)
        for name in ("a", "b")
    )
    np.testing.assert_array_equal(first, second)


def test_a_run_that_learned_resumes_with_its_settings_file(folds, settings_file):
    status, text = foveal("train", settings_file, "--out", folds, "--resume")
    assert status == 0, text
    fold = folds / "fold_0"
    status, text = foveal("train", settings_file, "--out", fold, "--resume")
    assert status == 0, text


def test_a_run_resumes_without_the_landmarks_files_that_it_was_begun_with(
    folds, settings_file, tmp_path
):
    numbers = (folds / "fold_0" / "landmarks.json").read_text()
    kept = tmp_path / "kept.json"
    kept.write_text(numbers)
    given = tmp_path / "given.toml"
    given.write_text(settings_file.read_text().replace('"learn"', f'"{kept}"'))
    out = tmp_path / "run"
    status, text = foveal("train", given, "--out", out, *SMALL)
    assert status == 0, text

    kept.unlink()

    status, text = foveal("train", given, "--out", out, "--resume")
    assert status == 0, text


def test_a_fold_resumes_without_its_landmarks_file(folds, settings_file):
    path = folds / "fold_1" / "landmarks.json"
    numbers = path.read_text()
    path.unlink()
    try:
        status, text = foveal(
            "train", settings_file, "--out", folds / "fold_1", "--resume"
        )
    finally:
        path.write_text(numbers)
    assert status == 0, text


def test_another_landmarks_file_is_another_run(folds, settings_file, tmp_path):
    other = tmp_path / "other.toml"
    path = folds / "fold_1" / "landmarks.json"
    other.write_text(settings_file.read_text().replace('"learn"', f'"{path}"'))

    status, text = foveal("train", other, "--out", folds / "fold_0", "--resume")

    assert status != 0
    assert "preprocessing.channels is" in text


def test_cases_are_looked_at_once(plan, dataset, store, monkeypatch):
    listed = read_dataset(dataset).cases
    wanted = with_landmarks(plan, "learn")
    first = learning.with_learned_landmarks(wanted, listed, store=store, threads=1)

    def read_no_more(*_, **__):
        raise AssertionError

    monkeypatch.setattr(learning, "read_case", read_no_more)

    assert first == learning.with_learned_landmarks(
        wanted, listed, store=store, threads=1
    )
    with pytest.raises(AssertionError):
        learning.with_learned_landmarks(
            with_landmarks(plan, "learn", bias_field={}),
            listed,
            store=store,
            threads=1,
        )


def test_what_was_kept_and_is_damaged_is_found_anew(plan, dataset, tmp_path):
    listed = read_dataset(dataset).cases
    wanted = with_landmarks(plan, "learn")
    first = learning.with_learned_landmarks(wanted, listed, store=tmp_path, threads=1)
    kept = list((tmp_path / learning.KEPT_FOLDER).iterdir())
    assert len(kept) == 4
    for path, text in zip(kept, ("", "[[1, 2]]", "[]", "{"), strict=True):
        path.write_text(text)

    again = learning.with_learned_landmarks(wanted, listed, store=tmp_path, threads=1)

    assert again == first


def test_preprocessing_alone_learns_nothing(plan, dataset, tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(to_toml(with_landmarks(plan, "learn")))

    status, text = foveal("preprocess", dataset, "--plan", path)

    assert status != 0
    assert 'channel "MRI": landmarks = "learn", but landmarks are learned from' in text
    assert "give the plan.toml of that run" in text


def test_a_file_is_relative_to_the_plan_and_its_numbers_make_the_case(
    plan, folds, dataset, tmp_path
):
    (tmp_path / "own.json").write_text((folds / "fold_0/landmarks.json").read_text())
    path = tmp_path / "plan.toml"
    path.write_text(to_toml(with_landmarks(plan, "own.json")))
    kept = tmp_path / "store"

    by_file, by_numbers = (preprocess(dataset, one, store=kept) for one in (path, plan))

    for first, second in zip(by_file, by_numbers, strict=True):
        assert first.image.path == second.image.path
    without = with_landmarks(plan, None)
    assert preprocess(dataset, without, store=kept)[0].image.path != (
        by_file[0].image.path
    )


LANDMARKS = {"percentiles": [1, 50, 99], "values": [0, 40, 100], "num_cases": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel": "CT"}, 'no landmarks of channel "MRI", only of CT'),
        ({}, r"landmarks are of percentiles \[1.0, 50.0, 99.0\], but \[1.0, 10.0"),
        ({"values": [0, 100]}, "3 percentiles and 2 values"),
        ({"values": [0, 40, 40]}, "values must increase .* 40 is followed by 40"),
        ({"values": [0, float("nan"), 100]}, "values must increase"),
        ({"percentiles": [1, 99, 50]}, "percentiles must increase"),
        ({"percentiles": [1, 50, 101]}, "less than or equal to 100"),
        ({"num_cases": 0}, "num_cases: Input should be greater than 0"),
        ({"values": "many"}, "is no landmarks file, or damaged"),
    ],
)
def test_unsuitable_landmarks_are_refused(plan, tmp_path, changes, message):
    path = tmp_path / "landmarks.json"
    channel = {"channel": "MRI"} | LANDMARKS | changes
    path.write_text(json.dumps({"format_version": 1, "channels": [channel]}))

    with pytest.raises(SettingsError, match=message):
        learning.with_landmarks_of_files(with_landmarks(plan, str(path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read .* give the landmarks.json of a run"),
        ("", "is no landmarks file, or damaged"),
        ("[1, 2]", "is no landmarks file, or damaged"),
        ('{"format_version": 1}', "is no landmarks file, or damaged"),
        ('{"format_version": 2, "channels": []}', "has format version 2, this"),
    ],
)
def test_a_damaged_landmarks_file_is_refused(plan, tmp_path, text, message):
    path = tmp_path / "landmarks.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(SettingsError, match=message):
        learning.with_landmarks_of_files(with_landmarks(plan, str(path)))


def test_a_missing_file_is_told_before_the_data_are_read(dataset, tmp_path):
    channel = '{name="MRI",normalisation="zscore",landmarks="lost.json"}'

    status, text = foveal(
        "train",
        dataset,
        "--out",
        tmp_path / "run",
        f"--set preprocessing.channels=[{channel}]",
    )

    assert status != 0
    assert "lost.json cannot be read" in text
    assert "planning" not in text


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        ({"values": [0, 100]}, "landmarks: there are 3 percentiles and 2 values; give"),
        ({"values": [0, 40, 40]}, "landmarks: values must increase from one to the"),
        ({"num_cases": 0}, "landmarks.num_cases: Input should be greater than 0"),
        ({"cases": 3}, "landmarks.cases: no such setting; check the spelling"),
        ("", 'landmarks: give "learn", the path of a landmarks.json, or a table with'),
        (7, 'landmarks: give "learn", .* not 7'),
    ],
)
def test_what_is_wrong_with_landmarks_is_told_in_a_line(plan, landmarks, message):
    if isinstance(landmarks, dict):
        landmarks = LANDMARKS | landmarks

    with pytest.raises(SettingsError) as caught:
        with_landmarks(plan, landmarks, landmark_percentiles=[1, 50, 99])

    (_, line) = str(caught.value).splitlines()
    assert re.search(r"preprocessing\.channels\.0\." + message, line)


def test_an_empty_path_of_landmarks_is_not_a_folder(dataset, tmp_path):
    channel = '{name="MRI",normalisation="zscore",landmarks=""}'

    status, text = foveal(
        "train",
        dataset,
        "--out",
        tmp_path / "run",
        f"--set preprocessing.channels=[{channel}]",
    )

    assert status != 0
    assert 'give "learn", the path of a landmarks.json, or a table' in text


def test_landmarks_of_percentiles_of_ones_own(plan, dataset, tmp_path):
    wanted = with_landmarks(plan, "learn", landmark_percentiles=[5, 50, 95])

    learned = learning.with_learned_landmarks(
        wanted, read_dataset(dataset).cases, store=tmp_path, threads=1
    )

    (channel,) = learned.preprocessing.channels
    assert channel.landmarks.percentiles == (5, 50, 95)
    assert channel.landmarks.values[0] == 0
    assert 30 < channel.landmarks.values[1] < 50
    assert channel.landmarks.values[2] == 100


def test_without_training_cases_there_are_no_landmarks(plan, tmp_path):
    with pytest.raises(DatasetError, match="training cases, of which there are none"):
        learning.with_learned_landmarks(
            with_landmarks(plan, "learn"), (), store=tmp_path, threads=1
        )


def test_a_training_case_without_contrast_is_named(plan, tmp_path):
    dataset = write_ball_and_box_dataset(tmp_path / "dataset", num_cases=2)
    path = dataset / "imagesTr" / "case_1.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, 7.0), image.affine), path)

    with pytest.raises(CaseError, match='case case_1: channel "MRI": no landmarks can'):
        learning.with_learned_landmarks(
            with_landmarks(plan, "learn"),
            read_dataset(dataset).cases,
            store=tmp_path,
            threads=1,
        )
