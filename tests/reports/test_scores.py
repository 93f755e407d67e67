import json

import pytest

from foveal.metrics.evaluation import read_evaluation
from foveal.reports.scores import ordered_scores


def metrics(**dice):
    """A metrics file: case to structure to Dice."""
    rows = [
        {"case": case, "structure": structure, "metric": "dice", "value": value}
        for case, structures in dice.items()
        for structure, value in structures.items()
    ]
    structures = dict.fromkeys(row["structure"] for row in rows)
    return {
        "format_version": 1,
        "definitions": {"dice": "twice the overlap"},
        "notes": [],
        "rows": rows,
        "summary": [{"structure": name, "metric": "dice"} for name in structures],
    }


def written(tmp_path, record):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def test_worst_case_comes_first_and_undefined_ones_last(tmp_path):
    record = metrics(
        good={"a": 0.9, "b": 0.8},
        empty={"a": None, "b": None},
        bad={"a": 0.9, "b": 0.1},
    )
    scores = ordered_scores(read_evaluation(written(tmp_path, record)))
    assert [case.name for case in scores.cases] == ["bad", "good", "empty"]
    assert [case.worst_structure for case in scores.cases] == ["b", "b", None]
    assert scores.cases[0].mean_dice == pytest.approx(0.5)
    assert scores.cases[2].mean_dice is None


def test_a_dice_of_zero_is_worse_than_any_other(tmp_path):
    record = metrics(zero={"a": 0.0}, low={"a": 0.1})
    scores = ordered_scores(read_evaluation(written(tmp_path, record)))
    assert [case.name for case in scores.cases] == ["zero", "low"]
    assert scores.cases[0].worst_structure == "a"


def test_means_leave_out_what_is_not_defined_or_not_annotated(tmp_path):
    record = metrics(
        first={"a": 0.5, "b": None}, second={"a": 0.7}, third={"a": None, "b": 0.2}
    )
    scores = ordered_scores(read_evaluation(written(tmp_path, record)))
    assert scores.mean("a", "dice") == pytest.approx(0.6)
    assert scores.mean("b", "dice") == pytest.approx(0.2)
    assert scores.mean_dice == pytest.approx(0.4)
    assert scores.values("b", "dice") == [0.2]


def test_interval_holds_the_mean_and_needs_two_cases(tmp_path):
    record = metrics(first={"a": 0.5, "b": None}, second={"a": 0.7, "b": 0.1})
    scores = ordered_scores(read_evaluation(written(tmp_path, record)))
    # The mean of two draws of {0.5, 0.7} is either of them with a chance of a quarter.
    assert scores.interval("a", "dice") == pytest.approx((0.5, 0.7))
    assert scores.interval("b", "dice") is None
