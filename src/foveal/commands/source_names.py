"""What to call files and folders that a user names: as short as tells them apart."""

from collections.abc import Collection, Sequence
from pathlib import Path


def distinct_names(
    sources: Sequence[Path], meaningless: Collection[str] = ()
) -> list[str]:
    """The last parts of paths, as many as tell all of them apart.

    Args:
        sources: At least one.
        meaningless: Parts that say nothing and are left out.
    """
    parts = [
        [part for part in source.absolute().parts if part not in meaningless]
        for source in sources
    ]
    shortest = min(len(part) for part in parts)
    for length in range(1, shortest + 1):
        names = ["/".join(part[-length:]).removesuffix(".json") for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(source) for source in sources]
