import re

import pytest
from matplotlib.figure import Figure

from foveal.commands.report_volumes import volumes_of
from foveal.metrics.evaluation import Evaluation, Row, summarise
from foveal.reports.scores import ordered_scores
from foveal.reports.volume_figures import (
    CaseVolumes,
    _draw_zeros,
    dice_and_volumes,
)


def scores(values, ending="volume_ml"):
    """Case to Dice, reference and predicted volume of one structure."""
    rows = [
        Row(case, "tumour", metric, float(value))
        for case, measured in values.items()
        for metric, value in zip(
            ("dice", f"reference_{ending}", f"prediction_{ending}"),
            measured,
            strict=True,
        )
    ]
    if ending == "voxels":  # Pictures, which have no size.
        rows += [
            Row(case, "tumour", f"{what}_volume_ml", float("nan"))
            for case in values
            for what in ("reference", "prediction")
        ]
    return ordered_scores(Evaluation(tuple(rows), summarise(rows, ["tumour"])))


@pytest.fixture
def measured():
    return scores({"large": (0.9, 40.0, 36.0), "tiny": (0.2, 0.5, 2.0)})


def test_caption_tells_whether_volumes_are_right_in_the_mean(measured):
    (figure,) = volumes_of(measured)
    assert figure.title == "tumour"
    assert figure.caption == "Mean volume 20.2 ml, predicted 19 ml (-6.2 %)."


def test_cases_stand_in_the_order_of_their_volume(measured):
    (figure,) = volumes_of(measured)
    words = re.findall(r">(tiny|large|Dice|volume \[ml\])<", figure.svg.decode())
    assert words.index("tiny") < words.index("large")
    assert {"Dice", "volume [ml]"} <= set(words)


def test_pixels_of_pictures_are_counted():
    (figure,) = volumes_of(scores({"a": (0.5, 300, 100)}, ending="voxels"))
    assert figure.caption == "Mean volume 300 voxels, predicted 100 voxels (-66.7 %)."


def test_nothing_measured_gives_no_figure():
    assert volumes_of(None) == []


def test_cases_without_volume_are_marked_and_not_lost():
    axes = Figure().add_subplot()
    _draw_zeros(axes, [0.0, 3.0, 0.0], "black")
    (line,) = axes.lines
    assert list(line.get_xdata()) == [1, 3]


def test_figure_is_the_same_whatever_the_order_and_draws_nothing_but_zeros():
    cases = [
        CaseVolumes("none", None, 0.0, 0.0),
        CaseVolumes("missed", 0.0, 3.0, 0.0),
    ]
    drawn = dice_and_volumes(cases, "ml")
    assert drawn == dice_and_volumes(cases[::-1], "ml")
    assert b">none<" in dice_and_volumes(cases[:1], "ml")


def test_names_in_any_script_are_text_for_the_browser():
    drawn = dice_and_volumes([CaseVolumes("患者", 0.5, 3.0, 2.0)], "ml")
    assert ">患者<" in drawn.decode()
