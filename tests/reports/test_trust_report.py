import json
import re

import numpy as np
import pytest
from made_up_run import AFFINE, label_map, made_up_run, save

from foveal.commands.calibration_record import (
    CalibrationRecord,
    CaseFit,
    Curve,
    DicePair,
    Measured,
    Reliability,
    write_calibration,
)
from foveal.commands.report import report
from foveal.errors import EvaluationError, RunError
from foveal.geometry import Grid
from foveal.inference.record import InputFile, Outcome, OutputFile, open_record
from foveal.preprocessing.sources import FileDigests
from foveal.reports.predictions_page import (
    PredictedCase,
    PredictedStructure,
    doubtful_first,
)
from foveal.reports.trust_figures import most_doubtful_slice


def reliability(ece):
    return Reliability(ece, ece, 0.1, 0.2, [900, 50, 100], [90, 25, 90], [10, 20, 80])


def record():
    before = {"Ball": reliability(0.1234), "all classes": reliability(0.2345)}
    after = {"Ball": reliability(0.0123), "all classes": reliability(0.0234)}
    return CalibrationRecord(
        temperature=1.7,
        is_used=True,
        p_value=0.031,
        band_mm=5.0,
        near=Measured(before, after),
        everywhere=Measured(before, after),
        cases=(CaseFit("good", 1.7, 0.4, 0.2), CaseFit("bad", 1.6, 0.6, 0.4)),
        dice=tuple(
            DicePair(name, "Ball", dice, 0.99, expected)
            for name, dice, expected in (("a", 0.9, 0.8), ("b", 0.5, 0.6), ("c", 1, 1))
        ),
        sparsification=Curve([0.0, 0.5], [0.2, 0.1], [0.2, 0.0], 0.2, 0.25, 0.5),
    )


def test_the_report_of_a_run_says_how_far_its_probabilities_can_be_trusted(tmp_path):
    run = made_up_run(tmp_path, ball_sizes={"good": 6})
    without = report(run).read_text(encoding="utf-8")
    assert "Can its probabilities be trusted?" not in without
    write_calibration(run / "validation" / "calibration.json", record())
    page = report(run).read_text(encoding="utf-8")
    assert "Can its probabilities be trusted?" in page
    assert "over all classes together the network is surer than right" in page
    assert "NLL near foreground 0.5000 before and 0.3000 after, p = 0.031" in page
    trust = page[page.index("Can its probabilities") : page.index("Reliability")]
    assert trust.count("<td>0.1234</td>") == 2  # Near foreground and everywhere.
    for title in (
        "Reliability: all classes",
        "Reliability: Ball",
        "Expected and true Dice",
        "Does uncertainty mark errors?",
    ):
        assert f"<h3>{title}</h3>" in page
    assert "Spearman 1.00 over 3 pairs" in page
    assert "Entropy reaches 50% of what could be gained over chance." in page


