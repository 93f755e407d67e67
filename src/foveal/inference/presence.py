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
from foveal.inference.tiling import overlapping_tiles
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
    patch_size: Sequence[int],
    structures: Mapping[str, Sequence[int]],
    *,
    batch_size: int,
) -> dict[str, PresenceScores]:
    """Scores per structure over windows that cover the cases.

    A window shows a structure if one of its voxels belongs to it. A case that nobody
    outlined counts as one image, with the highest logit of its windows. What was not
    annotated in a case does not count.

    Args:
        classifier: See `presence_function`.
        cases: Outlined, or with what they show.
        patch_size: In voxels; windows overlap where they must to stay inside.
        structures: Name to the inside classes whose union it is.
        batch_size: Windows given to the network at once.
    """
    logits: dict[str, list[float]] = {name: [] for name in structures}
    present: dict[str, list[bool]] = {name: [] for name in structures}
    for case in cases:
        told, shown = _windows_of_case(
            classifier, case, patch_size, structures, batch_size
        )
        for place, name in enumerate(structures):
            if case.annotated is None or case.annotated[place]:
                logits[name] += told[:, place].tolist()
                present[name] += shown[:, place].tolist()
    return {
        name: presence_scores(np.array(logits[name]), np.array(present[name], bool))
        for name in structures
    }


def _windows_of_case(
    classifier: PresenceFunction,
    case: StoredCase,
    patch_size: Sequence[int],
    structures: Mapping[str, Sequence[int]],
    batch_size: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Logits and truth per (window, structure)."""
    whole = tuple(slice(0, length) for length in case.shape)
    along_axes = [
        overlapping_tiles(length, size, 0.0)
        for length, size in zip(case.shape, patch_size, strict=True)
    ]
    padding = [axis.padding for axis in along_axes]
    image = F.pad(
        torch.from_numpy(case.read_image(whole)),
        [side for pair in reversed(padding) for side in pair],
    )
    windows = [
        tuple(
            slice(start, start + size)
            for start, size in zip(corner, patch_size, strict=True)
        )
        for corner in product(*(axis.starts for axis in along_axes))
    ]
    told = torch.cat(
        [
            classifier(torch.stack([image[:, *window] for window in some]))
            for some in (
                windows[first : first + batch_size]
                for first in range(0, len(windows), batch_size)
            )
        ]
    ).numpy()
    if not case.class_counts:
        return told.max(axis=0, keepdims=True), np.array([case.present], bool)
    label_map = np.pad(case.read_label_map(whole), padding, constant_values=IGNORED)
    shown = [
        [bool(np.isin(label_map[window], classes).any()) for window in windows]
        for classes in structures.values()
    ]
    return told, np.array(shown, bool).T
