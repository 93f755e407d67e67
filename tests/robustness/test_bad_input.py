"""Bad input through the command line: the case and the remedy are named, nothing is
left half-written, and no traceback is shown."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from phantoms import ball_and_box, write_ball_and_box_dataset
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.engine.log import read_log

SMALL = (
    "network.features=[4,8]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[16,16,16]",
    "patches.batch_size=1",
    "training.threads=1",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "splits.folds=3",
)


def run_command(*words):
    """Exit status and what was printed, on one line; a traceback fails the test."""
    answer = CliRunner().invoke(app, [str(word) for word in words])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    return answer.exit_code, " ".join(answer.output.split())


def train(dataset, out, *options, steps=2):
    settings = [*SMALL, f"store={out.parent / 'store'}", *options]
    words = [part for setting in settings for part in ("--set", setting)]
    return run_command("train", dataset, "--out", out, "--steps", steps, *words)


def rewrite(path, change=lambda array: array, affine=None):
    """Change a volume's values, or its affine."""
    image = nib.load(path)
    array = change(np.asarray(image.dataobj))
    changed = nib.Nifti1Image(array, image.affine)
    if affine is not None:
        changed.set_sform(affine, code=1)
        changed.set_qform(None, code=0)
    nib.save(changed, path)


def with_value(value):
    def change(array):
        array = array.astype(np.float32)
        array[3, 4, 5] = value
        return array

    return change


def four_axes(array):
    return np.stack([array, array], axis=3)


# ------------------------------------------------------- what makes a case unusable


def zero_bytes(image, _label_map):
    image.write_bytes(b"")


def truncated(image, _label_map):
    image.write_bytes(image.read_bytes()[:-300])


def header_only(image, _label_map):
    image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes())[:200]))


def gz_that_is_not_gz(image, _label_map):
    image.write_bytes(b"This is not a scan, it is a letter. " * 50)


def image_of_four_axes(image, _label_map):
    rewrite(image, four_axes)


def label_map_of_four_axes(_image, label_map):
    rewrite(label_map, four_axes)


def label_map_of_another_shape(_image, label_map):
    rewrite(label_map, lambda array: array[:, :-1])


def labels_between_integers(_image, label_map):
    rewrite(label_map, with_value(1.4))


def unknown_label(_image, label_map):
    rewrite(label_map, with_value(9))


def one_nan(image, _label_map):
    rewrite(image, with_value(np.nan))


def one_infinity(image, _label_map):
    rewrite(image, with_value(np.inf))


def zero_spacing(image, _label_map):
    rewrite(image, affine=np.diag([1.0, 1.0, 0.0, 1.0]))


def sheared(image, _label_map):
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[0, 1] = 0.3
    rewrite(image, affine=affine)


def not_a_number_in_the_affine(image, _label_map):
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = np.nan
    rewrite(image, affine=affine)


def folder_instead_of_a_file(image, _label_map):
    image.unlink()
    image.mkdir()


def missing(image, _label_map):
    image.unlink()


