import threading
import time

import pytest

from foveal.in_threads import for_each


def test_results_are_in_the_order_of_the_items_whoever_ends_first():
    second_is_told = threading.Event()
    told = []

    def work(item):
        if item == 1:
            assert second_is_told.wait(10)
        return 10 * item

    def tell(*progress):
        told.append(progress)
        second_is_told.set()

    results = for_each(
        work,
        [1, 2],
        threads=2,
        name=str,
        on_progress=tell,
    )
    assert results == [10, 20]
    assert told == [(1, 2, "2"), (2, 2, "1")]


def test_the_first_error_ends_all_and_is_raised():
    begun = []

    def work(item):
        begun.append(item)
        if item == 0:
            raise ValueError("item 0 is wrong")
        time.sleep(0.02)

    with pytest.raises(ValueError, match="item 0 is wrong"):
        for_each(work, range(100), threads=1, name=str, on_progress=None)
    assert len(begun) < 100


def test_no_items_give_no_results():
    assert for_each(str, [], threads=3, name=str, on_progress=None) == []
