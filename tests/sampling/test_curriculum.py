import math

import pytest
from made_up_maps import MemoryMap, MemoryMaps
from made_up_volumes import UnlabelledVolume

from foveal.sampling.curriculum import FIRST_SHARE, Curriculum

CASES = [UnlabelledVolume(f"case {n}", class_counts=(8000,)) for n in range(10)]
HARDNESS = [0.5, 0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6, 0.0]
EASIEST_FIRST = [9, 1, 3, 5, 7, 0, 8, 6, 4, 2]


def all_maps():
    return MemoryMaps(
        {
            case.name: MemoryMap([[[0]]], difficulty=value)
            for case, value in zip(CASES, HARDNESS, strict=True)
        }
    )


def test_all_cases_are_drawn_from_while_none_has_a_map():
    assert list(Curriculum(MemoryMaps(), 100).eligible(CASES, 0)) == list(range(10))


@pytest.mark.parametrize("step", [100, 101, 5000])
def test_all_cases_are_drawn_from_after_the_last_step(step):
    assert list(Curriculum(all_maps(), 100).eligible(CASES, step)) == list(range(10))


def test_the_easiest_come_first_and_their_share_grows_to_all():
    curriculum = Curriculum(all_maps(), 100)
    sizes = []
    for step in range(100):
        eligible = list(curriculum.eligible(CASES, step))
        sizes.append(len(eligible))
        assert eligible == sorted(EASIEST_FIRST[: len(eligible)])
        share = FIRST_SHARE + (1 - FIRST_SHARE) * step / 100
        assert len(eligible) == math.ceil(share * 10)
    assert sizes[0] == 3
    assert sizes == sorted(sizes)
    assert sizes[-1] == 10


def test_all_cases_are_drawn_from_until_each_has_a_map():
    maps = all_maps()
    del maps["case 4"]
    assert list(Curriculum(maps, 100).eligible(CASES, 10)) == list(range(10))
    maps["case 4"] = MemoryMap([[[0]]], difficulty=0.8)
    assert len(Curriculum(maps, 100).eligible(CASES, 10)) == 4


def test_unlabelled_cases_are_not_waited_for_and_come_last():
    cases = [UnlabelledVolume("unlabelled"), *CASES]
    assert list(Curriculum(all_maps(), 100).eligible(cases, 0)) == [2, 4, 6, 10]


def test_equally_hard_cases_keep_their_order():
    maps = MemoryMaps({case.name: MemoryMap([[[0]]]) for case in CASES})
    assert list(Curriculum(maps, 100).eligible(CASES, 0)) == [0, 1, 2]


def test_one_case_alone_is_always_drawn_from():
    assert list(Curriculum(all_maps(), 100).eligible(CASES[2:3], 0)) == [0]
