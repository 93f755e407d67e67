"""From the user's label values and masks to inside classes of one byte."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from foveal.case import IGNORED, seen_classes
from foveal.errors import CaseError


def inside_label_map(
    label_map: NDArray[np.integer],
    class_of: Mapping[int, int],
    ignore_value: int | None,
) -> NDArray[np.uint8]:
    """Number the voxels of a label map by their inside class.

    Args:
        label_map: ``(i, j, k)`` with the user's values, or numbers of combinations.
        class_of: Inside class of every value that may occur, 0 included.
        ignore_value: Value that becomes `IGNORED`, if any.

    Raises:
        CaseError: The map holds another value.
    """
    inside_of = dict(class_of)
    if ignore_value is not None:
        inside_of[ignore_value] = IGNORED
    values = np.array(sorted(inside_of), np.int64)
    numbers = np.array([inside_of[value] for value in values.tolist()], np.uint8)
    result = np.empty(label_map.shape, np.uint8)
    for plane, numbered in zip(label_map, result, strict=True):
        places = np.searchsorted(values, plane).clip(max=len(values) - 1)
        if not np.array_equal(values[places], plane):
            raise _unknown_label(label_map, values.tolist())
        numbered[...] = numbers[places]
    return result


def classes_of_combinations(
    found: Sequence[frozenset[str]],
    combinations: Sequence[frozenset[str]],
    annotated: Sequence[str] | None,
) -> dict[int, int]:
    """Inside class of every combination of structures that masks form in a case.

    Args:
        found: Combinations of the case, by number.
        combinations: Structures of every inside class, background's none first.
        annotated: Structures contoured in the case; ``None``: all.

    Raises:
        CaseError: A combination is none of the classes'.
    """
    known = frozenset().union(*combinations) if annotated is None else set(annotated)
    visible = [names & known for names in combinations]
    class_of = {}
    for number, names in enumerate(found):
        if annotated is not None:
            names &= known
        if names not in visible:
            raise CaseError(
                f"the masks of {' and '.join(sorted(names))} overlap, for which the "
                'plan has no class; correct the masks, or run "foveal plan" again'
                if len(names) > 1
                else f"{next(iter(names))} is none of the plan's structures; name it "
                'in the data set and run "foveal plan" again'
            )
        class_of[number] = visible.index(names)
    return class_of


def annotated_structures(
    annotated: Sequence[str] | None, structures: Sequence[str]
) -> tuple[bool, ...] | None:
    """Which structures were contoured in a case, in the order of the plan.

    Args:
        annotated: Names; ``None``: all.
        structures: Names in the order of the plan.

    Returns:
        ``None`` if all were.

    Raises:
        CaseError: A name is no structure.
    """
    if annotated is None:
        return None
    unknown = sorted(set(annotated) - set(structures))
    if unknown:
        raise CaseError(
            f"annotated structures {unknown} are not among the plan's "
            f'{list(structures)}; correct the data set or run "foveal plan" again'
        )
    return tuple(name in annotated for name in structures)


def classes_shown(
    combinations: Sequence[frozenset[str]], annotated: Sequence[str] | None
) -> tuple[int, ...]:
    """Class as which each inside class shows in a case, see `seen_classes`.

    Args:
        combinations: Structures of every inside class, background's none first.
        annotated: Structures contoured in the case; ``None``: all.
    """
    names = sorted(frozenset[str]().union(*combinations))
    structures = np.array([[name in one for one in combinations] for name in names])
    flags = [annotated is None or name in annotated for name in names]
    return seen_classes(np.array(flags, dtype=bool), structures)


def without_unannotated(
    label_map: NDArray[np.uint8], seen_as: Sequence[int]
) -> NDArray[np.uint8]:
    """Label map that claims nothing of structures that were not annotated.

    Where a structure was not annotated, background means "background or that
    structure", so its stray voxels lose nothing by it, and no loss meets a class that
    is merged into another.

    Args:
        label_map: Inside classes ``(i, j, k)``.
        seen_as: See `classes_shown`.
    """
    becomes = np.arange(256, dtype=np.uint8)
    becomes[: len(seen_as)] = seen_as
    return becomes[label_map]


def _unknown_label(label_map: NDArray[np.integer], known: Sequence[int]) -> CaseError:
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
