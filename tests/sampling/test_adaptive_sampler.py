"""isample by loop and directly: the same distribution, that of the paper's loop.

Every claim is about the exact law `P(j) P(k | j) P(c | j, k) a_j(c) / Z`, which is
written out here voxel by voxel.
"""

import time
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_maps import MemoryMap, MemoryMaps
from made_up_volumes import LabelledVolume, UnlabelledVolume
from scipy import stats

from foveal.sampling import adaptive
from foveal.sampling.adaptive import WITHOUT_ERROR_MAPS, AdaptiveSampler
from foveal.sampling.laws import (
    anywhere,
    by_weight_map,
    class_balanced,
    class_equal,
    foreground_background,
    in_mask,
)
from foveal.sampling.samplers import BaseSampler

SIZE = (2, 1, 2)
STRUCTURES = ((1,), (2,))

LAWS = {
    "uniform": anywhere,
    "class_balanced": partial(
        class_balanced,
        foreground_fraction=0.6,
        structures=STRUCTURES,
        weights=(1.0, 2.0),
    ),
    "foreground_background": partial(
        foreground_background, foreground_fraction=0.5, structures=STRUCTURES
    ),
    "class_equal": partial(class_equal, structures=STRUCTURES),
    "mask": in_mask,
    "weight_map": by_weight_map,
}


def cases():
    """Three small cases; the last lacks class 2."""
    made = []
    for number, shape in enumerate([(3, 2, 2), (2, 3, 3), (4, 2, 1)]):
        random = np.random.default_rng(number)
        label_map = random.integers(0, 2 if number == 2 else 3, shape)
        label_map.ravel()[:3] = (0, 1, 1 if number == 2 else 2)
        mask = random.integers(0, 2, shape)
        mask.ravel()[1] = 1
        made.append(
            LabelledVolume(
                label_map.astype(np.uint8),
                3,
                name=f"case {number}",
                mask=mask.astype(np.uint8),
                weight_map=random.random(shape).astype(np.float32),
            )
        )
    return made


def maps_of(made, seed=0, but=()):
    """Errors that differ much between cases and voxels; many are 0."""
    random = np.random.default_rng(seed)
    maps = MemoryMaps()
    for number, case in enumerate(made):
        errors = random.integers(0, 256, case.shape) * random.integers(0, 2, case.shape)
        errors.ravel()[0] = 40 + 100 * number
        if number not in but:
            maps[case.name] = MemoryMap(errors // (1 + number), step=10 * number)
    return maps


def exact_law(made, law, maps, epsilon):
    """Chance of every (case, category, voxel), and the share that is accepted."""
    chances = {}
    for index, case in enumerate(made):
        whole = tuple(slice(0, length) for length in case.shape)
        errors = np.ones(case.shape)
        if case.name in maps:
            errors = maps[case.name].errors / 255
        for category in law(case, SIZE):
            weights = category.voxels.weights(case, whole)
            of_category = category.chance / len(made) * weights / weights.sum()
            accepted = of_category * np.minimum(errors + epsilon, 1)
            for voxel in zip(*accepted.nonzero(), strict=True):
                place = index, category.name, tuple(int(n) for n in voxel)
                chances[place] = float(accepted[voxel])
    total = sum(chances.values())
    return {place: chance / total for place, chance in chances.items()}, total


def drawn(sampler, made, draws, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [sampler.draw(made, SIZE, random) for _ in range(draws)]


def assert_follows(found, law):
    counts = Counter((one.case_index, one.category, one.centre) for one in found)
    assert counts.keys() <= law.keys()
    expected = np.array(list(law.values())) * len(found)
    seen = np.array([counts[place] for place in law])
    # Rare places are pooled, as the test wants five expected draws of each.
    rare = expected < 5
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        seen = np.append(seen[~rare], seen[rare].sum())
    assert stats.chisquare(seen, expected).pvalue > 1e-3
    assert abs(seen - expected).sum() / len(found) / 2 < 0.15


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, "direct") for name in LAWS),
        # The others differ in the base sampler only, which tests of its own look at.
        ("class_balanced", "loop"),
        ("weight_map", "loop"),
    ],
)
def test_both_ways_draw_from_the_exact_law(name, mode):
    made = cases()
    maps = maps_of(made)
    sampler = AdaptiveSampler(BaseSampler(LAWS[name]), maps, epsilon=0.1, mode=mode)
    law, _ = exact_law(made, LAWS[name], maps, 0.1)
    assert_follows(drawn(sampler, made, 500, seed=3), law)


