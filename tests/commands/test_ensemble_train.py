"""`foveal ensemble train`: members as jobs, who enters, and what is made of them."""

import json
import shutil

import pytest
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

import foveal
from foveal.cli.main import app
from foveal.commands.ensemble_train import ensemble_measure, ensemble_train
from foveal.commands.folds import finished_runs
from foveal.engine.ensemble_directory import EnsembleDirectory, read_outcomes
from foveal.errors import DatasetError, RunError, SettingsError
from foveal.launch.jobs import Ended
from foveal.metrics.evaluation import read_evaluation
from foveal.settings_files import read_ensemble

TINY = """
[settings.network]
name = "unet3d"
features = [2, 4]
kernels = [[3, 3, 3], [3, 3, 3]]
strides = [[2, 2, 2]]

[settings.patches]
size = [16, 16, 16]
batch_size = 1

[settings.splits]
folds = 3

[settings.optimiser]
learning_rate = 0.03

[settings.training]
steps = 6
threads = 1
precision = "float32"
memory_layout = "contiguous"
validate_every_steps = 3
"""

MEMBERS = """
[[members]]
name = "plain"

[[members]]
name = "seeded"
set = { training = { seed = 1 } }

[[members]]
name = "dice"
set = { training = { seed = 2 }, loss = { cross_entropy = 0.0, dice = 1.0 } }
"""

RULE = '[entry]\nregion = "any"\nthreshold_dice = 0.0\n[regions]\nany = [1, 2]\n'


class InThisProcess:
    """Another engine that runs jobs: by the same commands, without processes."""

    def __init__(self, failing=()):
        self.failing, self.ran = failing, []

    def run(self, jobs, watcher):
        return [self._run(job, watcher) for job in jobs]

    def _run(self, job, watcher):
        watcher.on_start(job)
        self.ran.append(job)
        problem = "made to fail"
        if job.name not in self.failing:
            result = CliRunner().invoke(app, list(job.command[3:]))
            problem = "" if result.exit_code == 0 else result.output
        ended = Ended(job.name, problem, 1.0)
        watcher.on_end(ended)
        return ended


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_ball_and_box_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def write(dataset, tmp_path_factory):
    """Write an ensemble's file: ``write(members=…, rule=…)``."""
    store = tmp_path_factory.mktemp("store")

    def write(members=MEMBERS, rule=RULE, top="", settings=TINY):
        path = tmp_path_factory.mktemp("file") / "ensemble.toml"
        head = f'dataset = "{dataset.as_posix()}"\nstore = "{store.as_posix()}"\n'
        path.write_text(head + top + rule + settings + members)
        return path

    return write


@pytest.fixture(scope="module")
def trained(write, tmp_path_factory):
    """An ensemble one of whose members has failed."""
    out = tmp_path_factory.mktemp("trained") / "ensemble"
    launcher = InThisProcess(failing=["seeded"])
    made = ensemble_train(write(), out, launcher=launcher)
    return out, made, launcher


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "copied")


def test_a_member_that_fails_does_not_stop_the_others(trained):
    out, made, launcher = trained

    assert [job.name for job in launcher.ran] == ["plain", "seeded", "dice"]
    assert [one.entered for one in made.outcomes] == [True, False, True]
    assert made.outcomes[1].reason == "made to fail"
    assert [run.path.name for run in finished_runs(out)] == ["plain", "dice"]


def test_members_share_the_division_of_patients(trained):
    out, _, _ = trained
    texts = {path.read_text() for path in out.glob("members/*/splits.toml")}

    assert texts == {(out / "splits.toml").read_text()}


def test_the_table_is_of_members_and_of_ensembles_of_them(trained):
    out, made, _ = trained

    assert [one.name for one in made.table.systems] == ["plain", "dice", "first 2"]
    assert made.table.structures == ("ball", "box", "any")
    alone = read_evaluation(out / "members" / "plain" / "validation" / "metrics.json")
    assert made.table.systems[0].find("ball", "dice").mean == alone.mean("ball", "dice")
    whole = read_evaluation(out / "metrics.json")
    assert made.table.systems[-1].find("any", "dice").mean == whole.mean("any", "dice")
    record = json.loads((out / "table.json").read_text())
    assert (
        record["best_member"]
        == max(
            (one for one in made.outcomes if one.entered), key=lambda one: one.dice
        ).name
    )


def test_an_ensemble_predicts_what_it_was_measured_by(trained, dataset, tmp_path):
    out, _, _ = trained
    (first, *_) = sorted((out / "validation").iterdir())
    scan = dataset / "imagesTr" / first.name

    foveal.predict(out, scan, tmp_path / first.name, threads=1)

    assert (tmp_path / first.name).read_bytes() == first.read_bytes()


