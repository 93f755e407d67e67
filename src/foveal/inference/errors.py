"""Where a network errs in a case whose classes are known.

Berger et al. 2018, https://arxiv.org/abs/1709.02764, equation 1: the error of a voxel
is one minus the probability that the network gives to its true class.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from foveal.case import IGNORED, seen_classes
from foveal.inference.predict import PatchFunction, stream_logits
from foveal.inference.restore import decided_classes
from foveal.inference.tiling import Tiles
from foveal.metrics.overlap import dice
from foveal.store.store import StoredCase


class CaseErrors(NamedTuple):
    """What one prediction of a labelled case says."""

    error: NDArray[np.uint8]
    """``(i, j, k)``, 255 for an error of 1; 0 where the class is not known."""

    difficulty: float
    """Mean error in the structures that the case has, in [0, 1]; without any, of all
    voxels whose class is known."""

    dice: dict[str, float | None]
    """Of the structures; ``None``: not annotated, or absent from both."""


def case_errors(
    network: PatchFunction,
    case: StoredCase,
    tiles: Tiles,
    num_classes: int,
    structures: Mapping[str, Sequence[int]],
) -> CaseErrors:
    """Predict a case on its preprocessed grid and compare with its label map.

    Args:
        network: See `stream_logits`.
        case: Labelled.
        tiles: How the network wants volumes cut.
        num_classes: Including background.
        structures: Name to the inside classes whose union it is, in the plan's order.
    """
    whole = tuple(slice(0, length) for length in case.shape)
    image = torch.from_numpy(case.read_image(whole))
    reference = case.read_label_map(whole)
    members = list(structures.values())
    shown = _shown_classes(case, num_classes, members)
    error = np.zeros(case.shape, np.uint8)
    prediction = np.zeros(case.shape, np.uint8)
    start = 0
    for logits in stream_logits(
        network, image, tiles, num_classes, missing_channels=case.missing_channels
    ):
        rows = slice(start, start + logits.shape[1])
        probabilities = logits.softmax(dim=0)
        prediction[rows] = decided_classes(probabilities, members).numpy()
        labels = torch.from_numpy(reference[rows])
        error[rows] = error_of(probabilities, labels, shown).numpy()
        start = rows.stop
    return CaseErrors(
        error,
        _difficulty(error, reference),
        case_dice(prediction, reference, case.annotated, structures),
    )


def error_of(
    probabilities: Float[Tensor, "class i j k"],
    label_map: UInt8[Tensor, "i j k"],
    shown: Sequence[int],
) -> UInt8[Tensor, "i j k"]:
    """One minus the probability of the true class, 255 for 1, rounded.

    Args:
        probabilities: Sum to 1 per voxel.
        label_map: Inside classes; 255, not known, gives 0.
        shown: As which class each shows, where some structures were not annotated: the
            probabilities of all that look like the true one are added.
    """
    looks_alike = torch.tensor(shown)
    merged = torch.zeros_like(probabilities).index_add_(0, looks_alike, probabilities)
    known = label_map != IGNORED
    true_class = torch.where(known, label_map, 0).long().unsqueeze(0)
    error = 1 - merged.gather(0, true_class).squeeze(0)
    return (error.clamp(0, 1) * 255 * known).round().to(torch.uint8)


def case_dice(
    prediction: NDArray[np.integer],
    reference: NDArray[np.uint8],
    annotated: Sequence[bool] | None,
    structures: Mapping[str, Sequence[int]],
) -> dict[str, float | None]:
    """Dice per structure over the voxels whose class is known.

    Args:
        prediction: Inside classes ``(i, j, k)``.
        reference: The same; 255 is not known.
        annotated: Per structure, whether it was contoured; ``None``: all.
        structures: Name to inside classes, in the plan's order.

    Returns:
        ``None`` where a structure was not contoured, or is in neither.
    """
    known = reference != IGNORED
    found: dict[str, float | None] = {}
    for place, (name, classes) in enumerate(structures.items()):
        found[name] = None
        if annotated is None or annotated[place]:
            predicted = np.isin(prediction, classes) & known
            value = dice(predicted, np.isin(reference, classes))
            found[name] = None if np.isnan(value) else float(value)
    return found


def mean_dice(of_cases: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Mean per structure over the cases that have it; absent if none has."""
    values: dict[str, list[float]] = {}
    for dice_of in of_cases:
        for name, value in dice_of.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: float(np.mean(found)) for name, found in values.items()}


def _shown_classes(
    case: StoredCase, num_classes: int, structures: Sequence[Sequence[int]]
) -> Sequence[int]:
    if case.annotated is None:
        return range(num_classes)
    table = np.zeros((len(structures), num_classes), bool)
    for row, classes in zip(table, structures, strict=True):
        row[list(classes)] = True
    return seen_classes(np.array(case.annotated), table)


def _difficulty(error: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    known = reference != IGNORED
    wanted = known & (reference != 0)
    if not wanted.any():
        wanted = known
    return float(error[wanted].mean() / 255) if wanted.any() else 0.0
