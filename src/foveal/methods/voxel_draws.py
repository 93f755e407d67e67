"""Which voxels of a batch stand for it where all would be too many.

Draws are PyTorch's global ones, which the engine seeds for every step.
"""

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from foveal.case import IGNORED, seen_classes

UNSURE = -1
"""In place of the class of a voxel that could be of several."""


def sure_classes(
    label_map: UInt8[Tensor, "patch *space"],  # noqa: F821 - a shape, not names
    annotated: Bool[Tensor, "patch structure"],
    structures: Bool[Tensor, "structure class"],
) -> Int[Tensor, "patch *space"]:  # noqa: F821
    """Class of every voxel, or `UNSURE`.

    It is not sure where a voxel is ignored, and where its label stands for several
    classes, as background does in a case of which a structure was not annotated.

    Args:
        label_map: Inside classes.
        annotated: Whether each structure was annotated in the patch's case.
        structures: Whether each structure includes each class.
    """
    table = torch.full((len(annotated), IGNORED + 1), UNSURE)
    for patch, flags in enumerate(annotated.cpu().numpy()):
        seen = torch.tensor(seen_classes(flags, structures.cpu().numpy()))
        stands_for = seen.bincount(minlength=len(seen))
        (alone,) = torch.nonzero(stands_for == 1, as_tuple=True)
        table[patch, alone] = alone
    table = table.to(label_map.device)
    number = torch.arange(len(table), device=label_map.device)
    return table[number.reshape(-1, *[1] * (label_map.ndim - 1)), label_map.int()]


def evenly_drawn(classes: Int[Tensor, " voxel"], number: int) -> Int[Tensor, " drawn"]:
    """Places of voxels, as many of every class that occurs, each at most once.

    Args:
        classes: Of the voxels; `UNSURE` ones are not drawn.
        number: Of voxels in all, at most, unless there are more classes. A class with
            too few gives all it has, and others do not make up for it.
    """
    present = torch.nonzero((classes - UNSURE).bincount()[1:]).flatten().tolist()
    of_each = max(number // len(present), 1) if present else 0
    drawn = [_drawn(classes == one, of_each) for one in present]
    return torch.cat(drawn) if drawn else _none(classes)


def drawn_by_prediction(
    predicted: Int[Tensor, " voxel"], number: int, background_share: float
) -> Int[Tensor, " drawn"]:
    """Places of voxels that are predicted as foreground, and of some background.

    Background is everywhere, so that voxels drawn uniformly would hardly show anything
    else; nor would they once a network predicts little foreground. So of too little
    foreground follow fewer voxels in all, and not more background.

    Args:
        predicted: Class of every voxel, 0 background.
        number: Of voxels in all, at most.
        background_share: Of the voxels drawn, at most; the others are shared out evenly
            among the other classes that are predicted.
    """
    most_background = round(number * background_share)
    foreground = predicted.where(predicted > 0, UNSURE)
    drawn = evenly_drawn(foreground, number - most_background)
    drawn = drawn[: number - most_background]
    if background_share < 1:
        beside = background_share / (1 - background_share)
        most_background = min(most_background, int(beside * len(drawn)))
    return torch.cat([drawn, _drawn(predicted == 0, most_background)])


def _drawn(is_wanted: Bool[Tensor, " voxel"], number: int) -> Int[Tensor, " drawn"]:
    """Places of so many of the wanted voxels, or of all if they are fewer."""
    places = torch.nonzero(is_wanted).flatten()
    order = torch.randperm(len(places), device=places.device)
    return places[order[:number]]


def _none(like: Tensor) -> Int[Tensor, " drawn"]:
    return torch.zeros(0, dtype=torch.long, device=like.device)
