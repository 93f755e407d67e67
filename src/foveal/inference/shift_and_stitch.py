"""Shift-and-stitch: a network with stride, run on every shifted copy of the image.

Sermanet et al. 2014, https://arxiv.org/abs/1312.6229; Long et al. 2015,
https://arxiv.org/abs/1411.4038, section 3.2.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.inference.chains import (
    Chain,
    crop,
    extended,
    interleaved,
    shifted_copies,
)


@torch.inference_mode()
def shift_and_stitch(
    layers: Iterable[nn.Module], image: Float[Tensor, "patch channel ..."]
) -> Float[Tensor, "patch class ..."]:
    """One prediction per voxel from as many runs as the stride has voxels.

    The layers are run as they are, one copy at a time. What lies before a stride is
    computed for every copy although neighbouring copies share it.

    Args:
        layers: See `foveal.inference.chains.Chain`.
        image: 2D or 3D.

    Returns:
        Shorter than the image by the receptive field less one; the first voxel is the
        prediction of the first patch.
    """
    chain = Chain(layers)
    dense_shape = chain.dense_shape(image.shape[2:])
    copies = shifted_copies(extended(image, chain), chain.stride)
    # The copies share their voxels, which a first layer might change in place.
    predictions = interleaved(
        torch.cat([chain(copy.clone()) for copy in copies]), chain.stride
    )
    return crop(predictions, (0,) * chain.axes, dense_shape)
