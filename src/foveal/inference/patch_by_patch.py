"""Segmentation as classification of every voxel's patch (Kamnitsas's thesis, 2.20a).

What all faster ways must equal: neighbouring patches share most of their voxels, and
every layer is computed anew for each.
"""

import itertools
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.inference.chains import Chain, crop


@torch.inference_mode()
def patch_by_patch(
    layers: Iterable[nn.Module], image: Float[Tensor, "patch channel ..."]
) -> Float[Tensor, "patch class ..."]:
    """One prediction per voxel, each from a patch of its own; a row is one batch.

    Args:
        layers: See `foveal.inference.chains.Chain`.
        image: 2D or 3D.

    Returns:
        Shorter than the image by the receptive field less one.
    """
    chain = Chain(layers)
    field, dense = chain.receptive_field, chain.dense_shape(image.shape[2:])
    rows = []
    for corner in itertools.product(*map(range, dense[:-1])):
        row = crop(image, (*corner, 0), (*field[:-1], image.shape[-1]))
        patches = row.unfold(-1, field[-1], 1).movedim(-2, 1)
        predictions = chain(patches.flatten(0, 1)).flatten(1)
        rows.append(predictions.unflatten(0, (len(image), -1)))
    return torch.stack(rows, 1).movedim(-1, 1).unflatten(2, dense[:-1])
