import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_sampling import made_up_adaptive_run
from PIL import Image
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.commands import report_sampling
from foveal.commands.report import report
from foveal.commands.report_curves import names_of
from foveal.commands.report_drawn_places import drawn_centres, thirds
from foveal.commands.report_error_maps import spread
from foveal.commands.report_sampling import error_series, latest_difficulty
from foveal.commands.reported_run import read_run
from foveal.commands.run_words import training_facts
from foveal.config.settings import Settings
from foveal.engine.run_directory import RunDirectory
from foveal.errors import RunError
from foveal.geometry import Grid
from foveal.reports import figures
from foveal.reports.slices import fullest_slice, slab_slice
from foveal.reports.views import stored_slice_axis


class Outline(HTMLParser):
    """What stands beside the pictures, and the text of the page."""

    def __init__(self):
        super().__init__()
        self.pictures = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs)["alt"])

    def handle_data(self, data):
        self.text += f" {data} "


def outline(path):
    parser = Outline()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.text = re.sub(r"\s+", " ", parser.text)
    return parser


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_up_adaptive_run(tmp_path_factory.mktemp("adaptive"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    run = made_up_adaptive_run(folder, adaptive=False)
    return run.rename(folder / "plain")


@pytest.fixture
def copy(run, tmp_path):
    """The run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def drawn(monkeypatch):
    """What the two pictures are given; nothing else is drawn."""
    for name in ("plain_curves", "loss_curve", "learning_rate_curve", "score_curve"):
        monkeypatch.setattr(figures, name, lambda *_: b"<svg/>")
    given = {}
    for name in ("error_maps_picture", "drawn_places_picture"):

        def note(cases, _labels, name=name):
            given[name] = cases
            return b"picture"

        monkeypatch.setattr(report_sampling, name, note)
    return given


# ---------------------------------------------------------------------- a whole report


def test_an_adaptive_run_shows_errors_places_and_how_they_moved(run):
    page = outline(report(run))
    assert page.pictures[-5:] == [
        "Error maps through training",
        "Where patches were drawn",
        "Acceptance over the training steps",
        "Age of the error maps over the training steps",
        "Errors of training cases over the training steps",
    ]
    assert "White: wrong" in page.text
    assert "2 refreshes made 6 error maps in 4 s." in page.text
    assert "100% were accepted in the first tenth" in page.text
    assert "25% in the last" in page.text
    assert "1 steps old on average, 2 at most" in page.text
    # 50 / 255, half of it and 0.1.
    assert "0.13 over 3 cases; highest in a (0.20), c (0.10), b (0.10)." in page.text


def test_a_run_that_is_not_adaptive_shows_places_only(plain):
    page = outline(report(plain))
    assert "Where patches were drawn" in page.pictures
    assert "Error maps through training" not in page.pictures
    assert "Adaptive sampling" not in page.text


def test_a_run_that_never_had_an_error_map_is_warned_of(copy):
    rows = [json.loads(line) for line in (copy / "log.jsonl").read_text().splitlines()]
    # As of a process that was started, but never delivered.
    for row in rows:
        if row["kind"] == "refresh":
            del row["cases"]
    (copy / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(copy / "error_maps")
    page = outline(report(copy))
    assert "Warning: No error map was made so far: all patches came from" in page.text
    assert "refreshes made" not in page.text


def test_a_run_older_than_the_log_of_patches_has_no_such_part(plain, tmp_path):
    old = Path(shutil.copytree(plain, tmp_path / "old"))
    rows = [json.loads(line) for line in (old / "log.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("patches", None)
    (old / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = outline(report(old))
    assert "Loss over the training steps" in page.pictures
    assert "Where patches came from" not in page.text


def test_slices_of_image_reference_and_errors_fit_one_another(run, drawn):
    report(run)
    first, second = drawn["error_maps_picture"]
    # Of the training cases the first two by name.
    assert (first.case, second.case) == ("a", "b")
    assert [one.step for one in first.errors] == [3, 6]
    for one, value in zip(first.errors, (200, 50), strict=True):
        expected = np.where(first.shown.labels > 0, value / 255, 0)
        assert np.allclose(one.errors, expected)
    # 5 mm slices, so across k; Ball and Box both reach most voxels there.
    assert first.shown.plane == "axial"
    assert first.pixel_mm == (2, 2)
    assert set(np.unique(first.shown.labels)) == {0, 1, 2}
    assert first.shown.image.shape == first.errors[0].errors.shape == (20, 24)


def test_patches_are_divided_into_early_and_late_and_lie_where_they_were(run, drawn):
    report(run)
    seen = drawn["drawn_places_picture"][0]
    early, late = seen.parts
    assert (early.when, late.when) == ("steps 0 to 2", "steps 6 to 8")
    assert (early.num_patches, late.num_patches) == (3, 3)
    # RAS: i runs to the right, which is left on the screen; j to the front, which is
    # up; k to the head.
    axial, coronal = (part.centres for part in early.projections)
    rows, columns = np.nonzero(axial)
    assert set(rows) == {19 - 2}
    assert set(columns) == {23 - 0, 23 - 1, 23 - 2}
    rows, columns = np.nonzero(coronal)
    assert set(rows) == {11 - 3}
    assert set(columns) == {23, 22, 21}
    assert set(np.nonzero(late.projections[0].centres)[1]) == {23 - 6, 23 - 7, 23 - 8}


# ------------------------------------------------------------ missing and damaged files


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_damaged_picture_of_errors_costs_itself_only(copy, drawn, content):
    path = copy / "error_maps" / "cases" / "a" / "step_0000003.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    page = outline(report(copy))
    assert "Not shown: a/step_0000003.png or the .json beside it" in page.text
    first, second = drawn["error_maps_picture"]
    assert [one.step for one in first.errors] == [6]
    assert [one.step for one in second.errors] == [3, 6]


@pytest.mark.parametrize(
    "change",
    [
        {"slice": None},
        {"slice": {"axis": 5, "index": 0, "affine": np.eye(4).tolist()}},
        {"slice": {"axis": 2, "index": 0, "affine": [1, 2]}},
        {"slice": {"axis": 2, "index": 0, "affine": np.zeros((4, 4)).tolist()}},
        {"shape": [3, 3]},
        {"shape": [9, 9, 9]},
    ],
)
def test_a_damaged_record_of_errors_costs_itself_only(copy, drawn, change):
    path = copy / "error_maps" / "cases" / "a" / "step_0000006.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    page = outline(report(copy))
    assert "Not shown: a/step_0000006.png" in page.text
    assert [one.step for one in drawn["error_maps_picture"][0].errors] == [3]


def test_a_picture_of_another_size_is_not_shown(copy, drawn):
    path = copy / "error_maps" / "cases" / "a" / "step_0000006.png"
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(path)
    assert "Not shown: a/step_0000006.png" in outline(report(copy)).text
    assert [one.step for one in drawn["error_maps_picture"][0].errors] == [3]


def test_without_the_store_the_error_maps_are_shown_alone(copy, run, tmp_path):
    settings = (copy / "settings.toml").read_text()
    moved = settings.replace((run.parent / "store").as_posix(), f"{tmp_path}/gone")
    (copy / "settings.toml").write_text(moved)
    page = outline(report(copy))
    assert "The error maps of a are shown alone: the store has no" in page.text
    assert "Where the patches of b lay is not shown" in page.text
    assert "Error maps through training" in page.pictures
    assert "Where patches were drawn" not in page.pictures
    assert not (tmp_path / "gone").exists()


# ------------------------------------------------------------------- runs side by side


@pytest.mark.usefixtures("drawn")
def test_two_runs_stand_beside_each_other_by_name_and_kind(run, plain, monkeypatch):
    given = {}
    for name in ("smoothed_loss_curves", "fold_score_curves"):

        def note(curves, *_measure, name=name):
            given[name] = curves
            return b"<svg/>"

        monkeypatch.setattr(figures, name, note)
    page = outline(report(run, beside=[plain]))
    names = ["run, adaptive", "plain, not adaptive"]
    losses = [2 - step / 10 for step in range(9)]
    assert list(given["smoothed_loss_curves"]) == names
    assert given["smoothed_loss_curves"]["run, adaptive"] == (list(range(9)), losses)
    assert given["fold_score_curves"] == dict.fromkeys(names, ([9], [0.6]))
    assert "Beside other runs" in page.text
    assert "Adaptive sampling picks hard patches" in page.text


@pytest.mark.usefixtures("drawn")
def test_both_names_are_on_the_page(run, plain, tmp_path):
    path = tmp_path / "both.html"
    runner = CliRunner()
    command = ["report", str(run), "--beside", str(plain), "-o", str(path)]
    assert runner.invoke(app, command).exit_code == 0
    pictures = re.findall(r"svg\+xml;base64,([^\"]+)", path.read_text())
    drawn = b"".join(base64.b64decode(picture) for picture in pictures).decode()
    assert "run, adaptive" in drawn
    assert "plain, not adaptive" in drawn


def test_runs_of_one_name_are_told_apart_by_their_folders(run, copy):
    runs = [read_run(RunDirectory(path)) for path in (run, copy)]
    assert names_of(runs) == [f"{run.resolve()}, adaptive", f"{copy}, adaptive"]


def test_a_run_is_not_put_beside_itself(run):
    with pytest.raises(RunError, match="is given twice"):
        report(run, beside=[run])


@pytest.mark.usefixtures("drawn")
def test_runs_that_validated_others_and_by_other_measures_are_named(plain, copy):
    log = (copy / "log.jsonl").read_text()
    (copy / "log.jsonl").write_text(log.replace('"Dice"', '"balanced accuracy"'))
    splits = (copy / "splits.toml").read_text()
    (copy / "splits.toml").write_text(splits.replace('"c"', '"d"'))
    page = outline(report(plain, beside=[copy], output=copy / "report.html"))
    assert "left out: run, adaptive." in page.text
    assert "validated different patients" in page.text


# -------------------------------------------------------------------- parts of a report


def test_centres_are_gathered_by_case_over_streams():
    rows = [
        {"step": 0},
        {"step": 1, "patches": {"x": [["a", 1, 2, 3]], "y": [["b", 4, 5, 6]]}},
        {"step": 2, "patches": {"x": [["a", 7, 8, 9]]}},
    ]
    assert drawn_centres(rows) == {
        "a": [(1, (1, 2, 3)), (2, (7, 8, 9))],
        "b": [(1, (4, 5, 6))],
    }


def test_early_and_late_are_thirds():
    assert thirds(60) == [range(20), range(40, 60)]
    assert thirds(2) == [range(2)]


def test_versions_are_spread_over_the_training():
    paths = [Path(str(number)) for number in range(10)]
    assert [path.name for path in spread(paths, 4)] == ["0", "3", "6", "9"]
    assert spread(paths[:2], 4) == paths[:2]
    assert spread([], 4) == []


def test_errors_of_a_refresh_are_means_over_its_cases():
    easy, hard = (
        {"mean_error": mean, "difficulty": difficulty}
        for mean, difficulty in ((0.1, 0.3), (0.3, 0.9))
    )
    rows = [
        {"step": 5, "cases": {"a": hard, "b": easy}},
        {"step": 9, "cases": {"a": easy}},
    ]
    series = error_series(rows)
    assert series["in the structures"] == ([5, 9], [pytest.approx(0.6), 0.3])
    assert series["in all voxels"] == ([5, 9], [pytest.approx(0.2), 0.1])
    assert latest_difficulty(rows) == {"a": 0.3, "b": 0.3}


def test_a_running_mean_goes_over_a_tenth_of_the_curve():
    steps, values = figures.smoothed_curve(range(20), [0] * 10 + [9] * 10)
    assert steps == list(range(20))
    assert values[:9] == [0] * 9
    assert values[9:11] == [3, 6]
    assert values[11:] == [9] * 9
    assert figures.smoothed_curve([], []) == ([], [])


@pytest.mark.parametrize("orientation", ["RAS", "PIR"])
def test_a_slab_is_laid_out_like_the_slice_of_the_whole(orientation):
    columns = {"R": 0, "A": 1, "S": 2, "P": 1, "I": 2}
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, letter in enumerate(orientation):
        affine[columns[letter], axis] = (axis + 1) * (1 if letter in "RAS" else -1)
    generator = np.random.default_rng(0)
    image = generator.normal(size=(3, 4, 5)).astype(np.float32)
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 2, 3] = 1
    grid = Grid((3, 4, 5), affine)
    axis = stored_slice_axis(grid)
    index = (1, 2, 3)[axis]
    whole = fullest_slice(image, labels, grid)
    slab = slab_slice(
        np.take(image, [index], axis), np.take(labels, [index], axis), grid, axis
    )
    assert np.array_equal(slab.image, whole.image)
    assert np.array_equal(slab.labels, whole.labels)
    assert (slab.pixel_mm, slab.plane) == (whole.pixel_mm, whole.plane)


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"sampler": "uniform"}, "Anywhere"),
        (
            {"sampler": "foreground_background", "foreground_fraction": 0.25},
            "25% of the patches lie around a voxel of any structure",
        ),
        ({"sampler": "class_equal"}, "each structure of the case equally often"),
        ({"sampler": "mask"}, "voxels of the case's mask"),
        ({"sampler": "weight_map"}, "as the case's weight map says"),
        ({"sampler": "mine"}, "mine, a plugin's sampler"),
        ({"adaptive": True}, "where the network still errs"),
        ({"one_case_per_batch": True}, "patches of a step come from one case"),
        ({"balance_domains": True}, "Every domain is equally likely"),
    ],
)
def test_every_way_of_drawing_has_words(sampling, words):
    facts = dict(training_facts(Settings(sampling=sampling), 0.0))
    assert words in facts["Where patches lie"]
