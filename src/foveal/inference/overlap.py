"""Reading, computing and writing at the same time, each on an item of its own."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Computed], Written],
) -> Iterator[Written]:
    """Read the next item while this one is computed and the one before is written.

    No more than one item is being read, one computed and one written, so memory stays
    flat. ``compute`` runs in the caller's thread, the others in a thread each; each
    sees the items in their order. When the caller stops early, what is being read or
    written is finished first.

    Yields:
        What ``write`` returns, in the order of the items.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        waiting = iter(items)

        def next_reading() -> Future[Read] | None:
            for item in waiting:
                return reader.submit(read, item)
            return None

        reading, writing = next_reading(), None
        while reading is not None:
            ready = reading.result()
            reading = next_reading()
            computed = compute(ready)
            # Names and futures must not hold what the next item needs the memory for.
            del ready
            if writing is not None:
                yield writing.result()
            writing = writer.submit(write, computed)
            del computed
        if writing is not None:
            yield writing.result()
