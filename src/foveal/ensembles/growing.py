"""Ensembles of the first one, two, three, … of several models, in one pass over all."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveal.case import Case
from foveal.ensembles.members import Ensemble
from foveal.ensembles.running_sums import running_sums
from foveal.geometry import reorientation
from foveal.inference.predict import rows_at_once
from foveal.inference.restore import decided_classes, label_map_of

MOST_BYTES = 2 << 30
"""Of sums in memory; what needs more is kept on disk."""


def growing_label_maps(
    ensemble: Ensemble, case: Case, folder: Path
) -> Iterator[NDArray[np.integer]]:
    """Label maps of the first model, of the mean of the first two, and so on.

    Every model predicts once, and one volume of sums is kept, so memory does not grow
    with the number of models.

    Args:
        ensemble: Its models in the order in which they are added, each seen once.
        case: As read, in stored order.
        folder: For temporary files.

    Yields:
        Label maps in stored order with the user's label values, without what follows
        the networks. The last is that of all models.

    Raises:
        CaseError: A model cannot take the case, see `Model.prepared`.
    """
    task, structures = ensemble.task, tuple(ensemble.structures.values())
    shape = reorientation(case.grid, task.orientation).apply_to_grid(case.grid).shape
    sums = running_sums(task.num_classes, shape, most_bytes=MOST_BYTES, folder=folder)
    for count, (_, rows) in enumerate(ensemble.passes(case), start=1):
        for first, block in rows:
            sums.add(first, block)
        classes = np.concatenate(
            [
                decided_classes(block / count, structures).numpy().astype(np.uint8)
                for block in sums.rows(rows_at_once(task.num_classes, shape[1:]))
            ]
        )
        yield label_map_of(
            classes,
            case.grid,
            task.orientation,
            task.label_values,
            background_value=task.background_value,
        )
