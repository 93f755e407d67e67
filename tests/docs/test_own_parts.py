"""The plugin of the documentation runs as it stands."""

import re
import tomllib
from pathlib import Path

import pytest
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.engine.log import read_log

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "own_parts.md").read_text(
    "utf-8"
)

SMALL = (
    *("network.features=[4,8]", "network.kernels=[[3,3,3],[3,3,3]]"),
    *("network.strides=[[2,2,2]]", "patches.size=[16,16,16]", "training.threads=1"),
    *("training.precision=float32", "training.memory_layout=contiguous"),
    *("splits.folds=3", "plugins.steady.noise=0.2"),
)


@pytest.fixture(scope="module")
def example():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    return code


def test_example_is_short(example):
    assert len(example.splitlines()) < 60


def test_command_and_example_of_the_page_train_a_phantom(
    example, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("my_parts.py").write_text(example, encoding="utf-8")
    write_ball_and_box_dataset(tmp_path / "DATASET")
    (command,) = re.findall(r"^foveal (train DATASET .*)$", PAGE, flags=re.MULTILINE)
    words = [*command.split(), "--steps", "3", "--set", "store=store"]
    for option in SMALL:
        words += ["--set", option]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    rows = read_log(tmp_path / "RUN" / "log.jsonl")
    terms = [row["terms"] for row in rows if row["kind"] == "step"]
    assert terms[0].keys() == {"cross_entropy", "dice", "robust", "steadiness"}
    assert 0 < terms[0]["robust"] < terms[0]["cross_entropy"]
    assert terms[0]["steadiness"] == 0 < terms[2]["steadiness"]
    settings = tomllib.loads((tmp_path / "RUN" / "settings.toml").read_text())
    assert settings["method"] == {"name": "steady"}
    assert settings["plugins"] == {
        "robust": {"q": 0.7},
        "steady": {"weight": 1.0, "noise": 0.2},
    }
    kept = tmp_path / "RUN" / "plugins" / "my_parts.py"
    assert kept.read_text(encoding="utf-8") == example