@pytest.mark.parametrize("mode", ["loop", "direct"])
def test_case_without_a_map_counts_as_wrong_everywhere(mode):
    made = cases()
    maps = maps_of(made, but=(1,))
    base = BaseSampler(LAWS["class_equal"])
    sampler = AdaptiveSampler(base, maps, epsilon=0.05, mode=mode)
    law, _ = exact_law(made, LAWS["class_equal"], maps, 0.05)
    found = drawn(sampler, made, 400)
    assert_follows(found, law)
    steps = {one.case_index: one.error_step for one in found}
    assert steps == {0: 0, 1: None, 2: 20}


@settings(max_examples=12)
@given(st.sampled_from(sorted(LAWS)), st.integers(0, 10**6), st.floats(0, 1), st.data())
def test_direct_rows_are_the_exact_shares_of_images_classes_and_voxels(
    name, seed, epsilon, data
):
    """Without drawing: what is looked up is the law, for any errors and epsilon."""
    made = cases()
    maps = maps_of(made, seed, but=data.draw(st.sets(st.integers(0, 2), max_size=2)))
    sampler = AdaptiveSampler(
        BaseSampler(LAWS[name]), maps, epsilon=epsilon, mode="direct"
    )
    law, accepted = exact_law(made, LAWS[name], maps, epsilon)
    rows = [sampler._row(case, SIZE) for case in made]
    total = sum(row.total for row in rows)
    assert total / len(made) == pytest.approx(accepted)
    for index, row in enumerate(rows):
        for category, share in zip(row.categories, row.shares, strict=True):
            expected = sum(
                chance
                for (where, what, _), chance in law.items()
                if (where, what) == (index, category.name)
            )
            assert share / total == pytest.approx(expected, abs=1e-12)
    assert drawn(sampler, made, 1)[0].acceptance == pytest.approx(accepted)


@pytest.mark.parametrize("name", LAWS)
def test_epsilon_1_by_loop_is_the_base_sampler_draw_by_draw(name):
    made = cases()
    base = BaseSampler(LAWS[name])
    sampler = AdaptiveSampler(base, maps_of(made), epsilon=1.0, mode="loop")
    first, second = (torch.Generator().manual_seed(5) for _ in range(2))
    for _ in range(25):
        expected = base.draw(made, SIZE, first)
        found = sampler.draw(made, SIZE, second)
        assert found[:4] == expected[:4]
        assert found.acceptance == 1
        assert torch.equal(first.get_state(), second.get_state())


@pytest.mark.parametrize("mode", ["loop", "direct"])
def test_without_any_map_the_base_law_is_drawn_from(mode):
    made = cases()
    law, _ = exact_law(made, LAWS["class_balanced"], {}, 0)
    base = BaseSampler(LAWS["class_balanced"])
    sampler = AdaptiveSampler(base, WITHOUT_ERROR_MAPS, epsilon=0.0, mode=mode)
    found = drawn(sampler, made, 400)
    assert_follows(found, law)
    assert {one.acceptance for one in found} == {1.0}
    assert {one.error_step for one in found} == {None}


@pytest.mark.parametrize("mode", ["loop", "direct"])
def test_with_epsilon_0_and_no_error_left_the_base_sampler_draws(mode, monkeypatch):
    monkeypatch.setattr(adaptive, "MOST_TRIES", 3)
    made = cases()
    maps = MemoryMaps({case.name: MemoryMap(np.zeros(case.shape)) for case in made})
    base = BaseSampler(LAWS["class_equal"])
    law, _ = exact_law(made, LAWS["class_equal"], {}, 0)
    sampler = AdaptiveSampler(base, maps, epsilon=0.0, mode=mode)
    found = drawn(sampler, made, 400)
    assert_follows(found, law)
    # The loop tells that it gave up after three.
    accepted = 0.0 if mode == "direct" else 1 / 3
    assert {(one.acceptance, one.error_step) for one in found} == {(accepted, 0)}


@pytest.mark.parametrize("mode", ["loop", "direct"])
def test_epsilon_0_never_draws_where_there_is_no_error(mode):
    made = cases()
    maps = maps_of(made, seed=4)
    maps["case 1"] = MemoryMap(np.zeros(made[1].shape))
    base = BaseSampler(LAWS["class_balanced"])
    for one in drawn(AdaptiveSampler(base, maps, epsilon=0.0, mode=mode), made, 60):
        assert maps[made[one.case_index].name].errors[one.centre] > 0
        assert one.case_index != 1


