import threading
import time

import pytest

from foveal.inference.overlap import overlapped


def test_results_come_in_order_and_every_item_passes_every_stage():
    results = overlapped(
        range(5), lambda n: n * 10, lambda n: n + 1, lambda n: f"<{n}>"
    )
    assert list(results) == ["<1>", "<11>", "<21>", "<31>", "<41>"]


def test_no_items_give_no_results():
    assert list(overlapped([], str, str, str)) == []


def test_stages_run_at_the_same_time_on_one_item_each():
    lock, at_work, most = threading.Lock(), {}, {}

    def stage(name):
        def work(item):
            with lock:
                at_work[name] = at_work.get(name, 0) + 1
                most[name] = max(most.get(name, 0), at_work[name])
                most["all"] = max(most.get("all", 0), sum(at_work.values()))
            time.sleep(0.02)
            with lock:
                at_work[name] -= 1
            return item

        return work

    list(overlapped(range(6), stage("read"), stage("compute"), stage("write")))
    assert most == {"read": 1, "compute": 1, "write": 1, "all": 3}


def test_memory_holds_no_more_than_one_item_per_stage():
    alive, most = [0], []

    class Held:
        def __init__(self):
            alive[0] += 1
            most.append(alive[0])

        def __del__(self):
            alive[0] -= 1

    def read(_):
        return Held()

    list(overlapped(range(20), read, lambda held: held, lambda _: None))
    assert max(most) <= 3


@pytest.mark.parametrize("stage", range(3))
def test_what_a_stage_raises_reaches_the_caller(stage):
    def fail(item):
        raise ValueError(f"bad {item}")

    stages = [fail if n == stage else (lambda item: item) for n in range(3)]
    with pytest.raises(ValueError, match="bad 0"):
        list(overlapped(range(3), *stages))


def test_items_before_a_failing_one_are_written():
    written = []

    def compute(item):
        if item == 2:
            raise KeyboardInterrupt
        return item

    with pytest.raises(KeyboardInterrupt):
        list(overlapped(range(5), lambda item: item, compute, written.append))
    assert written == [0, 1]


def test_where_memory_is_short_nothing_is_read_while_something_is_computed():
    happened = []

    def stage(name):
        return lambda item: happened.append(name) or item

    found = overlapped(
        range(2), stage("read"), stage("compute"), str, reads_ahead=False
    )
    assert list(found) == ["0", "1"]
    assert happened == ["read", "compute", "read", "compute"]
