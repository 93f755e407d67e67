import numpy as np
import pytest

from foveal.postprocessing.search import (
    Choice,
    Span,
    best,
    chosen_by_others,
    drawn,
    grid,
)

SPACE = {"sigma": Span(1.0, 16.0), "mode": Choice(("a", "b"))}


def test_the_same_seed_draws_the_same_and_a_longer_search_goes_on():
    assert drawn(SPACE, 5, seed=3) == drawn(SPACE, 9, seed=3)[:5]
    assert drawn(SPACE, 5, seed=3) != drawn(SPACE, 5, seed=4)


def test_each_octave_and_each_choice_is_as_likely():
    trials = drawn(SPACE, 2000, seed=0)
    octaves = np.log2([trial["sigma"] for trial in trials])
    counts, _ = np.histogram(octaves, bins=4, range=(0, 4))
    assert (abs(counts / 2000 - 0.25) < 0.04).all()
    assert abs(np.mean([trial["mode"] == "a" for trial in trials]) - 0.5) < 0.04


def test_a_grid_has_every_combination_in_octaves():
    assert grid(SPACE, 3) == [
        {"sigma": sigma, "mode": mode} for sigma in (1, 4, 16) for mode in ("a", "b")
    ]
    assert [trial["sigma"] for trial in grid(SPACE, 1)] == [4, 4]


def test_a_random_search_comes_near_the_best():
    def score(parameters):
        return -abs(np.log2(parameters["sigma"]) - 2.5) - (parameters["mode"] == "a")

    trials = drawn(SPACE, 60, seed=0)
    found = trials[best(np.array([[score(trial)] for trial in trials]))]
    assert found["mode"] == "b"
    assert 4.8 < found["sigma"] < 6.7  # 2 ** 2.5 is 5.66


def test_of_equally_good_trials_the_first_is_best():
    assert best(np.array([[1.0, 2.0], [2.0, 1.0]])) == 0


def test_a_case_is_scored_with_what_the_others_chose():
    # The second trial is best by one case alone: without it the first is chosen.
    scores = np.array([[0.5, 0.5, 0.5], [0.4, 0.4, 0.9]])
    assert best(scores) == 1
    assert chosen_by_others(scores, ["a", "b", "c"]).tolist() == [1, 1, 0]


def test_cases_of_a_patient_are_left_out_together():
    scores = np.array([[0.5, 0.5, 0.5, 0.5], [0.4, 0.4, 0.9, 0.9]])
    assert chosen_by_others(scores, ["a", "b", "c", "c"]).tolist() == [1, 1, 0, 0]


def test_noise_looks_like_a_gain_only_to_those_who_chose_on_it():
    chosen, left_out = [], []
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 0.01, (100, 20))
        noise[0] = 0
        chosen.append(noise[best(noise)].mean())
        groups = [str(n) for n in range(20)]
        choices = chosen_by_others(noise, groups)
        left_out.append(noise[choices, np.arange(20)].mean())
    assert min(chosen) > 0.003
    assert abs(np.mean(left_out)) < 0.001


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (1.0, np.inf)]
)
def test_a_span_without_octaves_is_refused(low, high):
    with pytest.raises(ValueError, match="both ends must be above 0"):
        Span(low, high)


def test_empty_searches_are_refused():
    with pytest.raises(ValueError, match="among no values"):
        Choice(())
    with pytest.raises(ValueError, match="grid of 0 values"):
        grid(SPACE, 0)
    with pytest.raises(ValueError, match="two groups or more"):
        chosen_by_others(np.ones((2, 2)), ["a", "a"])
