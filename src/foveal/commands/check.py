"""Check a data set: what would make training fail or go wrong, and what to do."""

from collections.abc import Callable
from pathlib import Path

from foveal.case import Dataset
from foveal.io.datasets import read_dataset
from foveal.planning.audit import Audit, audit


def check(
    dataset: Dataset | Path | str,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Audit:
    """Read every file of a data set and list what is wrong or odd.

    Args:
        dataset: Folder or table, or what `foveal.read_dataset` returned.
        on_progress: Told cases done, cases in all and the name of the last.

    Raises:
        DatasetError: The layout is not known or contradicts itself.
    """
    if not isinstance(dataset, Dataset):
        dataset = read_dataset(dataset)
    return audit(dataset, on_progress)