def test_both_tell_the_share_that_is_accepted():
    made = cases()
    maps = maps_of(made)
    base = BaseSampler(LAWS["class_equal"])
    _, accepted = exact_law(made, LAWS["class_equal"], maps, 0.05)
    loop, direct = (
        [
            one.acceptance
            for one in drawn(
                AdaptiveSampler(base, maps, epsilon=0.05, mode=mode), made, 200
            )
        ]
        for mode in ("loop", "direct")
    )
    assert direct == pytest.approx([accepted] * 200)
    # One over the mean number of tries.
    assert 1 / np.mean(1 / np.array(loop)) == pytest.approx(accepted, rel=0.2)


def test_patch_lies_around_the_drawn_voxel_inside_the_volume():
    made = cases()
    base = BaseSampler(LAWS["class_equal"])
    sampler = AdaptiveSampler(base, maps_of(made), epsilon=0.1, mode="direct")
    for one in drawn(sampler, made, 100):
        shape = made[one.case_index].shape
        for centre, corner, size, length in zip(
            one.centre, one.corner, SIZE, shape, strict=True
        ):
            assert corner <= centre < corner + size
            assert length < size or 0 <= corner <= length - size


def test_refresh_reads_only_the_refreshed_case():
    made = cases()
    maps = maps_of(made)
    base = BaseSampler(LAWS["class_equal"])
    sampler = AdaptiveSampler(base, maps, epsilon=0.05, mode="direct")
    drawn(sampler, made, 1)
    rows = [sampler._row(case, SIZE) for case in made]
    fresh = MemoryMap(np.full(made[1].shape, 9), step=99)
    maps["case 1"] = fresh
    for each in maps.values():
        each.voxels_read = 0
    after = [sampler._row(case, SIZE) for case in made]
    # Once for all categories of the case.
    assert fresh.voxels_read == made[1].label_map.size
    assert maps["case 0"].voxels_read == maps["case 2"].voxels_read == 0
    assert after[0] is rows[0]
    assert after[2] is rows[2]
    law, _ = exact_law(made, LAWS["class_equal"], maps, 0.05)
    assert_follows(drawn(sampler, made, 400), law)


def test_unlabelled_case_is_drawn_from_by_its_own_chance():
    made = [cases()[0], UnlabelledVolume(shape=(2, 1, 3))]
    maps = maps_of(made[:1])
    law, _ = exact_law(made, LAWS["class_equal"], maps, 0.05)
    base = BaseSampler(LAWS["class_equal"])
    sampler = AdaptiveSampler(base, maps, epsilon=0.05, mode="direct")
    assert_follows(drawn(sampler, made, 400), law)


@pytest.mark.parametrize("epsilon", [-0.01, 1.01, float("nan")])
def test_epsilon_outside_0_to_1_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"epsilon is .* in \[0, 1\]"):
        AdaptiveSampler(
            BaseSampler(anywhere), WITHOUT_ERROR_MAPS, epsilon=epsilon, mode="loop"
        )


def seconds_per_draw(length, errors):
    label_map = np.zeros((length,) * 3, np.uint8)
    label_map[:4] = 1
    case = LabelledVolume(label_map, 2)
    case.__dict__["class_voxels"] = [range(length**3 - 4 * length**2), None]
    case.class_voxels[1] = range(4 * length**2)
    maps = MemoryMaps({"volume": MemoryMap(errors(length))})
    law = partial(foreground_background, foreground_fraction=0.5, structures=((1,),))
    sampler = AdaptiveSampler(BaseSampler(law), maps, epsilon=0.0, mode="direct")
    random = torch.Generator().manual_seed(0)
    sampler.draw([case], SIZE, random)
    times = []
    for _ in range(60):
        start = time.perf_counter()
        sampler.draw([case], SIZE, random)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def one_voxel(length):
    errors = np.zeros((length,) * 3, np.uint8)
    errors[length - 1, length // 2, 3] = 1
    return errors


def test_time_of_a_draw_grows_neither_with_the_volume_nor_as_errors_vanish():
    small = seconds_per_draw(64, lambda n: np.full((n,) * 3, 200, np.uint8))
    assert seconds_per_draw(160, lambda n: np.full((n,) * 3, 200, np.uint8)) < 3 * small
    assert seconds_per_draw(160, one_voxel) < 3 * small
