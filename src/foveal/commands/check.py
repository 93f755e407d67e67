"""Check a data set: what would make training fail or go wrong, and what to do."""

from collections.abc import Callable
from pathlib import Path

from foveal.case import Dataset
from foveal.io.datasets import read_dataset
from foveal.planning.audit import Audit, audit
from foveal.store.store import default_store_root


def check(
    dataset: Dataset | Path | str,
    on_progress: Callable[[int, int, str], None] | None = None,
    *,
    store: Path | None = None,
) -> Audit:
    """Read every file of a data set and list what is wrong or odd.

    Args:
        dataset: Folder or table, or what `foveal.read_dataset` returned.
        on_progress: Told cases done, cases in all and the name of the last.
        store: Folder where preprocessed cases would be kept, to compare its free space
            with what they need; unset: one of the user's cache.

    Raises:
        DatasetError: The layout is not known or contradicts itself.
    """
    if not isinstance(dataset, Dataset):
        dataset = read_dataset(dataset)
    return audit(dataset, store or default_store_root(), on_progress)
