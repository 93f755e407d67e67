"""Where in a case the patches of a run were drawn, for its report."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from foveal.commands.reported_run import LogRow
from foveal.errors import CaseError
from foveal.reports.patches import projections
from foveal.reports.sampling_figures import DrawnPart, DrawnThroughTraining
from foveal.reports.slices import percentile_range
from foveal.store.store import StoredCase

Centres = dict[str, list[tuple[int, tuple[int, int, int]]]]
"""Case to the steps and voxels of the patches drawn from it."""


def drawn_centres(rows: Sequence[LogRow]) -> Centres:
    """Where the patches of each case lay, by the rows of the steps.

    Args:
        rows: Those without ``patches`` tell nothing.
    """
    centres: Centres = {}
    for row in rows:
        for drawn in row.get("patches", {}).values():
            for case, i, j, k in drawn:
                centres.setdefault(case, []).append((row["step"], (i, j, k)))
    return centres


def thirds(steps: int) -> list[range]:
    """The first and the last third of the steps; all of them if there are few."""
    third = steps // 3
    return [range(third), range(steps - third, steps)] if third else [range(steps)]


def unfitness(
    name: str,
    centres: Centres,
    parts: Sequence[range],
    slices: Mapping[str, object],
) -> tuple[bool, int, str]:
    """Sorts cases: those whose errors are shown, then those drawn in all parts."""
    missing = sum(not _within(centres[name], part) for part in parts)
    return name not in slices, missing, name


def _within(
    centres: Sequence[tuple[int, tuple[int, int, int]]], steps: range
) -> list[tuple[int, int, int]]:
    return [voxel for step, voxel in centres if step in steps]


def drawn_through_training(
    names: Sequence[str],
    centres: Centres,
    parts: Sequence[range],
    stored: Mapping[str, StoredCase | None],
) -> tuple[list[DrawnThroughTraining], list[str]]:
    """Early and late places of every case as they are drawn, and what is not shown.

    Args:
        names: Cases that patches were drawn from.
        centres: Of all cases.
        parts: Steps that are shown apart, each with its own picture.
        stored: Case to its preprocessed copy; without one the case is not shown.
    """
    seen, notes = [], []
    for name in names:
        case = stored.get(name)
        if case is None:
            notes.append(
                f"Where the patches of {name} lay is not shown: the store has no "
                "preprocessed copy of the case any more."
            )
            continue
        whole = [slice(0, length) for length in case.shape]
        try:
            channel = case.read_image(whole)[0]
            labels = _labels_of(case, whole)
        except CaseError as error:
            notes.append(f"Where the patches of {name} lay is not shown: {error}")
            continue
        drawn_parts = []
        for steps in parts:
            voxels = _within(centres[name], steps)
            drawn_parts.append(
                DrawnPart(
                    f"steps {steps.start:,} to {steps.stop - 1:,}",
                    len(voxels),
                    projections(channel, labels, voxels, case.grid),
                )
            )
        seen.append(DrawnThroughTraining(name, percentile_range(channel), drawn_parts))
    return seen, notes


def _labels_of(case: StoredCase, whole: Sequence[slice]) -> NDArray[np.uint8]:
    """Inside labels; an unlabelled case has no outlines."""
    if case.label_map is None:
        return np.zeros(case.shape, np.uint8)
    return case.read_label_map(whole)
