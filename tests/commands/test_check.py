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


def test_the_picture_shows_the_odd_cases_and_what_is_odd(folder, monkeypatch):
    from foveal.reports import odd_cases

    shown = []

    def note(panels, structures):
        shown.append((panels, structures))
        return b"picture"

    monkeypatch.setattr(odd_cases, "odd_cases_picture", note)
    grid = Grid((4, 5, 6), np.eye(4))
    write_volume(folder / "labels" / "case_1.nii.gz", 0 * LABELS, grid)
    (folder / "images" / "case_3.nii.gz").write_bytes(b"")
    path = folder / "odd.png"
    result = run(folder, "--picture", path)
    assert result.exit_code == 1
    assert f"Picture of the oddest cases: {path}" in result.output.replace("\n", "")
    assert path.read_bytes() == b"picture"
    (((error, warning), structures),) = shown
    assert structures == {1: "1"}
    assert (error.case, error.severity, error.shown) == ("case_3", "error", None)
    assert (warning.case, warning.severity) == ("case_1", "warning")
    assert warning.words == ["the label map is empty"]
    assert warning.shown.image.shape == (5, 4)


def test_without_odd_cases_no_picture_is_written(folder):
    path = folder / "odd.png"
    result = run(folder, "--picture", path)
    assert result.exit_code == 0
    assert "No case is odd" in result.output
    assert not path.exists()


def test_disk_and_memory_are_said(folder):
    words = " ".join(run(folder).output.split())
    assert re.search(r"about \S+ MB on disk \(\S+ GB free\); the largest, case_", words)


def test_what_many_share_is_one_row_with_some_names(tmp_path):
    grid = Grid((4, 5, 6), np.eye(4))
    for n in range(16):
        image = np.random.default_rng(n).normal(size=grid.shape).astype(np.float32)
        write_volume(tmp_path / "images" / f"case_{n:02d}.nii.gz", image, grid)
        labels = LABELS * (n < 4)
        write_volume(tmp_path / "labels" / f"case_{n:02d}.nii.gz", labels, grid)
    words = " ".join(run(tmp_path).output.replace("│", " ").split())
    assert "empty label map, in 12 cases; case_04: the label map is empty" in words
    assert "case_08, case_09 and 6 more (--json lists all)" in words
    table = json.loads(run(tmp_path, "--json").stdout)
    (finding,) = table["findings"]
    assert finding["cases"] == [f"case_{n:02d}" for n in range(4, 16)]


def test_cases_left_out_are_named_with_their_reason(folder):
    rows = ["case,channel_mr,label_map,exclude"]
    rows += [
        f"case_{n},images/case_{n}.nii.gz,labels/case_{n}.nii.gz,"
        + ("metal artefact" if n == 2 else "")
        for n in range(5)
    ]
    table = folder / "table.csv"
    table.write_text("\n".join(rows))
    assert "left out: case_2 (metal artefact)" in run(table).output
    assert json.loads(run(table, "--json").stdout)["excluded_cases"] == [
        {"name": "case_2", "reason": "metal artefact"}
    ]
