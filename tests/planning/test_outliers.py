import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from foveal.planning.outliers import groups_apart, robust_deviations

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


def test_groups_are_divided_at_wide_gaps_the_largest_first():
    values = [50.0, 1.0, 2.0, 51.0, 3.5, 100.0]
    assert groups_apart(values, 10) == [[1, 2, 4], [0, 3], [5]]


def test_nothing_has_no_groups():
    assert groups_apart([], 1.0) == []


@given(numbers, st.floats(0.1, 1e3))
def test_every_number_is_in_one_group_and_neighbours_in_it_are_close(values, gap):
    groups = groups_apart(values, gap)
    assert sorted(place for group in groups for place in group) == list(
        range(len(values))
    )
    for group in groups:
        members = sorted(values[place] for place in group)
        assert all(step <= gap for step in np.diff(members))


def test_one_far_number_does_not_hide_itself():
    deviations = robust_deviations([1.0, 2.0, 3.0, 4.0, 1000.0], 0.1)
    # The median is 3 and the median distance from it 1.
    assert math.isclose(deviations[-1], 997 / 1.4826)
    assert math.isclose(deviations[0], -2 / 1.4826)


def test_close_agreement_does_not_make_outliers():
    deviations = robust_deviations([1.0, 1.0, 1.0, 1.2], 0.2)
    assert np.allclose(deviations, [0, 0, 0, 1])
