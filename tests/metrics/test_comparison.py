import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from foveal.errors import EvaluationError
from foveal.metrics.comparison import System, compare_systems, holm
from foveal.metrics.evaluation import Evaluation, Row, summarise

NAN = float("nan")


def evaluation(*, reference_voxels=100.0, **values_by_structure):
    """Structure to its Dice per case: ``liver=[0.5, 0.6]`` are cases 0 and 1."""
    rows = [
        Row(f"case_{case}", structure, metric, value)
        for structure, values in values_by_structure.items()
        for case, dice in enumerate(values)
        for metric, value in (
            ("dice", dice),
            ("hd95_mm", 10 * (1 - dice)),
            ("reference_voxels", reference_voxels),
        )
    ]
    return Evaluation(tuple(rows), summarise(rows, values_by_structure))


def compared(first, second, metrics=("dice",)):
    """Compare evaluations, or lists of them, one per seed."""
    systems = [
        System(name, tuple(given if isinstance(given, list) else [given]))
        for name, given in (("A", first), ("B", second))
    ]
    return compare_systems(systems, metrics)


# ------------------------------------------------------------------ by hand


def test_difference_effect_and_tests_by_hand():
    comparison = compared(
        evaluation(liver=[0.5, 0.6, 0.7, 0.8]), evaluation(liver=[0.6, 0.8, 0.7, 0.9])
    )
    found = comparison.find("liver", "dice")
    assert list(found.differences.values()) == pytest.approx([0.1, 0.2, 0.0, 0.1])
    assert found.mean_difference == pytest.approx(0.1)
    assert (found.first.mean, found.second.mean) == pytest.approx((0.65, 0.75))
    # The deviation of 0.1, 0.2, 0, 0.1 is sqrt(0.02 / 3).
    deviation = math.sqrt(0.02 / 3)
    assert found.effect == pytest.approx(0.1 / deviation)
    t = 0.1 / (deviation / 2)
    assert found.t_test_p == pytest.approx(2 * stats.t.sf(t, df=3))
    # Without the zero three differences are left, all above it: 2 of 2^3 signs.
    assert found.wilcoxon_p == pytest.approx(2 / 8)
    assert (found.num_better, found.num_worse) == (3, 0)


def test_lower_distances_are_better():
    comparison = compared(
        evaluation(liver=[0.5, 0.6, 0.9]),
        evaluation(liver=[0.6, 0.8, 0.8]),
        metrics=["hd95_mm", "dice"],
    )
    found = comparison.find("liver", "hd95_mm")
    assert found.mean_difference == pytest.approx(-20 / 30)
    assert (found.num_better, found.num_worse) == (2, 1)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_only_tests_that_were_made():
    adjusted = holm([0.02, NAN, 0.03])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.04)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.array(adjusted)[order]) >= 0)


def test_tests_are_those_of_scipy_and_adjusted_for_every_structure_and_metric():
    generator = np.random.default_rng(0)
    first, second = generator.uniform(0.3, 0.9, size=(2, 3, 25))
    names = ("liver", "spleen", "tumour")
    comparison = compared(
        evaluation(**{name: row.tolist() for name, row in zip(names, first)}),  # noqa: B905
        evaluation(**{name: row.tolist() for name, row in zip(names, second)}),  # noqa: B905
        metrics=["dice", "hd95_mm"],
    )
    for name, old, new in zip(names, first, second, strict=True):
        found = comparison.find(name, "dice")
        assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(new, old).pvalue)
        assert found.t_test_p == pytest.approx(stats.ttest_rel(new, old).pvalue)
    adjusted = holm([entry.wilcoxon_p for entry in comparison.differences])
    assert len(adjusted) == 6
    assert [entry.wilcoxon_p_holm for entry in comparison.differences] == adjusted


@pytest.mark.parametrize("num_zeros", [0, 1, 15, 60])
def test_cases_without_a_difference_do_not_make_p_smaller(num_zeros):
    first = [0.5] * (5 + num_zeros)
    second = [0.6, 0.62, 0.64, 0.66, 0.68] + [0.5] * num_zeros
    comparison = compared(evaluation(liver=first), evaluation(liver=second))
    # The most extreme 2 of 2^5 signs.
    assert comparison.find("liver", "dice").wilcoxon_p == pytest.approx(2 / 32)
    assert any(
        f"dice of liver (B): 5 of {5 + num_zeros} cases differ, too few" in note
        for note in comparison.notes
    )


def test_systems_that_agree_everywhere_have_a_p_of_1_and_it_is_told():
    alike = evaluation(liver=[0.5] * 8)
    comparison = compared(alike, alike)
    assert comparison.find("liver", "dice").wilcoxon_p == 1
    assert (
        "dice of liver (B): no case differs, so p is 1 in both tests."
        in comparison.notes
    )


# ------------------------------------------------------------------ several seeds


def test_seeds_are_averaged_per_case_and_their_spread_is_kept():
    first = [evaluation(liver=[0.5, 0.7]), evaluation(liver=[0.7, 0.7])]
    second = [evaluation(liver=[0.8, 0.8]), evaluation(liver=[0.8, 1.0])]
    found = compared(first, second).find("liver", "dice")
    assert list(found.differences.values()) == pytest.approx([0.2, 0.2])
    assert found.first.mean == pytest.approx(0.65)
    # The seeds' means are 0.6 and 0.7, then 0.8 and 0.9.
    assert found.first.seed_deviation == pytest.approx(math.sqrt(0.005))
    assert found.second.seed_deviation == pytest.approx(math.sqrt(0.005))


