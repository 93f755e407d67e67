"""From the user's label values to consecutive inside labels of one byte."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foveal.case import IGNORED
from foveal.errors import CaseError


def inside_label_map(
    label_map: NDArray[np.integer],
    label_values: Sequence[int],
    ignore_value: int | None,
) -> NDArray[np.uint8]:
    """Number the labels of a map 0 for background, then 1, 2, … in order.

    Args:
        label_map: ``(i, j, k)`` with the user's values, 0 background.
        label_values: Value of each structure, in the order of inside labels from 1.
        ignore_value: Value that becomes `IGNORED`, if any.

    Raises:
        CaseError: The map holds another value.
    """
    inside_of = {0: 0} | {value: n for n, value in enumerate(label_values, start=1)}
    if ignore_value is not None:
        inside_of[ignore_value] = IGNORED
    values = np.array(sorted(inside_of), np.int64)
    numbers = np.array([inside_of[value] for value in values.tolist()], np.uint8)
    result = np.empty(label_map.shape, np.uint8)
    for plane, numbered in zip(label_map, result, strict=True):
        places = np.searchsorted(values, plane).clip(max=len(values) - 1)
        if not np.array_equal(values[places], plane):
            raise _unknown_label(label_map, label_values, ignore_value)
        numbered[...] = numbers[places]
    return result


def annotated_classes(
    annotated_labels: Sequence[int] | None, label_values: Sequence[int]
) -> tuple[bool, ...] | None:
    """Which inside classes were contoured in a case, background first.

    Args:
        annotated_labels: The user's values; ``None``: all.
        label_values: Value of each structure, in the order of inside labels from 1.

    Returns:
        ``None`` if all were.

    Raises:
        CaseError: A value names no structure.
    """
    if annotated_labels is None:
        return None
    unknown = sorted(set(annotated_labels) - {0, *label_values})
    if unknown:
        raise CaseError(
            f"annotated labels {unknown} are not among the plan's labels "
            f'{list(label_values)}; correct the data set or run "foveal plan" again'
        )
    return True, *(value in annotated_labels for value in label_values)


def without_unannotated(
    label_map: NDArray[np.uint8], annotated: Sequence[bool] | None
) -> NDArray[np.uint8]:
    """Label map in which structures that the case does not claim are background.

    Where a structure was not annotated, background means "background or that
    structure", so its stray voxels lose nothing by it, and no loss meets a class that
    is merged into background.

    Args:
        label_map: Inside labels ``(i, j, k)``.
        annotated: See `annotated_classes`; ``None``: all.
    """
    if annotated is None:
        return label_map
    becomes = np.arange(256, dtype=np.uint8)
    for label, is_annotated in enumerate(annotated):
        if not is_annotated:
            becomes[label] = 0
    return becomes[label_map]


def _unknown_label(
    label_map: NDArray[np.integer],
    label_values: Sequence[int],
    ignore_value: int | None,
) -> CaseError:
    known = [0, *label_values, *([] if ignore_value is None else [ignore_value])]
    values, counts = np.unique(label_map, return_counts=True)
    found = [
        f"{value} ({count} voxels)"
        for value, count in zip(values, counts, strict=True)
        if value not in known
    ]
    return CaseError(
        f"label map holds {', '.join(found[:10])}, but the plan knows only "
        f"{known}; correct the label map, or name these labels in the data set and "
        'run "foveal plan" again'
    )
