import io
import json

import numpy as np
import pytest
from matplotlib import image as images
from typer import Typer
from typer.testing import CliRunner

from foveal.cli.compare import compare as compare_from_command_line
from foveal.commands.compare import compare
from foveal.errors import EvaluationError, RunError, SettingsError
from foveal.metrics.evaluation import DEFINITIONS, Evaluation, Row, summarise

STRUCTURES = ("liver", "spleen")


def write(path, seed, gain=0.0, num_cases=12):
    """Write a ``metrics.json`` of random values, ``gain`` above the common ones."""
    common = np.random.default_rng(0).uniform(0.6, 0.8, size=(num_cases, 2))
    own = np.random.default_rng(seed).normal(gain, 0.02, size=common.shape)
    rows = [
        Row(f"case_{case}", structure, metric, value)
        for case, values in enumerate((common + own).tolist())
        for structure, dice in zip(STRUCTURES, values, strict=True)
        for metric in DEFINITIONS
        for value in [100.0 if metric == "reference_voxels" else dice]
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = Evaluation(tuple(rows), summarise(rows, STRUCTURES)).to_json()
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "old.json", 1), write(tmp_path / "new.json", 2, gain=0.05)


def test_two_files_are_compared_and_named_after_themselves(files):
    comparison = compare(*files)
    assert comparison.systems == ("old", "new")
    found = comparison.find("liver", "dice")
    assert found.mean_difference == pytest.approx(0.05, abs=0.02)
    assert found.interval[0] < found.mean_difference < found.interval[1]
    assert found.wilcoxon_p_holm < 0.05
    assert len(comparison.differences) == 2 * 3


def test_several_files_are_all_compared_with_the_first(files, tmp_path):
    third = write(tmp_path / "third.json", 3, gain=-0.05)
    comparison = compare(*files, third, metrics=["dice"])
    assert [entry.system for entry in comparison.differences] == [
        *("new", "new"),
        *("third", "third"),
    ]
    assert comparison.find("liver", "dice", "third").mean_difference < 0


def test_lists_are_seeds_of_one_system(tmp_path):
    first = [write(tmp_path / f"a{seed}.json", seed) for seed in range(3)]
    second = [write(tmp_path / f"b{seed}.json", 9 + seed, 0.05) for seed in range(2)]
    comparison = compare(first, second)
    assert comparison.num_seeds == (3, 2)
    found = comparison.find("spleen", "dice")
    assert 0 < found.first.seed_deviation < 0.02


def test_systems_of_one_file_name_are_told_apart_by_their_folders(tmp_path):
    paths = [
        write(tmp_path / run / "fold_0" / "validation" / "metrics.json", 1)
        for run in ("unet", "other")
    ]
    assert compare(*paths).systems == ("unet/fold_0", "other/fold_0")
    assert compare(*paths, names=["A", "B"]).systems == ("A", "B")


def test_names_must_be_as_many_as_the_systems(files):
    with pytest.raises(SettingsError, match="1 names are given for 2 systems"):
        compare(*files, names=["A"])


def test_folder_without_runs_is_refused(files, tmp_path):
    with pytest.raises(RunError, match="is not a run and holds none"):
        compare(tmp_path, *files)


def test_results_follow_the_ending(files, tmp_path):
    comparison = compare(*files, output=tmp_path / "c.json")
    assert (tmp_path / "c.json").read_text() == comparison.to_json()
    with pytest.raises(SettingsError, match=r"c\.pdf must end in \.json or \.png"):
        compare(*files, output=tmp_path / "c.pdf")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_picture_is_the_same_each_time(files, tmp_path, ending):
    compare(*files, output=tmp_path / f"one.{ending}")
    compare(*files, output=tmp_path / f"two.{ending}")
    picture = (tmp_path / f"one.{ending}").read_bytes()
    assert picture == (tmp_path / f"two.{ending}").read_bytes()
    if ending == "svg":
        text = picture.decode()
        assert "new less old, case by case" in text
        assert all(f">{name}<" in text for name in STRUCTURES)
        assert "difference (left of 0 is better)" in text
    else:
        # White paper with dots of the first colour on it.
        pixels = images.imread(io.BytesIO(picture))[..., :3]
        assert np.median(pixels) == 1
        assert (np.abs(pixels - [0.55, 0.75, 0.86]).max(axis=-1) < 0.1).sum() > 50


def test_undefined_differences_draw_no_row_but_do_not_fail(tmp_path):
    one = write(tmp_path / "one.json", 1, num_cases=1)
    compare(
        one, write(tmp_path / "two.json", 2, num_cases=1), output=tmp_path / "c.png"
    )
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------ command line


def run(*arguments):
    app = Typer()
    app.command()(compare_from_command_line)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command_prints_a_table_per_metric_and_what_it_means(files, tmp_path):
    result = run(*files, "--metric", "dice", "-o", tmp_path / "c.png")
    assert result.exit_code == 0, result.output
    assert "Dice: new less old" in result.output
    assert "HD95" not in result.output
    text = " ".join(result.output.split())
    assert "adjusted by Holm's method for the 2 test(s) of each kind" in text
    found = compare(*files).find("liver", "dice")
    (line,) = [line for line in result.output.splitlines() if "liver" in line]
    assert f"{found.mean_difference:+.3f}" in line
    assert f"{found.num_better}/12" in line


def test_tables_fit_80_characters(files):
    result = run(*files)
    assert max(map(len, result.output.splitlines())) <= 80
    assert "t p" in result.output


def test_command_takes_seeds_around_the_word_vs(tmp_path):
    old = [write(tmp_path / f"old{seed}.json", seed) for seed in range(2)]
    new = [write(tmp_path / f"new{seed}.json", 9 + seed) for seed in range(3)]
    result = run(*old, "vs", *new, "--name", "A", "--name", "B", "--json")
    record = json.loads(result.stdout)
    assert record["systems"] == [
        {"name": "A", "num_seeds": 2},
        {"name": "B", "num_seeds": 3},
    ]
    printed = run(*old, "vs", *new, "--metric", "dice").output
    assert "Deviation between the seeds of old0: liver 0.0" in printed


def test_command_refuses_an_empty_side(files):
    result = run(*files, "vs")
    assert result.exit_code == 1
    assert "a system has no evaluation" in result.output


def test_one_file_is_refused(files):
    with pytest.raises(EvaluationError, match="there is one system only"):
        compare(files[0])
