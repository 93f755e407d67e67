"""`foveal train --fold all` and what is made of its folder of runs."""

import json
import re
import shutil

import pytest
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

import foveal
from foveal.cli.main import app
from foveal.commands.fit import Watcher
from foveal.engine.checkpoints import load_checkpoint
from foveal.errors import DatasetError, EvaluationError, RunError, SettingsError
from foveal.planning.splits import read_splits

FOLDS = 3
STEPS = 4

OPTIONS = (
    "network.features=[2,4]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[16,16,16]",
    "patches.batch_size=1",
    "training.threads=1",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "training.validate_every_steps=2",
    f"splits.folds={FOLDS}",
)


class Stopped(Exception):  # noqa: N818 - no error, a person's key
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_ball_and_box_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def train(dataset, tmp_path_factory):
    """Train on the data set with small networks: ``train(out, fold="all")``."""
    store = tmp_path_factory.mktemp("store")
    options = (*OPTIONS, f'store="{store.as_posix()}"')

    def train(out, *, resume=False, more=(), **arguments):
        begun = {} if resume else {"steps": STEPS, "options": (*options, *more)}
        return foveal.train(dataset, out, resume=resume, **begun, **arguments)

    return train


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("unbroken") / "runs", fold="all")


def assert_same(left, right):
    """Everything that the folds learned and measured is equal to the bit."""
    for number in range(FOLDS):
        one, two = left / f"fold_{number}", right / f"fold_{number}"
        for name in ("plan.toml", "splits.toml", "settings.toml"):
            assert (one / name).read_bytes() == (two / name).read_bytes()
        for name in ("last", "best"):
            weights, other = (
                load_checkpoint(run / "checkpoints" / f"{name}.safetensors")[0]
                for run in (one, two)
            )
            assert weights.keys() == other.keys()
            assert all(weights[key].equal(other[key]) for key in weights)
        metrics = [run / "validation" / "metrics.json" for run in (one, two)]
        assert metrics[0].read_bytes() == metrics[1].read_bytes()
    assert (left / "metrics.json").read_bytes() == (right / "metrics.json").read_bytes()


def test_every_fold_is_a_run_of_its_own_with_the_same_plan_and_splits(runs):
    settings = [
        (runs / f"fold_{n}" / "settings.toml").read_text() for n in range(FOLDS)
    ]
    assert ["fold = 0" in settings[0], "fold = 2" in settings[2]] == [True, True]
    for name in ("plan.toml", "splits.toml"):
        shared = (runs / name).read_bytes()
        for number in range(FOLDS):
            assert (runs / f"fold_{number}" / name).read_bytes() == shared
    # A fold alone is what `predict`, `report` and `load_model` take.
    assert foveal.load_model(runs / "fold_1").structures.keys() == {"ball", "box"}


def test_every_training_case_is_measured_once_by_the_fold_that_left_it_out(runs):
    record = json.loads((runs / "metrics.json").read_text())
    cases = [row["case"] for row in record["rows"] if row["metric"] == "dice"]
    assert cases == [f"case_{n}" for n in range(6) for _ in ("ball", "box")]
    folds = read_splits(runs / "splits.toml").folds
    for number, fold in enumerate(folds):
        folder = runs / f"fold_{number}" / "validation"
        found = {path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz")}
        assert found == set(fold.validation)


def test_evaluating_the_folder_measures_the_same_again(runs, dataset):
    measured = foveal.evaluate(runs)
    assert measured.to_json() == (runs / "metrics.json").read_text()
    again = foveal.evaluate(runs, dataset / "labelsTr")
    assert again.cases == measured.cases
    assert len(foveal.evaluate(runs / "fold_2").cases) == 2


def test_regions_can_be_measured_out_of_fold(runs):
    measured = foveal.evaluate(runs, regions={"both": (1, 2)})
    assert measured.structures == ("ball", "box", "both")
    assert len(measured.cases) == 6


@pytest.mark.parametrize("fold", [0, 2])
def test_stopped_in_any_fold_and_resumed_it_ends_as_the_unbroken_one(
    fold, train, runs, tmp_path
):
    stages = []

    def stop(now):
        if now.step == 3 and stages[-1].startswith(f"fold {fold} "):
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path / "r", fold="all", watcher=Watcher(stages.append, None, stop))
    assert not (tmp_path / "r" / "metrics.json").exists()
    told = []
    train(tmp_path / "r", resume=True, watcher=Watcher(told.append))
    assert_same(runs, tmp_path / "r")
    finished = [sentence for sentence in told if sentence.endswith("finished already")]
    assert len(finished) == fold
    assert f"fold {fold} ({fold + 1} of 3): resuming at step 2" in told


