import numpy as np
import pytest

from foveal.commands.choosing import (
    TriedCase,
    changed_counts,
    class_counts,
    dice_of_counts,
    judged,
)
from foveal.errors import EvaluationError

NESTED = {"organ": (1, 2), "lesion": (2,)}


def tried(*scores, patients=None):
    """Cases with one structure, each with its Dice per trial."""
    return [
        TriedCase(
            f"case_{number}",
            patients[number] if patients else f"patient_{number}",
            tuple({"organ": dice} for dice in trials),
        )
        for number, trials in enumerate(scores)
    ]


def test_a_gain_in_every_case_helps():
    verdict = judged(tried(*((0.5, 0.4, 0.6 + n / 100) for n in range(8))))
    assert verdict.choice == 2
    assert verdict.helps
    assert verdict.p_value == pytest.approx(2 / 2**8)
    assert verdict.score_before == 0.5
    assert verdict.score_after == verdict.score_left_out == pytest.approx(0.635)
    assert verdict.evidence.p_value == verdict.p_value
    assert verdict.evidence.score_after == 0.635
    assert verdict.evidence.cases[:2] == ("case_0", "case_1")


def test_a_gain_by_one_case_flatters_and_does_not_help():
    scores = [(0.5, 0.49)] * 7 + [(0.5, 0.9)]
    verdict = judged(tried(*scores))
    assert verdict.choice == 1
    assert verdict.score_after > verdict.score_before
    # The case that made it look good does without it, where others choose.
    assert verdict.score_left_out < verdict.score_before
    assert not verdict.helps


def test_with_too_few_cases_for_a_test_nobody_may_lose():
    verdict = judged(tried((0.5, 0.6), (0.5, 0.6), (0.5, 0.5)))
    assert verdict.helps
    assert verdict.p_value is None
    assert not judged(tried((0.5, 0.6), (0.5, 0.6), (0.5, 0.49))).helps


def test_nothing_is_chosen_where_nothing_is_better():
    verdict = judged(tried((0.5, 0.5), (0.5, 0.5)))
    assert verdict.choice == 0
    assert not verdict.helps


def test_cases_of_one_patient_cannot_be_judged():
    with pytest.raises(EvaluationError, match="all are of patient p; give a run with"):
        judged(tried((0.5, 0.6), (0.5, 0.6), patients=["p", "p"]))
    with pytest.raises(EvaluationError, match="there are none"):
        judged([TriedCase("unannotated", "p", ({}, {}))])


def test_structures_are_compared_where_they_are_annotated():
    cases = [
        TriedCase(f"c{n}", f"p{n}", ({"a": 0.5, "b": 0.5}, {"a": 0.7, "b": 0.5}))
        for n in range(6)
    ]
    cases.append(TriedCase("c6", "p6", ({"b": 0.2}, {"b": 0.2})))
    comparison = judged(cases).comparison()
    assert comparison.structures == ("a", "b")
    assert comparison.find("a", "dice").mean_difference == pytest.approx(0.2)
    assert len(comparison.find("a", "dice").differences) == 6
    assert comparison.find("b", "dice").wilcoxon_p == 1


def test_counts_give_the_dice_of_unions():
    prediction = np.array([0, 1, 1, 2, 2, 0], np.uint8).reshape(6, 1, 1)
    reference = np.array([0, 1, 2, 2, 255, 1], np.uint8).reshape(6, 1, 1)
    counts = class_counts(prediction, reference, 3)
    dice = dice_of_counts(counts, None, NESTED)
    # Organ: three predicted, four drawn, three common; one is unknown.
    assert dice == {"organ": pytest.approx(6 / 7), "lesion": pytest.approx(2 / 3)}
    assert dice_of_counts(counts, (False, True), NESTED).keys() == {"lesion"}


def test_absent_from_both_is_right_and_a_false_alarm_is_wrong():
    empty = np.zeros((2, 2, 2), np.uint8)
    alarm = empty.copy()
    alarm[0, 0, 0] = 2
    assert dice_of_counts(class_counts(empty, empty, 3), None, NESTED)["lesion"] == 1
    assert dice_of_counts(class_counts(alarm, empty, 3), None, NESTED)["lesion"] == 0


def test_counts_follow_a_change():
    generator = np.random.default_rng(0)
    before, after, reference = generator.integers(0, 3, (3, 9, 4, 5), np.uint8)
    reference[0, :2] = 255
    counts = class_counts(before, reference, 3)
    expected = class_counts(after, reference, 3)
    assert (changed_counts(counts, before, after, reference) == expected).all()
    assert changed_counts(counts, before, before, reference) is counts
