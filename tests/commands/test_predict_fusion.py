import json

import numpy as np
import pytest
from made_up_models import write_run
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.commands.models import load_model
from foveal.commands.predict import predict
from foveal.engine.run_directory import RunDirectory
from foveal.errors import RunError, SettingsError
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.io.volumes import read_volume
from foveal.metrics.evaluation import Evaluation, Row, summarise


def validated(run, dice):
    rows = [Row("v", name, "dice", value) for name, value in dice.items()]
    path = RunDirectory(run).metrics
    path.parent.mkdir(exist_ok=True)
    path.write_text(Evaluation(tuple(rows), summarise(rows, dice)).to_json())
    return run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_ball_and_box_dataset(
        tmp_path_factory.mktemp("data") / "d", num_cases=1, shape=(16, 16, 14)
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        write_run(folder / f"r{seed}", seed=seed)
    validated(folder / "r0", {"ball": 0.4, "box": 0.2})
    validated(folder / "r1", {"ball": 0.9, "box": 0.7})
    return [folder / "r0", folder / "r1"]


def test_validated_dice_weighs_votes_and_is_recorded(runs, dataset, tmp_path):
    (outcome,) = predict(runs, dataset, tmp_path / "p", fusion="weighted")
    assert outcome.options["fusion"] == "weighted"
    assert outcome.options["weights"] == pytest.approx([0.3, 0.8])
    (file,) = (output.file for output in outcome.outputs)
    (files,) = read_dataset(dataset).cases
    # The second outweighs the first everywhere.
    alone = load_model(runs[1]).predict(read_case(files))
    assert np.array_equal(read_volume(tmp_path / "p" / file).array, alone)
    again = predict(runs, dataset, tmp_path / "p", fusion="weighted", resume=True)
    assert again == [outcome]
    with pytest.raises(RunError, match="were made with other options"):
        predict(runs, dataset, tmp_path / "p", fusion="majority", resume=True)


def test_model_that_was_not_validated_has_no_vote(runs, dataset, tmp_path):
    write_run(tmp_path / "r2", seed=2)
    with pytest.raises(SettingsError, match=r"r2 has no validated Dice above 0"):
        predict([*runs, tmp_path / "r2"], dataset, tmp_path / "p", fusion="weighted")
    assert not (tmp_path / "p").exists()


def test_uncertainty_of_votes_is_refused(runs, dataset, tmp_path):
    words = ["predict", *map(str, runs), str(dataset), str(tmp_path / "p")]
    told = CliRunner().invoke(app, [*words, "--fusion", "staple", "--uncertainty"])
    assert told.exit_code == 1
    assert "which --fusion staple gives up for" in " ".join(told.output.split())
    told = CliRunner().invoke(app, [*words, "--fusion", "staple", "--json"])
    assert json.loads(told.stdout)[0]["options"]["fusion"] == "staple"
