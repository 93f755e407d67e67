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
    *,
    reads_ahead: bool = True,
) -> Iterator[Written]:
    """Read the next item while this one is computed and the one before is written.

    No more than one item is being read, one computed and one written, so memory stays
    flat. ``compute`` runs in the caller's thread, the others in a thread each; each
    sees the items in their order. When the caller stops early, what is being read or
    written is finished first.

    Args:
        items: What is to be done.
        read: The first step.
        compute: The second.
        write: The third.
        reads_ahead: Whether the next item is read while one is computed; otherwise it
            is read afterwards, where memory for two at once is missing.

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
            # Names and futures must not hold what the next item needs the memory for.
            reading = next_reading() if reads_ahead else None
            computed = compute(ready)
            del ready
            if not reads_ahead:
                reading = next_reading()
            if writing is not None:
                yield writing.result()
            writing = writer.submit(write, computed)
            del computed
        if writing is not None:
            yield writing.result()
