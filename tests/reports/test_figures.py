import io
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib import image as images

from foveal.reports import figures
from foveal.reports.views import View


def texts(svg):
    tree = ET.fromstring(svg)  # noqa: S314 - made by this test
    return {
        "".join(node.itertext()).strip() for node in tree.iter() if "text" in node.tag
    }


def test_long_curves_are_averaged_and_keep_their_mean():
    steps = list(range(10_000))
    values = [float(step % 7) for step in steps]
    averaged_steps, averaged = figures.averaged_curve(steps, values)
    assert len(averaged) == figures.MAX_POINTS
    assert np.mean(averaged) == pytest.approx(np.mean(values), abs=0.01)
    assert averaged_steps == sorted(averaged_steps)


def test_short_curves_are_kept_and_values_that_are_not_finite_left_out():
    curve = figures.averaged_curve([0, 1, 2], [3.0, float("nan"), 5.0])
    assert curve == ([0, 2], [3, 5])
    assert figures.averaged_curve([], []) == ([], [])


def test_figures_are_the_same_each_time():
    first = figures.loss_curve([0, 1, 2], [3.0, 2.0, 1.0])
    assert figures.loss_curve([0, 1, 2], [3.0, 2.0, 1.0]) == first
    assert {"training loss", "step"} <= texts(first)


def test_score_curve_names_every_structure_and_survives_gaps():
    svg = figures.score_curve(
        [10, 20], {"Liver": [None, 0.8], "Spleen": [0.1, 0.2]}, [0.1, 0.5], "Dice"
    )
    assert {"Liver", "Spleen", "mean", "validation Dice"} <= texts(svg)


def test_score_curve_of_many_structures_names_the_mean_alone():
    dice = {f"organ {number}": [0.5, 0.6] for number in range(30)}
    shown = texts(figures.score_curve([10, 20], dice, [0.5, 0.6], "Dice"))
    assert "mean" in shown
    assert not any(text.startswith("organ") for text in shown)


def test_learning_rate_curve_starts_at_zero():
    svg = figures.learning_rate_curve([0, 1, 2], [0.0, 0.002, 0.001])
    assert {"learning rate", "step"} <= texts(svg)


def test_curves_of_folds_are_named_and_survive_gaps():
    dice = figures.fold_score_curves(
        {"fold_0": ([10, 20], [None, 0.5]), "fold_1": ([10, 20], [0.2, 0.6])}, "Dice"
    )
    assert {"fold_0", "fold_1", "mean validation Dice"} <= texts(dice)
    loss = figures.fold_loss_curves({"fold_0": ([0, 1], [2.0, 1.0])})
    assert {"fold_0", "training loss"} <= texts(loss)
    assert figures.fold_loss_curves({"fold_0": ([0, 1], [2.0, 1.0])}) == loss


def test_more_folds_than_colours_are_all_grey():
    many = {f"fold_{number}": ([0, 1], [2.0, 1.0]) for number in range(10)}
    assert not any(
        text.startswith("fold") for text in texts(figures.fold_loss_curves(many))
    )


def test_errors_are_coloured_by_kind_and_right_pixels_are_clear():
    reference = np.array([[0, 1, 1, 1]])
    prediction = np.array([[1, 0, 2, 1]])
    too_much, missed, confused, right = figures.error_colours(reference, prediction)[0]
    assert too_much == pytest.approx([1, 176 / 255, 0, 0.8])
    assert missed == pytest.approx([86 / 255, 180 / 255, 233 / 255, 0.8])
    assert confused == pytest.approx([220 / 255, 38 / 255, 127 / 255, 0.8])
    assert right[3] == 0


def test_overlay_shows_image_outlines_and_error():
    image = np.full((40, 50), 100, dtype=np.float32)
    reference = np.zeros((40, 50), dtype=np.int32)
    prediction = np.zeros((40, 50), dtype=np.int32)
    reference[10:20, 10:20] = 1
    prediction[10:20, 10:26] = 1
    close_up = (slice(5, 30), slice(5, 35))
    view = View(image, reference, prediction, (1.0, 1.0), close_up, "axial", "k", 3)
    png = figures.overlay(view, (0, 200))
    pixels = images.imread(io.BytesIO(png))[..., :3]

    def share(colour):
        rgb = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        return np.mean(np.abs(pixels - rgb).max(axis=-1) < 0.2)

    assert share(figures.PREDICTION_COLOUR) > 0.005
    assert share(figures.REFERENCE_COLOUR) > 0.001
    grey = [np.ptp(column, axis=-1).max() < 0.1 for column in pixels.swapaxes(0, 1)]
    # The whole slice and the plain close-up, the left half, carry no colour.
    assert all(grey[: len(grey) // 2])


def test_outlines_at_the_border_of_the_close_up_do_not_fail():
    everywhere = np.ones((6, 7), dtype=np.int32)
    image = np.zeros((6, 7), dtype=np.float32)
    whole = (slice(0, 6), slice(0, 7))
    view = View(image, everywhere, everywhere * 0, (1.0, 2.0), whole, "axial", "k", 0)
    assert figures.overlay(view, (0, 1)).startswith(b"\x89PNG")


def test_a_measure_is_shown_with_the_value_of_a_guess():
    svg = figures.measure_curve([0, 1], [0.4, 0.9], "accuracy", top=1.0, chance=0.5)
    assert {"accuracy", "step", "chance"} <= texts(svg)
    plain = figures.measure_curve([0, 1], [0.0, 0.1], "alpha", top=None, chance=None)
    assert "chance" not in texts(plain)