def test_a_resumed_ensemble_trains_what_is_not_finished_only(write, copied):
    (copied / "members" / "dice" / "validation" / "metrics.json").unlink()
    launcher = InThisProcess()

    made = ensemble_train(write(), copied, resume=True, launcher=launcher)

    seeded, dice = launcher.ran
    assert (seeded.name, dice.name) == ("seeded", "dice")
    assert "--resume" in dice.command
    assert "--resume" not in seeded.command
    assert dice.command[:4] == seeded.command[:4]
    assert [one.steps for one in made.outcomes] == [6, 6, 6]
    assert [one.name for one in made.table.systems[:3]] == ["plain", "seeded", "dice"]


def test_the_rule_may_be_changed_without_training_again(write, copied):
    launcher = InThisProcess(failing=["seeded"])
    outcomes = read_outcomes(EnsembleDirectory(copied))
    low, high = sorted(one.dice for one in outcomes if one.dice is not None)
    rule = RULE.replace("0.0", str((low + high) / 2))

    made = ensemble_train(write(rule=rule), copied, resume=True, launcher=launcher)

    assert [one.entered for one in made.outcomes].count(True) == 1
    assert len(finished_runs(copied)) == 1
    # Measured again by the rule that is kept now.
    assert ensemble_measure(copied).outcomes[0] == made.outcomes[0]


def test_other_settings_than_it_was_begun_with_are_refused(write, copied):
    others = write(members=MEMBERS.replace("seed = 2", "seed = 3"))

    with pytest.raises(SettingsError, match="begun with other settings: member dice"):
        ensemble_train(others, copied, resume=True)


def test_a_threshold_that_nobody_passes_is_refused_with_the_table(write, copied):
    rule = RULE.replace("0.0", "0.999")
    launcher = InThisProcess(failing=["seeded"])

    with pytest.raises(RunError) as refused:
        ensemble_train(write(rule=rule), copied, resume=True, launcher=launcher)

    lines = str(refused.value).splitlines()
    assert lines[0] == "no member has a validated Dice of any above 0.999:"
    assert [line.split()[0] for line in lines[1:4]] == ["plain", "seeded", "dice"]
    with pytest.raises(RunError, match="no member of the ensemble"):
        foveal.load_model(copied)


def test_a_report_shows_members_tables_and_errors(trained):
    path = foveal.report(trained[0])

    page = path.read_text(encoding="utf-8")
    assert "no: made to fail" in page
    assert "first 2" in page
    assert page.count("data:image/png") == 2


def test_a_model_file_holds_the_members_that_entered(trained, tmp_path):
    card = foveal.export(trained[0], tmp_path / "model.foveal")

    assert len(card["members"]) == 2


def refusal(path, out):
    with pytest.raises(SettingsError) as refused:
        ensemble_train(path, out)
    assert not out.exists()
    return str(refused.value)


def test_mistakes_of_all_members_are_told_at_once(write, tmp_path):
    members = MEMBERS.replace("seed = 1", "sed = 1").replace("dice = 1.0", "dize = 1.0")

    words = refusal(write(members=members), tmp_path / "out")

    assert "member seeded: wrong settings" in words
    assert "training.sed: no such setting" in words
    assert "loss.dize: no such setting" in words


def test_two_members_of_one_name_are_refused(write, tmp_path):
    members = MEMBERS.replace('"seeded"', '"Plain"')

    words = refusal(write(members=members), tmp_path / "out")

    assert "members: 2 are called plain" in words


def test_an_unknown_region_is_refused_with_those_there_are(write, tmp_path):
    rule = RULE.replace('"any"', '"tumour"')

    words = refusal(write(rule=rule), tmp_path / "out")

    assert "entry.region: tumour is no structure" in words
    assert "there are ball, box, any" in words


def test_members_with_other_labels_are_refused(write, tmp_path):
    labels = 'labels = { names = ["ball"], values = [1] }'
    members = MEMBERS.replace(
        "set = { training = { seed = 1 } }", f"set = {{ {labels} }}"
    )

    words = refusal(write(members=members), tmp_path / "out")

    assert "member seeded: its labels are" in words


def test_a_data_set_that_is_missing_is_refused(write, tmp_path):
    path = write()
    path.write_text(path.read_text().replace("/dataset", "/nowhere"))

    with pytest.raises(DatasetError, match="nowhere"):
        ensemble_train(path, tmp_path / "out")


def test_what_all_members_share_cannot_be_said_of_one(write, tmp_path):
    members = MEMBERS.replace("seed = 1 } }", "seed = 1 }, splits = { folds = 2 } }")

    words = refusal(write(members=members), tmp_path / "out")

    assert "member seeded: set names splits, which all members share" in words


def test_every_member_is_trained_with_every_variant(write):
    variants = """
[[variants]]
name = "zscore"
every_channel = { normalisation = "zscore" }
[[variants]]
name = "unit"
every_channel = { normalisation = "unit" }
"""
    config = read_ensemble(write(members=MEMBERS + variants))

    assert config.full_names[:3] == ("plain_zscore", "plain_unit", "seeded_zscore")
    assert len(config.full_names) == 6
