"""What patches are drawn for in a case, and how often: the laws of the base samplers.

A law gives the categories of a case: sets of voxels and the chance of each. What a
case lacks is left out and the other chances rescaled.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from foveal.errors import SamplingError
from foveal.sampling.cases import SampledCase
from foveal.sampling.voxels import (
    ByWeightMap,
    Centres,
    InMask,
    OfClasses,
    Voxels,
)


class Category(NamedTuple):
    """Something that patches of a case are drawn for."""

    name: str
    chance: float
    """Not negative; those of a case sum to 1."""

    voxels: Voxels
    """What the patch is drawn around; of a total above 0."""


Law = Callable[[SampledCase, tuple[int, int, int]], Sequence[Category]]
"""Categories of a case for patches of a size; at least one."""


def anywhere(
    case: SampledCase,  # noqa: ARG001 - every case is alike
    patch_size: tuple[int, int, int],
) -> Sequence[Category]:
    """Every patch that lies inside the volume is equally likely."""
    return [Category("anywhere", 1.0, Centres(patch_size))]


def class_balanced(
    case: SampledCase,
    patch_size: tuple[int, int, int],
    *,
    foreground_fraction: float,
    structures: Sequence[tuple[int, ...]],
    weights: Sequence[float],
) -> Sequence[Category]:
    """A share of the patches is drawn for a structure, the others anywhere.

    The structure is drawn first, then one of its voxels, so a small lesion is seen as
    often as a large organ of the same weight, wherever it lies.

    Args:
        case: Without a voxel of a weighted structure, all its patches lie anywhere.
        patch_size: In voxels.
        foreground_fraction: That share.
        structures: Inside classes that each includes; background is in none.
        weights: Relative chance per structure.
    """
    found = _present(case, structures, weights)
    if not found or foreground_fraction == 0:
        return anywhere(case, patch_size)
    categories = _scaled(found, foreground_fraction)
    if foreground_fraction < 1:
        rest = 1 - foreground_fraction
        categories.append(Category("anywhere", rest, Centres(patch_size)))
    return categories


def foreground_background(
    case: SampledCase,
    patch_size: tuple[int, int, int],
    *,
    foreground_fraction: float,
    structures: Sequence[tuple[int, ...]],
) -> Sequence[Category]:
    """A share is drawn around voxels of any structure, the others around background.

    Each voxel of the structures is equally likely, so large ones are seen more often
    (the thesis' 50/50, section 3.2.2). An unlabelled case gives patches from anywhere.

    Args:
        case: With one of the two only, all patches are drawn for it.
        patch_size: In voxels.
        foreground_fraction: That share.
        structures: Inside classes that each includes.
    """
    is_known = case.annotated or (True,) * len(structures)
    foreground = sorted(
        {
            number
            for classes, known in zip(structures, is_known, strict=True)
            if known
            for number in classes
        }
    )
    categories = _with_voxels(
        case,
        [
            ("foreground", foreground_fraction, OfClasses(tuple(foreground))),
            ("background", 1 - foreground_fraction, OfClasses((0,))),
        ],
    )
    return _scaled(categories, 1.0) or anywhere(case, patch_size)


def class_equal(
    case: SampledCase,
    patch_size: tuple[int, int, int],
    *,
    structures: Sequence[tuple[int, ...]],
) -> Sequence[Category]:
    """Background and every structure that the case has are equally likely.

    That is how Berger et al. 2018 and DeepMedic (since 0.7.3) draw. An unlabelled case
    gives patches from anywhere.
    """
    found = _present(case, structures, [1.0] * len(structures))
    background = _with_voxels(case, [("background", 1.0, OfClasses((0,)))])
    return _scaled([*background, *found], 1.0) or anywhere(case, patch_size)


def in_mask(
    case: SampledCase,  # noqa: ARG001 - the voxels look at its mask
    patch_size: tuple[int, int, int],  # noqa: ARG001 - any voxel may be a centre
) -> Sequence[Category]:
    """Every voxel of the mask is equally likely; of a case without one, every voxel."""
    return [Category("mask", 1.0, InMask())]


def by_weight_map(
    case: SampledCase,
    patch_size: tuple[int, int, int],  # noqa: ARG001 - any voxel may be a centre
) -> Sequence[Category]:
    """Every voxel is as likely as its weight says.

    Raises:
        SamplingError: The case has no weight map.
    """
    if case.weight_map is None:
        raise SamplingError(
            f"case {case.name} has no weight map; add a column weight_map to the table "
            "of the data set, or choose another sampling.sampler"
        )
    return [Category("weight map", 1.0, ByWeightMap())]


def _present(
    case: SampledCase,
    structures: Sequence[tuple[int, ...]],
    weights: Sequence[float],
) -> list[Category]:
    """Structures that a case has, in order, with their weights.

    None if the case is unlabelled, nor what nobody contoured in it: a class may stand
    there for others that look like it.
    """
    is_known = case.annotated or (True,) * len(structures)
    return _with_voxels(
        case,
        [
            (f"structure {number}", weight, OfClasses(tuple(classes)))
            for number, (classes, weight, known) in enumerate(
                zip(structures, weights, is_known, strict=True), start=1
            )
            if known
        ],
    )


def _with_voxels(
    case: SampledCase, categories: Sequence[tuple[str, float, OfClasses]]
) -> list[Category]:
    return [
        Category(name, weight, voxels)
        for name, weight, voxels in categories
        if weight > 0 and voxels.total(case)
    ]


def _scaled(categories: Sequence[Category], total: float) -> list[Category]:
    """The same with chances that sum to ``total``."""
    weight = sum(category.chance for category in categories)
    return [
        category._replace(chance=category.chance / weight * total)
        for category in categories
    ]
