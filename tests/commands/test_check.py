import json
import re

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import foveal
from foveal.cli.check import check as check_command
from foveal.errors import DatasetError
from foveal.geometry import Grid
from foveal.io.volumes import write_volume

LABELS = np.zeros((4, 5, 6), np.uint8)
LABELS[1:3] = 1


@pytest.fixture
def folder(tmp_path):
    """Five sound cases in two folders."""
    generator = np.random.default_rng(0)
    grid = Grid((4, 5, 6), np.eye(4))
    for number in range(5):
        image = generator.normal(size=grid.shape).astype(np.float32)
        write_volume(tmp_path / "images" / f"case_{number}.nii.gz", image, grid)
        write_volume(tmp_path / "labels" / f"case_{number}.nii.gz", LABELS, grid)
    return tmp_path


def run(*arguments):
    app = typer.Typer()
    app.command()(check_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_sound_data_set_exits_with_0_and_says_so(folder):
    result = run(folder)
    assert result.exit_code == 0
    assert "5 cases, 5 with a label map; channels: 0" in result.output
    assert "Nothing wrong was found" in result.output


def test_a_damaged_case_is_named_and_exits_with_1(folder):
    path = folder / "labels" / "case_3.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    result = run(folder)
    assert result.exit_code == 1
    assert "case_3" in result.output
    assert "Mend the errors first" in result.output


def test_json_is_the_only_output_and_exits_with_1_too(folder):
    (folder / "images" / "case_1.nii.gz").write_bytes(b"")
    result = run(folder, "--json")
    assert result.exit_code == 1
    table = json.loads(result.stdout)
    assert table["errors"] == 1
    assert table["findings"][0]["case"] == "case_1"
    assert table["findings"][0]["severity"] == "error"


def test_warnings_alone_exit_with_0(folder):
    (folder / "images" / "case_4.nii.gz").unlink()
    (folder / "labels" / "case_4.nii.gz").unlink()
    result = run(folder)
    assert result.exit_code == 0
    assert re.search(r"0 error\(s\), 1 warning\(s\)", result.output)


def test_a_folder_that_is_no_data_set_exits_with_1_and_the_remedy(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "arrange it as in docs/datasets.md" in " ".join(result.output.split())


def test_python_takes_a_path_or_a_data_set(folder):
    dataset = foveal.read_dataset(folder)
    assert foveal.check(dataset).num_errors == 0
    assert foveal.check(str(folder)).present_cases == {"1": 5}
    with pytest.raises(DatasetError, match="does not exist"):
        foveal.check(folder / "nowhere")