def test_one_seed_has_no_spread():
    one = evaluation(liver=[0.5, 0.7])
    assert math.isnan(compared(one, one).find("liver", "dice").first.seed_deviation)


def test_order_of_the_seeds_changes_nothing():
    seeds = [evaluation(liver=[0.1, 0.2, 0.3, x]) for x in (0.7, 0.1, 0.3)]
    found = compared(seeds, [seeds[2], seeds[0], seeds[1]]).find("liver", "dice")
    assert set(found.differences.values()) == {0.0}
    assert (found.wilcoxon_p, found.t_test_p, found.effect) == (1.0, 1.0, 0.0)


# ------------------------------------------------------------------ nothing to see


def test_undefined_values_leave_their_case_out_and_are_told():
    comparison = compared(
        evaluation(liver=[0.5, NAN, NAN, 0.8]), evaluation(liver=[0.6, NAN, 0.0, 0.9])
    )
    found = comparison.find("liver", "dice")
    assert list(found.differences) == ["case_0", "case_3"]
    assert (found.num_left_out, found.num_one_sided) == (2, 1)
    assert "2 of 4 cases are left out" in comparison.notes[0]
    assert "In 1 of them it is defined for some" in comparison.notes[0]


def test_equal_differences_have_no_t_test_and_no_effect():
    found = compared(
        evaluation(liver=[0.1, 0.2, 0.3]), evaluation(liver=[0.2, 0.3, 0.4])
    ).find("liver", "dice")
    assert math.isnan(found.t_test_p)
    assert math.isnan(found.effect)
    assert found.wilcoxon_p == pytest.approx(0.25)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_fewer_than_two_cases_have_no_test(values):
    # Another structure keeps the case sets from being empty.
    comparison = compared(
        evaluation(liver=values, spleen=[0.5, 0.6]),
        evaluation(liver=values, spleen=[0.5, 0.6]),
    )
    found = comparison.find("liver", "dice")
    assert math.isnan(found.wilcoxon_p)
    assert math.isnan(found.t_test_p)
    assert math.isnan(found.interval[0])
    assert any("too few" in note for note in comparison.notes)


def test_record_is_plain_json_with_null_for_undefined():
    comparison = compared(evaluation(liver=[0.5]), evaluation(liver=[0.75]))
    record = json.loads(comparison.to_json())
    (entry,) = record["differences"]
    assert record["format_version"] == 1
    assert record["systems"] == [
        {"name": "A", "num_seeds": 1},
        {"name": "B", "num_seeds": 1},
    ]
    assert entry["differences"] == {"case_0": 0.25}
    assert entry["wilcoxon_p"] is None
    assert entry["interval"] == [None, None]
    assert entry["first"] == {"mean": 0.5, "seed_deviation": None}


# ------------------------------------------------------------------ refusals


def test_unequal_cases_are_refused_and_named():
    with pytest.raises(
        EvaluationError, match=r"the cases differ: case_2 only in B\. A paired"
    ):
        compared(evaluation(liver=[0.5, 0.6]), evaluation(liver=[0.5, 0.6, 0.7]))


def test_unequal_cases_of_seeds_are_refused_by_their_number():
    whole, part = evaluation(liver=[0.5, 0.6]), evaluation(liver=[0.5])
    with pytest.raises(
        EvaluationError, match=r"case_1 only in A \(number 1\)\. A paired"
    ):
        compared([whole, part], [whole, whole])


def test_unequal_structures_are_refused():
    with pytest.raises(EvaluationError, match="structures differ: spleen only in B"):
        compared(evaluation(liver=[0.5]), evaluation(liver=[0.5], spleen=[0.5]))


def test_other_references_are_refused():
    with pytest.raises(
        EvaluationError, match=r"case case_0: the reference of liver is 100 voxels"
    ):
        compared(
            evaluation(liver=[0.5]), evaluation(liver=[0.5], reference_voxels=99.0)
        )


def test_structure_annotated_on_one_side_only_is_refused():
    first = evaluation(liver=[0.5, 0.5], spleen=[0.5, 0.5])
    second = evaluation(liver=[0.5, 0.5], spleen=[0.5])
    with pytest.raises(
        EvaluationError, match=r"case_1: .* spleen .* not measured in B"
    ):
        compared(first, second)


def test_other_definitions_are_refused():
    one = evaluation(liver=[0.5])
    other = replace(one, definitions={**one.definitions, "dice": "something else"})
    with pytest.raises(EvaluationError, match='in B as "something else"'):
        compared(one, other)


def test_metric_that_was_not_measured_is_refused():
    one = evaluation(liver=[0.5])
    with pytest.raises(EvaluationError, match="nsd was not measured; there are dice"):
        compared(one, one, metrics=["nsd"])


def test_one_system_and_equal_names_are_refused():
    one = evaluation(liver=[0.5])
    with pytest.raises(EvaluationError, match="there is one system only"):
        compare_systems([System("A", (one,))])
    with pytest.raises(EvaluationError, match="same name"):
        compare_systems([System("A", (one,)), System("A", (one,))])
