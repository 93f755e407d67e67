"""The same work on many items at once, told as it goes, ended by the first error."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    threads: int,
    name: Callable[[Item], str],
    on_progress: Callable[[int, int, str], None] | None,
) -> list[Result]:
    """Results of a function, in the order of the items.

    Args:
        function: Called in a thread; the first error that it raises ends all.
        items: May be empty.
        threads: Items worked on at once.
        name: Of an item, for ``on_progress``.
        on_progress: Told items done, items in all and the name of the last.
    """
    with ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(function, item): item for item in items}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if on_progress is not None:
                    on_progress(done, len(futures), name(futures[future]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]
