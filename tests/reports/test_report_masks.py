"""Reports of runs whose structures lie over one another."""

import json
import re
import shutil

import numpy as np
import pytest
from made_up_run import PLAN, SHAPE, log_rows, save

from foveal.commands.evaluate import evaluate
from foveal.commands.report import report
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.planning.splits import Fold, Splits, splits_to_toml
from foveal.settings_files import to_toml

LABELS = {
    "names": ["organ", "organ+tumour"],
    "values": [1, 3],
    "regions": {"organ": ["organ", "organ+tumour"], "tumour": ["organ+tumour"]},
    "separate_masks": True,
}


def box(length):
    mask = np.zeros(SHAPE, np.uint8)
    mask[4 : 4 + length, 5:11, 3:7] = 1
    return mask


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The organ is found whole, of the tumour's 4 voxels along i one."""
    folder = tmp_path_factory.mktemp("overlapping")
    data, run = folder / "data", folder / "run"
    save(data / "image.nii.gz", (100 * box(8)).astype(np.int16))
    save(data / "organ.nii.gz", box(8))
    save(data / "tumour.nii.gz", box(4))
    (data / "cases.csv").write_text(
        "case,channels,structure_organ,structure_tumour\n"
        "one,image.nii.gz,organ.nii.gz,tumour.nii.gz\n"
    )
    label_map = box(8) + 2 * box(1)
    save(run / "validation" / "one.nii.gz", label_map.astype(np.int16))
    settings = Settings(
        dataset=data / "cases.csv",
        training={"steps": 40, "precision": "float32", "memory_layout": "contiguous"},
    )
    (run / "settings.toml").write_text(to_toml(settings))
    plan = Plan.model_validate(PLAN | {"labels": LABELS})
    (run / "plan.toml").write_text(to_toml(plan))
    splits = Splits((Fold(("other",), ("one",), ()),))
    (run / "splits.toml").write_text(splits_to_toml(splits))
    rows = "".join(json.dumps(row) + "\n" for row in log_rows())
    (run / "log.jsonl").write_text(rows)
    evaluate(run, output=run / "validation" / "metrics.json")
    return run


def words(page):
    text = re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8"))
    return re.sub(r"\s+", " ", text)


def test_structures_that_overlap_are_measured_by_the_plan_of_the_run(run):
    measured = evaluate(run)
    assert measured.mean("organ", "dice") == 1
    assert measured.mean("tumour", "dice") == pytest.approx(2 / 5)
    assert measured.notes == ()


def test_picture_shows_where_the_worst_structure_is_wrong(run):
    text = words(report(run))
    assert "tumour is worst here, Dice 0.400: axial slice k = 3" in text
    assert "organ, tumour; one mask each" in text
    assert "No picture" not in text


def test_predicted_masks_give_the_same_page(run, tmp_path):
    from_label_map = re.findall(
        'base64,[^"]*', report(run, tmp_path / "a.html").read_text()
    )
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "validation" / "one.nii.gz").unlink()
    save(copy / "validation" / "one" / "organ.nii.gz", box(8))
    save(copy / "validation" / "one" / "tumour.nii.gz", box(1))
    assert evaluate(copy).rows == evaluate(run).rows
    page = report(copy, tmp_path / "b.html").read_text()
    assert re.findall('base64,[^"]*', page) == from_label_map