def test_a_damaged_record_of_trust_is_refused(tmp_path):
    run = made_up_run(tmp_path, ball_sizes={"good": 6})
    (run / "validation" / "calibration.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"calibration\.json is damaged"):
        report(run)


def outcome(case, structures, **changes):
    values = {
        "status": "done",
        "outputs": (OutputFile(f"{case}.nii.gz", "0"),),
        "reasons": (),
        "inputs": (InputFile("channel 0", f"{case}.nii.gz", "0"),),
        "models": ("m",),
        "options": {},
        "device": "cpu",
        "foveal": "0",
        "seconds": 1.0,
        "finished": "now",
    }
    return Outcome(case=case, structures=structures, **values | changes)


def facts(expected_dice, volume_ml=1.0, interval=None):
    return {
        "volume_ml": volume_ml,
        "volume_interval_ml": interval,
        "expected_dice": expected_dice,
    }


def predictions(folder):
    """Three predicted cases and a failed one; one of them can be looked at."""
    images = folder / "images"
    image = np.random.default_rng(0).normal(50, 9, label_map(6).shape)
    save(images / "doubtful.nii.gz", image.astype(np.float32))
    output = folder / "predictions"
    save(output / "doubtful.nii.gz", label_map(6))
    entropy = np.zeros(image.shape, np.float32)
    entropy[..., 5] = 0.5
    save(output / "uncertainty" / "doubtful" / "predictive_entropy.nii.gz", entropy)
    digest = FileDigests().digest(images / "doubtful.nii.gz")
    outcomes = [
        outcome("sure", {"Ball": facts(0.95), "Box": facts(0.97)}),
        outcome("doubtful", {"Ball": facts(0.1), "Box": facts(None)}),
        outcome("failed", {}, status="failed", reasons=("it is damaged",), outputs=()),
        outcome("empty", {"Ball": facts(None, 0.0), "Box": facts(None, 0.0)}),
        # Predicted again; the later line counts.
        outcome(
            "doubtful",
            {"Ball": facts(0.41, 2.5, [1.25, 3.75]), "Box": facts(0.6)},
            status="suspect",
            reasons=("voxels are <large>",),
            inputs=(InputFile("channel 0", "doubtful.nii.gz", digest),),
            outputs=(
                OutputFile("doubtful.nii.gz", "0"),
                OutputFile("uncertainty/doubtful/predictive_entropy.nii.gz", "0"),
                OutputFile("probabilities/doubtful/Ball.nii.gz", "0"),
            ),
        ),
    ]
    with open_record(output / "predictions.jsonl") as written:
        for one in outcomes:
            written.append(one)
    return output, images


def test_predictions_are_ranked_by_expected_dice_lowest_first(tmp_path):
    output, images = predictions(tmp_path)
    page = report(output, images=images).read_text(encoding="utf-8")
    cases = page[page.index("<h2>Every case</h2>") : page.index("Every structure")]
    assert re.findall(r'<tr><td class="name">(\w+)</td>', cases) == [
        "empty",
        "doubtful",
        "sure",
    ]
    assert "voxels are &lt;large&gt;" in cases
    assert "0.505" in cases  # The mean of 0.41 and 0.6.
    assert re.search(r"<td>2\.50</td><td>1\.25.3\.75</td>", page)
    assert "failed failed: it is damaged" in page
    assert "axial slice k = 5, counted from 0, with most entropy around it" in page
    assert page.count("data:image/png") == 1
    assert "No picture of empty: " in page


def test_without_images_the_page_says_how_to_get_pictures(tmp_path):
    output, _ = predictions(tmp_path)
    page = report(output, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No pictures: add --images FOLDER" in page


def test_a_changed_image_is_not_shown_under_a_prediction(tmp_path):
    output, images = predictions(tmp_path)
    save(images / "doubtful.nii.gz", label_map(4))
    page = report(output, images=images).read_text(encoding="utf-8")
    assert "doubtful.nii.gz, is not in" in page
    assert "data:image/png" not in page


def test_options_without_a_use_are_refused(tmp_path):
    output, images = predictions(tmp_path)
    run = made_up_run(tmp_path / "of_run", ball_sizes={"good": 6})
    with pytest.raises(RunError, match="leave --beside out"):
        report(output, beside=[run])
    with pytest.raises(RunError, match="leave --images out"):
        report(run, images=images)
    with pytest.raises(RunError, match="nowhere is no folder"):
        report(output, images=tmp_path / "nowhere")


def test_predictions_of_an_older_version_stand_last(tmp_path):
    output, _ = predictions(tmp_path)
    path = output / "predictions.jsonl"
    line = json.loads(path.read_text().splitlines()[0]) | {"case": "older"}
    del line["structures"]
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    page = report(output).read_text(encoding="utf-8")
    cases = page[page.index("<h2>Every case</h2>") :]
    assert cases.index("older") > cases.index("sure")
    assert "another version of Foveal predicted them: older" in page


def test_doubt_by_hand():
    def case(name, *dice):
        of = [PredictedStructure(str(n), d, 1.0, None) for n, d in enumerate(dice)]
        return PredictedCase(name, tuple(of), ())

    low, high = case("low", 0.2, 0.6), case("high", None, 0.9)
    empty, silent = case("empty", None), case("silent")
    ordered = doubtful_first([high, silent, low, empty])
    assert [one.name for one in ordered] == ["empty", "low", "high", "silent"]
    assert low.lowest.name == "0"
    assert high.not_found == ("0",)
    assert empty.lowest is None


def test_the_most_doubtful_slice_has_most_entropy_or_else_most_of_a_structure():
    labels = label_map(6)
    doubt = np.zeros(labels.shape, np.float32)
    doubt[5:7, 6:8, 6] = 0.4
    doubt[:, :, 0] = 0.1  # Far from anything that was found.
    grid = Grid(labels.shape, AFFINE)
    image = np.zeros(labels.shape, np.float32)
    assert most_doubtful_slice(image, labels, doubt, grid).index == 6
    assert most_doubtful_slice(image, 0 * labels, doubt, grid).index == 0
    found = most_doubtful_slice(image, labels, None, grid)
    assert np.count_nonzero(labels[..., found.index]) == max(
        np.count_nonzero(labels[..., k]) for k in range(labels.shape[2])
    )
    assert found.axis == "k"
