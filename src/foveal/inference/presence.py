"""Which structures the windows of whole cases show, as a classifier tells."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from foveal.case import IGNORED
from foveal.inference.numerics import Numerics, autocast, with_layout
from foveal.inference.tiling import AxisTiling, Tiles
from foveal.losses.presence import presence_logits
from foveal.metrics.presence import PresenceScores, presence_scores
from foveal.networks.interface import Network
from foveal.store.store import StoredCase

PresenceFunction = Callable[[Tensor], Tensor]
"""Maps ``(patch, channel, i, j, k)`` to presence logits ``(patch, structure)``."""


def presence_function(
    network: Network, structures: Tensor, numerics: Numerics, device: torch.device
) -> PresenceFunction:
    """How a classifier is applied to a batch of patches: layout, precision, device.

    Args:
        network: In evaluation mode, on ``device``, its weights laid out.
        structures: Whether each structure includes each class, ``(structure, class)``.
        numerics: Of the run.
        device: Where batches are computed; logits come back to where they came from.
    """

    def apply(patches: Tensor) -> Tensor:
        laid_out = with_layout(patches.to(device), numerics.memory_layout)
        with torch.no_grad(), autocast(numerics, device.type):
            logits = network.image_logits(laid_out)
        return presence_logits(logits, structures.to(device)).to(patches.device)

    return apply


def presence_in_cases(
    classifier: PresenceFunction,
    cases: Sequence[StoredCase],
    tiles: Tiles,
    structures: Mapping[str, Sequence[int]],
) -> dict[str, PresenceScores]:
    """Scores per structure over windows that cover the cases.

    A window shows a structure if one of its voxels belongs to it. Where it has ignored
    voxels and shows it nowhere else, it does not count, as the structure may be there.
    A case that nobody outlined counts as one image, with the highest logit of its
    windows. What was not annotated in a case does not count.

    Args:
        classifier: See `presence_function`.
        cases: Outlined, or with what they show.
        tiles: Windows, of which the classifier tells what they show in the part that a
            segmentation would have logits of.
        structures: Name to the inside classes whose union it is.
    """
    logits: dict[str, list[float]] = {name: [] for name in structures}
    present: dict[str, list[bool]] = {name: [] for name in structures}
    for case in cases:
        told, shown, is_hiding = _windows_of_case(classifier, case, tiles, structures)
        for place, name in enumerate(structures):
            if case.annotated is None or case.annotated[place]:
                known = shown[:, place] | ~is_hiding
                logits[name] += told[known, place].tolist()
                present[name] += shown[known, place].tolist()
    return {
        name: presence_scores(np.array(logits[name]), np.array(present[name], bool))
        for name in structures
    }


def _windows_of_case(
    classifier: PresenceFunction,
    case: StoredCase,
    tiles: Tiles,
    structures: Mapping[str, Sequence[int]],
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Logits and truth per (window, structure); which windows have ignored voxels."""
    whole = tuple(slice(0, length) for length in case.shape)
    tilings = tiles.along_axes(case.shape)
    image = F.pad(
        torch.from_numpy(case.read_image(whole)),
        [side for axis in reversed(tilings) for side in axis.padding],
    )
    for number, value in case.missing_channels.items():
        image[number] = value
    taken_in = _windows(tilings, [axis.size for axis in tilings])
    told = torch.cat(
        [
            classifier(torch.stack([image[:, *window] for window in some]))
            for some in (
                taken_in[first : first + tiles.batch_size]
                for first in range(0, len(taken_in), tiles.batch_size)
            )
        ]
    ).numpy()
    if not case.class_counts:
        shown_by_image = np.array([case.present], bool)
        return told.max(axis=0, keepdims=True), shown_by_image, np.zeros(1, bool)
    # Nothing lies beyond the volume, and nothing is hidden there.
    label_map = np.pad(
        case.read_label_map(whole),
        [
            (axis.skipped, axis.output_length - axis.skipped - length)
            for axis, length in zip(tilings, case.shape, strict=True)
        ],
    )
    spoken_of = _windows(tilings, [axis.output_size for axis in tilings])
    shown = [
        [bool(np.isin(label_map[window], classes).any()) for window in spoken_of]
        for classes in structures.values()
    ]
    is_hiding = [bool((label_map[window] == IGNORED).any()) for window in spoken_of]
    return told, np.array(shown, bool).T, np.array(is_hiding)


def _windows(
    tilings: Sequence[AxisTiling], size: Sequence[int]
) -> list[tuple[slice, ...]]:
    """Windows of a size at every tile's start."""
    return [
        tuple(
            slice(start, start + length)
            for start, length in zip(corner, size, strict=True)
        )
        for corner in product(*(axis.starts for axis in tilings))
    ]