def test_a_fold_that_is_gone_is_made_again_and_a_damaged_score_measured_again(
    train, runs, tmp_path
):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    shutil.rmtree(copy / "fold_1")
    damaged = copy / "fold_2" / "validation" / "metrics.json"
    damaged.write_bytes(damaged.read_bytes()[:100])
    train(copy, resume=True, fold="all")
    assert_same(runs, copy)


def test_a_finished_fold_whose_best_is_damaged_is_scored_again(train, runs, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    best = copy / "fold_1" / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:100])
    told = []
    train(copy, resume=True, watcher=Watcher(told.append))
    assert not best.exists()
    # The last checkpoint predicts instead, and what it is measured by is its own.
    model = foveal.load_model(copy / "fold_1")
    assert model.structures.keys() == {"ball", "box"}
    assert any("it is dropped" in stage and "fold 1 " in stage for stage in told)
    again = foveal.evaluate(copy / "fold_1").to_json()
    assert (copy / "fold_1" / "validation" / "metrics.json").read_text() == again
    told.clear()
    train(copy, resume=True, watcher=Watcher(told.append))
    assert sum(stage.endswith("finished already") for stage in told) == FOLDS


def test_scores_of_lost_weights_are_gone_before_the_weights_are(
    train, runs, tmp_path, monkeypatch
):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    best = copy / "fold_1" / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:100])

    def killed(folder, **_):
        assert not (folder / "metrics.json").exists()
        assert best.exists()
        raise Stopped

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Stopped):
        train(copy, resume=True)


