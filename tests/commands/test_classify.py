"""A classifier from the table of a data set to its scores, and what it refuses."""

import json

import pytest
from matplotlib.image import imread
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.engine.log import read_log

OPTIONS = (
    *("--set", "method.name=classification", "--set", "network.features=[4,8]"),
    *("--set", "network.kernels=[[3,3,3],[3,3,3]]", "--set", "network.norm=batch"),
    *("--set", "network.strides=[[2,2,2]]", "--set", "patches.size=[8,8,8]"),
    *("--set", "splits.folds=2", "--set", "training.precision=float32"),
    *("--set", "training.memory_layout=contiguous", "--steps", "4"),
)


def command(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classification")
    write_ball_and_box_dataset(folder / "scans", num_cases=4)
    rows = ["case,channels,label_map,present"]
    images = sorted((folder / "scans" / "imagesTr").glob("*.nii.gz"))
    for number, image in enumerate(images):
        name = image.name.removesuffix(".nii.gz")
        path = f"scans/imagesTr/{image.name}"
        # The first two are outlined, of the others it is known what they show.
        if number < 2:
            rows.append(f"{name},{path},scans/labelsTr/{image.name},")
        else:
            rows.append(f"{name},{path},,{'1;2' if number == 2 else 'none'}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    status, text = command(
        *("train", folder / "cases.csv", "--out", folder / "run"),
        *("--set", f"store={folder / 'store'}", *OPTIONS),
    )
    assert status == 0, text
    return folder / "run"


def test_cases_that_nobody_outlined_are_trained_on(run):
    log = read_log(run / "log.jsonl")
    steps = [row for row in log if row["kind"] == "step"]
    assert len(steps) == 4
    assert all(row["terms"].keys() == {"presence"} for row in steps)
    validation = next(row for row in log if row["kind"] == "validation")
    assert validation["measure"] == "balanced accuracy"


def test_what_it_tells_of_the_validation_case_is_kept(run):
    kept = json.loads((run / "validation" / "presence.json").read_text())
    for scores in kept["structures"].values():
        # Windows of 8 that cover 22 x 20 x 18 voxels.
        assert scores["images"] == 3 * 3 * 3
        assert 0 < scores["showing"] < 27


def test_the_report_says_what_was_learned_and_how_well_it_is_told(run):
    status, text = command("report", run)
    assert status == 0, text
    page = (run / "report.html").read_text()
    assert "the loss is the cross entropy of which structures a patch shows" in page
    assert "<h2>What images show</h2>" in page
    assert "<td>27</td>" in page
    assert "have not been measured yet" not in page


def test_a_finished_run_is_finished(run, folder):
    before = (run / "validation" / "presence.json").stat().st_mtime_ns
    status, text = command("train", folder / "cases.csv", "--out", run, "--resume")
    assert status == 0, text
    assert (run / "validation" / "presence.json").stat().st_mtime_ns >= before


def test_it_outlines_nothing(run, folder):
    status, text = command("predict", run, folder / "scans/imagesTr", folder / "out")
    assert status == 1
    assert "transfer.weights" in text


@pytest.mark.parametrize(
    "option", ["loss.dice=2", "loss_options.cross_entropy.class_weights.ball=2"]
)
def test_losses_of_outlines_are_refused(folder, option):
    status, text = command(
        *("train", folder / "cases.csv", "--out", folder / "other"),
        *("--set", f"store={folder / 'store'}", *OPTIONS, "--set", option),
    )
    assert status == 1
    assert "has a loss of its own" in text
    status, text = command(
        *("train", folder / "cases.csv", "--out", folder / "other", *OPTIONS),
        *("--set", "prediction.overlap_fraction=0.25"),
    )
    assert status == 1
    assert "leave out prediction.overlap_fraction, which it does" in text


@pytest.mark.parametrize(
    ("cell", "message"),
    [("3", "present names '3'"), ("1", "has a label_map, which tells what is present")],
)
def test_wrong_entries_are_told(folder, cell, message):
    table = folder / "wrong.csv"
    text = (folder / "cases.csv").read_text().splitlines()
    place = 3 if cell == "3" else 1
    row = text[place].split(",")
    text[place] = ",".join([*row[:3], cell])
    table.write_text("\n".join(text) + "\n")
    status, told = command("plan", table)
    assert status == 1
    assert message in told


def test_patches_that_nobody_outlined_are_shown(run, folder):
    """Every step whose one patch is of such a case has no lower part to draw."""
    (folder / "previews").mkdir()
    for step in range(4):
        path = folder / "previews" / f"{step}.png"
        status, text = command(
            *("preview", run, "-o", path, "--step", step),
            *("--set", "patches.batch_size=1"),
        )
        assert status == 0, text
    heights = {len(imread(path)) for path in (folder / "previews").iterdir()}
    assert len(heights) == 2


TABLE_OF_IMAGES = "case,channels,label_map,present,split"


def test_images_of_the_validation_split_are_validated(folder):
    """One outlined case to train on; only images that nobody outlined to validate."""
    rows = [TABLE_OF_IMAGES]
    for number in range(4):
        image = f"scans/imagesTr/case_{number}.nii.gz"
        rows.append(
            f"case_{number},{image},scans/labelsTr/case_{number}.nii.gz,,train"
            if number == 0
            else f"case_{number},{image},,{'1;2' if number > 1 else 'none'},validation"
        )
    (folder / "validation.csv").write_text("\n".join(rows) + "\n")
    out = folder / "validated"
    status, text = command(
        *("train", folder / "validation.csv", "--out", out),
        *("--set", f"store={folder / 'store'}", *OPTIONS[:-2], "--steps", "1"),
        *("--set", "splits.folds=1", "--set", "schedule.name=plateau"),
    )
    assert status == 0, text
    told = json.loads((out / "validation" / "presence.json").read_text())
    for scores in told["structures"].values():
        assert (scores["images"], scores["showing"]) == (3, 2)


def test_folds_are_told_together_and_what_comes_next(folder):
    out = folder / "folds"
    status, text = command(
        *("train", folder / "cases.csv", "--out", out, "--fold", "all"),
        *("--set", f"store={folder / 'store'}", *OPTIONS[:-2], "--steps", "1"),
    )
    assert status == 0, text
    text = " ".join(text.split())
    assert "Validation balanced accuracy (the best checkpoints" in text
    assert "1: 0." in text or "1: not defined" in text
    assert "start a segmentation network from it with foveal train DATASET" in text
    assert "foveal predict" not in text
    told = json.loads((out / "presence.json").read_text())["structures"]
    parts = [
        json.loads((out / fold / "validation" / "presence.json").read_text())
        for fold in ("fold_0", "fold_1")
    ]
    for name, scores in told.items():
        for count in ("images", "showing"):
            each = [part["structures"][name][count] for part in parts]
            assert scores[count] == sum(each)
    assert command("report", out)[0] == 0
    assert "<h2>What images show</h2>" in (out / "report.html").read_text()


PLUGIN = """
from foveal.methods.classification import Classification

def register(parts):
    parts.add_method(
        "mine",
        lambda network, losses, sampler, batch_size: Classification(
            network, sampler=sampler, batch_size=batch_size
        ),
    )
"""


def test_a_plugins_classifier_outlines_nothing_either(folder):
    plugin, out = folder / "own.py", folder / "own"
    plugin.write_text(PLUGIN)
    status, text = command(
        *("train", folder / "cases.csv", "--out", out, "--plugin", plugin),
        *("--set", f"store={folder / 'store'}", *OPTIONS[2:-2], "--steps", "1"),
        *("--set", "method.name=mine"),
    )
    assert status == 0, text
    status, text = command("predict", out, folder / "scans/imagesTr", folder / "none")
    assert status == 1
    assert "outlines nothing" in text