BAD = (
    zero_bytes,
    truncated,
    header_only,
    gz_that_is_not_gz,
    image_of_four_axes,
    label_map_of_four_axes,
    label_map_of_another_shape,
    labels_between_integers,
    unknown_label,
    one_nan,
    one_infinity,
    zero_spacing,
    sheared,
    not_a_number_in_the_affine,
    folder_instead_of_a_file,
    missing,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_ball_and_box_dataset(tmp_path_factory.mktemp("sound") / "dataset")


@pytest.fixture(scope="module")
def run(sound):
    out = sound.parent / "run"
    status, text = train(sound, out)
    assert status == 0, text
    return out


@pytest.fixture
def dataset(sound, tmp_path):
    """A copy to be spoiled."""
    return shutil.copytree(sound, tmp_path / "dataset")


def spoil(dataset, spoiling):
    name = "case_2.nii.gz"
    spoiling(dataset / "imagesTr" / name, dataset / "labelsTr" / name)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("spoiling", BAD)
def test_training_stops_before_it_begins_and_names_the_case(
    dataset, tmp_path, spoiling
):
    spoil(dataset, spoiling)

    status, text = train(dataset, tmp_path / "run")

    assert status == 1
    assert "error:" in text
    assert "case_2" in text
    assert "Traceback" not in text
    assert not list((tmp_path / "run").glob("*"))

    status, text = run_command("check", dataset)
    assert status == 1
    assert "case_2" in text


@pytest.mark.parametrize("spoiling", [zero_bytes, truncated, one_nan, sheared])
def test_one_bad_scan_does_not_stop_the_prediction_of_the_others(
    dataset, run, tmp_path, spoiling
):
    spoil(dataset, spoiling)

    status, text = run_command("predict", run, dataset / "imagesTr", tmp_path / "out")

    assert status == 3
    assert "case_2" in text
    assert "Traceback" not in text
    written = sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))
    assert written == [f"case_{n}.nii.gz" for n in (0, 1, 3, 4, 5)]
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    (failed,) = (row for row in map(json.loads, lines) if row["status"] == "failed")
    assert failed["case"] == "case_2"
    assert failed["reasons"]


def test_two_files_of_one_case_are_refused_before_work_starts(dataset, run, tmp_path):
    image = nib.load(dataset / "imagesTr" / "case_2.nii.gz")
    nib.save(image, dataset / "imagesTr" / "case_2.nii")

    status, text = run_command("predict", run, dataset / "imagesTr", tmp_path / "out")

    assert status == 1
    assert "case_2" in text
    assert not (tmp_path / "out").exists()


def test_a_volume_of_one_slice_is_predicted(run, tmp_path):
    image, _ = ball_and_box(1)
    affine = np.diag([1.5, 1.5, 2.0, 1.0])
    nib.save(nib.Nifti1Image(image[:, :, :1], affine), tmp_path / "slice.nii.gz")

    status, text = run_command("predict", run, tmp_path / "slice.nii.gz", tmp_path)

    # The prediction would take the name of the scan.
    assert status == 1
    assert "would be overwritten" in text
    status, text = run_command(
        "predict", run, tmp_path / "slice.nii.gz", tmp_path / "out"
    )
    assert status == 0, text
    assert nib.load(tmp_path / "out" / "slice.nii.gz").shape[:2] == image.shape[:2]


def test_a_data_set_of_single_slices_is_trained_on(tmp_path):
    folder = write_ball_and_box_dataset(tmp_path / "dataset")
    for label_map in (folder / "labelsTr").iterdir():
        foreground = np.asarray(nib.load(label_map).dataobj) > 0
        most = int(foreground.sum(axis=(0, 1)).argmax())
        for path in (label_map, folder / "imagesTr" / label_map.name):
            rewrite(path, lambda array, k=most: array[:, :, k : k + 1])

    status, text = run_command(
        *("train", folder, "--out", tmp_path / "run", "--steps", 2),
        *("--set", f"store={tmp_path / 'store'}", "--set", "splits.folds=3"),
        *("--set", "network.features=[4,8,8]"),
    )

    assert status == 0, text
    assert (tmp_path / "run" / "validation" / "metrics.json").exists()


def test_labels_that_are_nearly_integers_are_taken_for_them(dataset, tmp_path):
    for path in (dataset / "labelsTr").iterdir():
        rewrite(path, lambda array: array.astype(np.float32) * np.float32(0.9999999))

    status, text = train(dataset, tmp_path / "run")

    assert status == 0, text


