import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from foveal.errors import EvaluationError
from foveal.geometry import Grid
from foveal.metrics.evaluation import (
    DEFINITIONS,
    Evaluation,
    Row,
    joined,
    measure,
    read_evaluation,
    summarise,
)

NAN = float("nan")


def evaluation_of_dice(**values_by_case):
    """An evaluation in which every metric has the value given as the Dice of a case."""
    rows = tuple(
        Row(case, "liver", metric, value)
        for case, value in values_by_case.items()
        for metric in DEFINITIONS
    )
    return Evaluation(rows, summarise(rows, ["liver"]))


def test_every_defined_metric_is_measured_in_the_order_of_the_definitions():
    mask = np.ones((2, 2, 2), dtype=bool)
    metrics = measure(mask, mask, Grid((2, 2, 2), np.diag([10.0, 10.0, 10.0, 1.0])))
    assert list(metrics) == list(DEFINITIONS)
    assert metrics["dice"] == 1
    assert metrics["hd_mm"] == 0
    assert metrics["prediction_volume_ml"] == pytest.approx(8.0)
    assert metrics["reference_voxels"] == 8


def test_undefined_values_are_not_averaged():
    evaluation = evaluation_of_dice(a=0.5, b=NAN, c=0.8, d=1.0)
    summary = next(entry for entry in evaluation.summary if entry.metric == "dice")
    assert summary.num_cases == 3
    assert summary.mean == pytest.approx(2.3 / 3)
    assert summary.median == pytest.approx(0.8)
    assert summary.std == pytest.approx(np.std([0.5, 0.8, 1.0], ddof=1))
    assert evaluation.mean("liver", "dice") == summary.mean


def test_summary_without_any_case_is_undefined_and_counts_none():
    evaluation = evaluation_of_dice(a=NAN)
    summary = evaluation.summary[0]
    assert summary.num_cases == 0
    assert math.isnan(summary.mean)
    assert math.isnan(summary.median)
    assert math.isnan(summary.std)


def test_single_case_has_no_deviation():
    assert math.isnan(evaluation_of_dice(a=0.5).summary[0].std)


def test_unmeasured_structure_has_no_mean():
    with pytest.raises(KeyError, match="dice of spleen was not measured"):
        evaluation_of_dice(a=1.0).mean("spleen", "dice")


def test_worst_cases_come_lowest_first_and_undefined_ones_not_at_all():
    evaluation = evaluation_of_dice(a=0.9, b=NAN, c=0.0, d=0.4)
    assert [row.case for row in evaluation.worst(2)] == ["c", "d"]
    assert [row.case for row in evaluation.worst(9)] == ["c", "d", "a"]


def test_json_holds_rows_summary_and_definitions_with_null_for_undefined():
    record = json.loads(evaluation_of_dice(a=0.25, b=NAN).to_json())
    assert record["format_version"] == 1
    assert record["definitions"] == DEFINITIONS
    dice = [row for row in record["rows"] if row["metric"] == "dice"]
    assert dice == [
        {"case": "a", "structure": "liver", "metric": "dice", "value": 0.25},
        {"case": "b", "structure": "liver", "metric": "dice", "value": None},
    ]
    assert record["summary"][0] == {
        "structure": "liver",
        "metric": "dice",
        "num_cases": 1,
        "mean": 0.25,
        "median": 0.25,
        "std": None,
    }


def test_csv_has_a_line_per_case_and_structure_with_empty_cells_for_undefined():
    text = evaluation_of_dice(a=0.25, b=NAN).to_csv()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert list(lines[0]) == ["case", "structure", *DEFINITIONS]
    assert lines[0]["case"] == "a"
    assert float(lines[0]["dice"]) == 0.25
    assert lines[1]["hd95_mm"] == ""


def test_table_fits_a_terminal_and_shows_means_and_counted_cases():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluation_of_dice(a=0.25, b=NAN, c=0.5).table())
    titles = ["structure", "cases", "Dice", "IoU", "sensitivity", "precision"]
    titles += ["HD95", "mm", "ASSD", "mm"]
    assert titles in [
        line.split() for line in console.export_text(clear=False).splitlines()
    ]
    (line,) = [line for line in console.export_text().splitlines() if "liver" in line]
    assert line.split() == ["liver", "2", *["0.375"] * 6]


def test_every_metric_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    assert [metric for metric in DEFINITIONS if f"`{metric}`" not in text] == []


# ------------------------------------------------------------------ read and joined


def test_written_evaluation_is_read_as_it_was(tmp_path):
    evaluation = evaluation_of_dice(a=0.25, b=0.75)
    path = tmp_path / "metrics.json"
    path.write_text(evaluation.to_json(), encoding="utf-8")
    assert read_evaluation(path) == evaluation


def test_null_is_read_as_undefined(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(evaluation_of_dice(a=NAN, b=0.5).to_json(), encoding="utf-8")
    read = read_evaluation(path)
    assert math.isnan(read.rows[0].value)
    assert read.mean("liver", "dice") == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"rows": [', r"damaged .*foveal evaluate"),
        ('{"format_version": 1}', "damaged or no metrics.json"),
        ("[]", "damaged or no metrics.json"),
    ],
)
def test_damaged_file_names_the_remedy(tmp_path, text, message):
    path = tmp_path / "metrics.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EvaluationError, match=message):
        read_evaluation(path)


def test_other_version_and_absent_file_are_refused(tmp_path):
    path = tmp_path / "metrics.json"
    record = json.loads(evaluation_of_dice(a=0.5).to_json())
    path.write_text(json.dumps(record | {"format_version": 2}), encoding="utf-8")
    with pytest.raises(EvaluationError, match="format version 2"):
        read_evaluation(path)
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_evaluation(tmp_path / "nowhere.json")


def test_joined_evaluations_are_in_order_of_case_and_summarised_anew():
    parts = {
        "fold_0": evaluation_of_dice(b=0.2, d=0.4),
        "fold_1": evaluation_of_dice(a=0.6, c=0.8),
    }
    whole = joined(parts)
    assert whole.cases == ("a", "b", "c", "d")
    assert whole.mean("liver", "dice") == pytest.approx(0.5)
    assert whole == evaluation_of_dice(a=0.6, b=0.2, c=0.8, d=0.4)


def test_case_of_two_folds_is_refused_and_both_are_named():
    parts = {"x": evaluation_of_dice(a=0.2), "y": evaluation_of_dice(a=0.4)}
    with pytest.raises(EvaluationError, match="case a was measured in x and in y"):
        joined(parts)


def test_evaluations_of_unlike_structures_are_not_joined():
    rows = (Row("z", "spleen", "dice", 0.5),)
    other = Evaluation(rows, summarise(rows, ["spleen"]))
    with pytest.raises(EvaluationError, match="only runs of one task go together"):
        joined({"x": evaluation_of_dice(a=0.2), "y": other})
