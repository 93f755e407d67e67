import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from made_up_run import made_up_run

from foveal.commands.report import report
from foveal.errors import RunError

BALL_SIZES = {"good": 6, "bad": 2, "fair": 4}


class Outline(HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self):
        super().__init__()
        self.tags = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += f" {data} "


def outline(path):
    parser = Outline()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.text = re.sub(r"\s+", " ", parser.text)
    return parser


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_up_run(tmp_path_factory.mktemp("report"), ball_sizes=BALL_SIZES)


@pytest.fixture(scope="module")
def page(run):
    path = report(run)
    assert path == run / "report.html"
    return outline(path)


def test_page_needs_nothing_from_elsewhere(page):
    addresses = [
        value
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action")
    ]
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}


def test_worst_case_comes_first_with_a_picture_of_each(page):
    pictures = [
        attributes["alt"].split()[2]
        for tag, attributes in page.tags
        if tag == "img" and attributes["alt"].startswith("Slice of")
    ]
    assert pictures == ["bad", "fair", "good"]
    table = page.text[page.text.index("Dice of every case") :]
    assert table.index("bad") < table.index("fair") < table.index("good")


def test_caption_says_where_the_error_is(page):
    # 4 of 6 voxels of "Ball" are missed along i, in slices k = 3 to 6.
    assert "Ball is worst here, Dice 0.500: axial slice k = 3" in page.text


def test_dice_values_are_those_of_the_evaluation(page):
    # Ball: 6 voxels long, 2 predicted: 2 * 2 / 8. Box: all right. Mean: 0.75.
    row = page.text[page.text.index("Dice of every case") :]
    assert re.search(r"bad 0\.750 0\.500 1\.000", row)
    assert re.search(r"fair 0\.900 0\.800 1\.000", row)
    assert re.search(r"good 1\.000 1\.000 1\.000", row)


def test_validation_dice_is_labelled_as_used_for_selection(page):
    assert "Used for selecting the checkpoint" in page.text
    assert "used for selecting the checkpoint, so these numbers" in page.text


def test_data_plan_and_training_are_told_in_words(page):
    assert "MadeUp has 3 cases, 3 labelled." in page.text
    assert "1 were trained on, 3 validated (good, bad, fair)" in page.text
    assert "2.00 x 2.00 x 5.00 mm voxels" in page.text
    assert "clipped to -150 to 250 HU" in page.text
    assert "16 x 16 x 8 voxels at once (32 x 32 x 40 mm)" in page.text
    assert "40 steps in float32, contiguous; seed 0; 40 s of steps" in page.text


def test_names_from_the_data_are_escaped(page):
    assert "Box <b>" in page.text
    assert "b" not in {tag for tag, _ in page.tags}


def test_files_to_open_are_listed(run, page):
    assert str(run.parent / "data" / "imagesTr" / "bad.nii.gz") in page.text
    assert str((run / "validation" / "bad.nii.gz").resolve()) in page.text


def test_same_run_gives_the_same_bytes(run, tmp_path):
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    assert report(run, first) == first
    report(run, second)
    assert first.read_bytes() == second.read_bytes()


def test_without_the_data_set_the_page_says_so_and_keeps_the_scores(run, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    settings = (moved / "settings.toml").read_text(encoding="utf-8")
    gone = settings.replace((run.parent / "data").as_posix(), "/gone")
    (moved / "settings.toml").write_text(gone, encoding="utf-8")
    page = outline(report(moved))
    assert "No pictures: the data set cannot be read" in page.text
    assert "bad 0.750 0.500 1.000" in page.text


def test_a_case_that_lost_its_reference_costs_its_own_picture_only(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.copytree(run.parent / "data", tmp_path / "data")
    path = tmp_path / "data" / "dataset.json"
    description = json.loads(path.read_text())
    case = next(case for case in description["training"] if "bad" in case["image"])
    description["training"].remove(case)
    description["test"] = [case["image"]]
    path.write_text(json.dumps(description))
    settings = (copy / "settings.toml").read_text()
    moved = settings.replace(str(run.parent / "data"), str(tmp_path / "data"))
    (copy / "settings.toml").write_text(moved)
    text = outline(report(copy)).text
    assert "No picture of bad: its data set has no reference for it any more" in text
    assert "bad, image" in text
    assert "bad, reference" not in text
    assert "good, reference" in text


def test_a_damaged_prediction_costs_its_own_picture_only(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    damaged = copied / "validation" / "bad.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:60])
    page = outline(report(copied))
    assert "No picture of bad:" in page.text
    alternatives = [attributes.get("alt", "") for tag, attributes in page.tags]
    assert any("Slice of fair" in text for text in alternatives)


def test_an_unfinished_run_gets_curves_and_is_told_how_to_go_on(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied, ignore=shutil.ignore_patterns("validation"))
    log = (copied / "log.jsonl").read_text(encoding="utf-8")
    (copied / "log.jsonl").write_text(log[: len(log) // 2], encoding="utf-8")
    page = outline(report(copied))
    assert "have not been measured yet" in page.text
    assert "foveal train --resume" in page.text
    titles = [attributes.get("alt") for tag, attributes in page.tags if tag == "img"]
    assert titles == [
        "Loss over the training steps",
        "Validation Dice over the training steps",
        "Learning rate over the training steps",
    ]


def test_a_run_that_has_only_begun_gets_a_page(run, tmp_path):
    begun = tmp_path / "run"
    begun.mkdir()
    for name in ("settings.toml", "plan.toml", "splits.toml"):
        shutil.copy(run / name, begun / name)
    assert "No step has been logged yet." in outline(report(begun)).text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        report(tmp_path)