def test_a_class_that_no_training_case_has_is_left_out_of_the_scores(dataset, tmp_path):
    description = json.loads((dataset / "dataset.json").read_text())
    description["labels"]["3"] = "comet"
    (dataset / "dataset.json").write_text(json.dumps(description))

    status, text = train(dataset, tmp_path / "run")

    assert status == 0, text
    assert "comet" in text
    assert "nan" not in text.lower().split()
    rows = [
        row
        for row in read_log(tmp_path / "run" / "log.jsonl")
        if row["kind"] == "validation"
    ]
    assert rows[-1]["scores"]["comet"] is None or rows[-1]["scores"]["comet"] == 0
    assert rows[-1]["mean"] is not None
    status, text = run_command("check", dataset)
    assert "comet" in text


@pytest.mark.parametrize(
    "name", ["Müller Gehirn №7", "患者", "a" * 140, "with 'quotes' and [brackets]"]
)
def test_unusual_names_of_cases_and_folders_are_kept(sound, tmp_path, name):
    folder = tmp_path / "données de l'étude [1]"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for n in range(3):
        for part in ("imagesTr", "labelsTr"):
            target = folder / part / f"{name} {n}.nii.gz"
            shutil.copy(sound / part / f"case_{n}.nii.gz", target)
    description = json.loads((sound / "dataset.json").read_text())
    description["training"] = [
        {
            "image": f"./imagesTr/{name} {n}.nii.gz",
            "label": f"./labelsTr/{name} {n}.nii.gz",
        }
        for n in range(3)
    ]
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")

    out = folder / "run [2]"
    status, text = train(folder, out)

    assert status == 0, text
    predicted = list((out / "validation").glob("*.nii.gz"))
    assert [path.name[: len(name)] for path in predicted] == [name]
    status, text = run_command(
        "predict", out, folder / "imagesTr" / f"{name} 0.nii.gz", folder / "out put"
    )
    assert status == 0, text
    assert (folder / "out put" / f"{name} 0.nii.gz").exists()
    status, text = run_command("report", out)
    assert status == 0, text


def test_a_name_too_long_for_a_file_is_refused_with_the_remedy(dataset, tmp_path):
    description = json.loads((dataset / "dataset.json").read_text())
    for part, entry in (("imagesTr", "image"), ("labelsTr", "label")):
        path = dataset / part / f"{'b' * 200}.nii.gz"
        (dataset / part / "case_2.nii.gz").rename(path)
        description["training"][2][entry] = f"./{part}/{path.name}"
    (dataset / "dataset.json").write_text(json.dumps(description))

    status, text = train(dataset, tmp_path / "run")

    assert status == 1
    assert "it has 200 characters" in text
    assert "rename it" in text


def test_all_mistakes_of_a_settings_file_are_told_at_once(dataset, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(
        f'dataset = "{dataset.as_posix()}"\n'
        "[training]\nstepps = 3\nseed = 'three'\n"
        "[optimiser]\nlearning_rate = -1.0\n"
        "[sampling]\nforeground_fraction = 2.0\n"
        "[nonsense]\na = 1\n"
    )

    status, text = run_command("train", path, "--out", tmp_path / "run")

    assert status == 1
    for mistake in (
        "training.stepps",
        "training.seed",
        "optimiser.learning_rate",
        "sampling.foreground_fraction",
        "nonsense",
    ):
        assert mistake in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training\nsteps = 3", "is not a TOML file"),
        ("training = 3", "training"),
        ("", "settings name no data set"),
    ],
)
def test_a_settings_file_of_another_form_is_refused(tmp_path, text, message):
    path = tmp_path / "settings.toml"
    path.write_text(text)

    status, answer = run_command("train", path, "--out", tmp_path / "run")

    assert status == 1
    assert message in answer
    assert not (tmp_path / "run").exists()


def test_wrong_use_has_exit_status_2(dataset, tmp_path):
    for words in (
        ["train", dataset],
        ["train", dataset, "--out", tmp_path / "run", "--budget", "soon"],
        ["train", dataset, "--out", tmp_path / "run", "--steps", "0"],
        ["predict", tmp_path],
        ["segment", tmp_path],
    ):
        status, text = run_command(*words)
        assert status == 2, words
        assert "Usage" in text or "usage" in text
