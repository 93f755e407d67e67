"""What a network labels a whole case with, to learn from it."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveal.inference.predict import PatchFunction, stream_logits
from foveal.inference.tiling import Tiles
from foveal.store.store import StoredCase


def labels_of_case(
    network: PatchFunction,
    case: StoredCase,
    tiles: Tiles,
    num_classes: int,
    labels: Callable[[Tensor], Tensor],
) -> NDArray[np.uint8]:
    """Predict a case on its preprocessed grid, and make labels of the probabilities.

    Args:
        network: See `stream_logits`.
        case: Outlined or not.
        tiles: How the network wants volumes cut.
        num_classes: Including background.
        labels: Of the probabilities `(class, i, j, k)` of some rows, bytes
            `(…, i, j, k)`.

    Returns:
        The same of all rows.
    """
    whole = tuple(slice(0, length) for length in case.shape)
    image = torch.from_numpy(case.read_image(whole))
    made = [
        labels(logits.softmax(dim=0)).numpy()
        for logits in stream_logits(
            network, image, tiles, num_classes, missing_channels=case.missing_channels
        )
    ]
    return np.concatenate(made, axis=-3)