def test_finished_cross_validation_is_left_as_it_is(train, runs, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    times = {path: path.stat().st_mtime_ns for path in copy.glob("fold_*/**/*.*")}
    train(copy, resume=True)
    assert times == {p: p.stat().st_mtime_ns for p in copy.glob("fold_*/**/*.*")}


def test_later_folds_take_the_precision_that_the_first_was_timed_with(train, tmp_path):
    stages = []

    def stop(_):
        if stages[-1].startswith("fold 1 "):
            raise Stopped

    more = ("training.precision=auto", "training.memory_layout=auto")
    watcher = Watcher(stages.append, None, stop)
    with pytest.raises(Stopped):
        train(tmp_path / "r", fold="all", more=more, watcher=watcher)
    timed = (tmp_path / "r" / "fold_0" / "settings.toml").read_text()
    timings = [stage for stage in stages if "forward and backward takes" in stage]
    assert len(timings) == 1
    for name in ("precision", "memory_layout"):
        (line,) = re.findall(f"^{name} = .*$", timed, re.MULTILINE)
        assert "auto" not in line
        assert line in (tmp_path / "r" / "fold_1" / "settings.toml").read_text()


# ------------------------------------------------------------------ refusals


def test_one_fold_is_no_cross_validation(dataset, tmp_path):
    with pytest.raises(SettingsError, match="needs two folds or more"):
        foveal.train(dataset, tmp_path / "r", fold="all", options=["splits.folds=1"])


def test_taken_folder_is_refused(train, runs):
    with pytest.raises(RunError, match="already holds something"):
        train(runs, fold="all")


def test_resuming_what_was_never_begun_is_refused(train, tmp_path):
    with pytest.raises(RunError, match=r"is not a cross-validation: .* missing"):
        train(tmp_path / "nothing", resume=True, fold="all")


def test_resuming_one_fold_of_all_is_refused(dataset, runs):
    with pytest.raises(SettingsError, match="goes on with the settings and the plan"):
        foveal.train(dataset, runs, fold=1, resume=True)


def test_damaged_shared_file_is_named(train, runs, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    plan = copy / "plan.toml"
    plan.write_bytes(plan.read_bytes().replace(b"16", b"61"))
    with pytest.raises(RunError, match=r"plan\.toml is damaged or was changed"):
        train(copy, resume=True)


def test_case_of_two_folds_is_refused(runs, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    stray = next((copy / "fold_0" / "validation").glob("*.nii.gz"))
    shutil.copy(stray, copy / "fold_1" / "validation")
    with pytest.raises(EvaluationError, match=r"was predicted by fold_0 and by fold_1"):
        foveal.evaluate(copy)
    stray.unlink()
    with pytest.raises(EvaluationError, match="is no validation case of its run"):
        foveal.evaluate(copy)


def test_folds_that_are_not_there_are_noted(runs, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    shutil.rmtree(copy / "fold_2")
    measured = foveal.evaluate(copy)
    assert len(measured.cases) == 4
    assert measured.notes[0].startswith("2 of 6 cases have no prediction")


@pytest.mark.parametrize(
    "gone", ["fold_1", "fold_1/validation/metrics.json", "fold_1/settings.toml"]
)
def test_an_unfinished_folder_is_no_model_but_its_finished_folds_are(
    gone, runs, dataset, tmp_path
):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    if (copy / gone).is_dir():
        shutil.rmtree(copy / gone)
    else:
        (copy / gone).unlink()
    image = dataset / "imagesTr" / "case_0.nii.gz"
    words = (
        r"3 folds of which 2 are finished \(fold_1 missing or unfinished\); go on with "
        r"foveal train --resume, or give .*: \S*fold_0 \S*fold_2"
    )
    with pytest.raises(RunError, match=words):
        foveal.predict(copy, image, tmp_path / "out")
    with pytest.raises(RunError, match=words):
        foveal.export(copy, tmp_path / "model.foveal")
    with pytest.raises(RunError, match=words):
        foveal.model_card(copy)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "model.foveal").exists()
    named = foveal.load_model([copy / "fold_0", copy / "fold_2"])
    assert len(named.models) == 2


def test_run_before_its_validation_has_nothing_to_evaluate(runs, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs / "fold_0", copy)
    shutil.rmtree(copy / "validation")
    with pytest.raises(DatasetError, match="has no validation predictions yet"):
        foveal.evaluate(copy)


def test_references_are_needed_for_what_is_no_run(dataset):
    with pytest.raises(DatasetError, match="is no run, so its references"):
        foveal.evaluate(dataset / "labelsTr")


# ------------------------------------------------------------------ command line


@pytest.mark.parametrize("word", ["some", "-1", "1.5"])
def test_command_refuses_a_fold_that_is_none(dataset, tmp_path, word):
    arguments = ["train", dataset, "--out", tmp_path / "r", f"--fold={word}"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 2
    assert "write its number, from 0, or all" in " ".join(result.output.split())


def test_command_resumes_and_prints_the_scores_of_all_folds(dataset, runs):
    arguments = ["train", dataset, "--out", runs, "--fold", "all", "--resume"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    mean = foveal.evaluate(runs).mean("ball", "dice")
    assert f"ball: {mean:.4f}" in result.output


def test_report_of_the_folder_shows_every_fold_and_every_case(runs):
    page = foveal.report(runs)
    assert page == runs / "report.html"
    text = re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8"))
    text = re.sub(r"\s+", " ", text)
    assert "BallAndBox: 3 folds" in text
    assert "6 are divided into 3 parts of 2, 2, 2." in text
    table = text[text.index("Fold by fold") : text.index("Worst cases first")]
    assert re.search(r"fold_0 4 [24] 2 .* fold_2 4 [24] 2 .* all, out of fold 6", table)
    assert all(f"case_{n}" in text for n in range(6))


def test_report_of_an_unfinished_folder_says_what_is_missing(runs, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    shutil.rmtree(copy / "fold_2" / "validation")
    text = foveal.report(copy).read_text(encoding="utf-8")
    assert "Not measured yet: fold_2." in text


def test_prediction_with_the_folder_averages_its_folds(runs, dataset, tmp_path):
    image = dataset / "imagesTr" / "case_0.nii.gz"
    folds = [runs / f"fold_{number}" for number in range(FOLDS)]
    foveal.predict(runs, image, tmp_path / "all")
    foveal.predict(folds, image, tmp_path / "one_by_one")
    together, named = (
        (tmp_path / name / "case_0.nii.gz").read_bytes()
        for name in ("all", "one_by_one")
    )
    assert together == named
