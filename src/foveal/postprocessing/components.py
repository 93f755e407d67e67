"""Connected parts of structures: the largest kept, small ones removed, holes filled.

Kamnitsas et al. 2018, https://arxiv.org/abs/1711.01468 (EMMA), remove components below
250 voxels; the thesis does the same in section 4.4.3.

Voxels of a structure that touch by a face, an edge or a corner (26 neighbours) are one
component, so that a thin structure which runs across the axes of a coarse grid is not
cut to pieces. Its outside is then what touches by faces (6 neighbours), as otherwise a
hole could leak out where the structure itself holds together.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cc3d
import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

BACKGROUND = 0

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class ComponentRule:
    """What is done to the components of one structure, or of several taken together."""

    structures: tuple[str, ...]
    """Names; their voxels together form the components."""

    keep: Literal["all", "largest"] = "all"
    """Components that stay; of equally large ones the first along the axes."""

    smallest_voxels: int | None = None
    """Components of fewer voxels are removed, also the largest."""

    smallest_ml: float | None = None
    """Components of less volume are removed, also the largest."""

    fill_holes: bool = False
    """Whether holes in what stays are filled."""


def with_component_rules(
    label_map: NDArray[np.integer],
    rules: Iterable[ComponentRule],
    structures: Mapping[str, Sequence[int]],
    spacing_mm: Sequence[float],
) -> NDArray[np.integer]:
    """Apply rules one after another.

    A removed voxel loses the structures of the rule and those that lie in them by
    definition, and stays in all others: of an organ that holds a lesion, a removed part
    becomes background, lesion and all; a removed lesion becomes organ.

    A hole is what a structure encloses on all sides: it reaches no border of the volume
    (an axis of one voxel has none). What the rule could have removed there becomes the
    class of the rule that touches the hole by most faces. Other structures in a hole
    stay, and what only touches those is no hole of this structure.

    Args:
        label_map: Inside classes ``(i, j, k)``; not changed.
        rules: Each names structures of ``structures``.
        structures: Name to the inside classes whose union it is.
        spacing_mm: Edges of a voxel.

    Returns:
        Of the same type, or ``label_map`` itself where no rule changes a voxel.

    Raises:
        KeyError: A rule names another structure.
    """
    voxel_ml = math.prod(spacing_mm) / 1000
    for rule in rules:
        label_map = _with_rule(label_map, rule, structures, voxel_ml)
    return label_map


def _with_rule(
    label_map: NDArray[np.integer],
    rule: ComponentRule,
    structures: Mapping[str, Sequence[int]],
    voxel_ml: float,
) -> NDArray[np.integer]:
    without = classes_without(rule.structures, structures)
    num_classes = 1 + max(int(label_map.max(initial=0)), *without, *without.values())
    is_in_rule = np.zeros(num_classes, bool)
    is_in_rule[list(without)] = True
    box = _box_of(is_in_rule[label_map])
    if box is None:
        return label_map
    # All that a rule changes lies between the outermost voxels of its structures.
    inner = label_map[box]
    mask = is_in_rule[inner]
    kept = _kept(mask, rule, voxel_ml)
    removed = mask & ~kept
    replacement = np.arange(num_classes, dtype=label_map.dtype)
    replacement[list(without)] = list(without.values())
    changed = inner.copy()
    changed[removed] = replacement[inner[removed]]
    if rule.fill_holes:
        fillable = np.isin(changed, list(set(without.values())))
        _fill_holes(changed, kept, fillable, label_map.shape, num_classes)
    if (changed == inner).all():
        return label_map
    result = label_map.copy()
    result[box] = changed
    return result


def classes_without(
    removed: Iterable[str], structures: Mapping[str, Sequence[int]]
) -> dict[int, int]:
    """What a voxel becomes when it loses structures.

    Args:
        removed: Names of structures that are lost together.
        structures: Name to the inside classes whose union it is.

    Returns:
        Each class of the removed structures to the class that is in all its other
        structures, but for those that lie within the removed ones. If there is none,
        to the one that is in most of them and in nothing else; background at last.
    """
    lost = {number for name in removed for number in structures[name]}
    inside_lost = {name for name, numbers in structures.items() if lost >= set(numbers)}
    all_classes = {number for numbers in structures.values() for number in numbers}
    structures_of = {
        number: {name for name, numbers in structures.items() if number in numbers}
        for number in (BACKGROUND, *sorted(all_classes))
    }

    def becomes(number: int) -> int:
        left = structures_of[number] - inside_lost
        candidates = [other for other, names in structures_of.items() if names <= left]
        return max(candidates, key=lambda other: len(structures_of[other]))

    return {number: becomes(number) for number in sorted(lost)}


def _box_of(mask: Bool[NDArray[Any], "_ _ _"]) -> Box | None:
    """Smallest box that holds every voxel of a mask."""
    sides = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        if not len(places):
            return None
        sides.append(slice(int(places[0]), int(places[-1]) + 1))
    return (sides[0], sides[1], sides[2])


def _kept(
    mask: Bool[NDArray[Any], "_ _ _"], rule: ComponentRule, voxel_ml: float
) -> Bool[NDArray[Any], "_ _ _"]:
    """Voxels of the components that a rule keeps."""
    if rule.keep == "all" and rule.smallest_voxels is rule.smallest_ml is None:
        return mask
    numbers = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    # Only the mask is counted: bincount makes a copy eight bytes wide.
    sizes = np.bincount(numbers[mask])
    stays = sizes > 0
    if rule.keep == "largest":
        stays &= np.arange(len(sizes)) == _first_of_the_largest(numbers, sizes)
    if rule.smallest_voxels is not None:
        stays &= sizes >= rule.smallest_voxels
    if rule.smallest_ml is not None:
        # 1000 voxels of 0.1 mm edges are 1 ml less rounding, and no less than 1 ml.
        stays &= sizes * voxel_ml >= rule.smallest_ml * (1 - 1e-9)
    return stays[numbers]


def _first_of_the_largest(
    numbers: NDArray[np.integer], sizes: NDArray[np.integer]
) -> int:
    """Number of the largest component; of equal ones, of that which is met first."""
    largest = np.flatnonzero(sizes == sizes.max())
    if len(largest) == 1:
        return int(largest[0])
    flat = numbers.ravel()
    return int(flat[np.argmax(np.isin(flat, largest))])


def _fill_holes(
    classes: NDArray[np.integer],
    kept: Bool[NDArray[Any], "_ _ _"],
    fillable: Bool[NDArray[Any], "_ _ _"],
    whole_shape: Sequence[int],
    num_classes: int,
) -> None:
    """Fill, in place, what a structure encloses.

    Args:
        classes: Box around the structure; changed.
        kept: The structure.
        fillable: Voxels that may become it.
        whole_shape: Of the volume, whose axes of one voxel have no border.
        num_classes: Of the label map.
    """
    # Whatever reaches a face of the box reaches around the structure.
    numbers = cc3d.connected_components(np.ascontiguousarray(~kept), connectivity=6)
    is_open = np.zeros(int(numbers.max()) + 1, bool)
    for axis, length in enumerate(whole_shape):
        if length > 1:
            ends = np.take(numbers, [0, -1], axis)
            is_open[np.unique(ends)] = True
    is_open[0] = True
    enclosed = fillable & ~is_open[numbers]
    voxels = np.nonzero(enclosed)
    if not len(voxels[0]):
        return
    pockets = cc3d.connected_components(enclosed, connectivity=6)[voxels]
    touching = np.zeros((int(pockets.max()) + 1, num_classes), np.int64)
    for axis, length in enumerate(kept.shape):
        # What is enclosed lies at no end of an axis, unless that has one voxel.
        for step in (-1, 1) if length > 1 else ():
            there = tuple(
                places + step if other == axis else places
                for other, places in enumerate(voxels)
            )
            is_kept = kept[there]
            np.add.at(touching, (pockets[is_kept], classes[there][is_kept]), 1)
    becomes = touching.argmax(axis=1)
    is_filled = (touching.sum(axis=1) > 0)[pockets]
    places = tuple(axis[is_filled] for axis in voxels)
    classes[places] = becomes[pockets[is_filled]]
