"""Fast scanning: shifted copies are made at every layer with stride, not before all.

Giusti et al. 2013, "Fast image scanning with deep max-pooling convolutional neural
networks", https://arxiv.org/abs/1302.1700. Differs: all fragments are of one size, as
the image is extended by a few zeros, and are computed as one batch.
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
def fast_scanning(
    layers: Iterable[nn.Module], image: Float[Tensor, "patch channel ..."]
) -> Float[Tensor, "patch class ..."]:
    """One prediction per voxel, with nothing computed twice.

    A pooling of stride s gives s fragments per axis, one for each voxel that it may
    begin at; what follows is computed in each. The layers are run as they are.

    Args:
        layers: See `foveal.inference.chains.Chain`.
        image: 2D or 3D.

    Returns:
        Shorter than the image by the receptive field less one; the first voxel is the
        prediction of the first patch.
    """
    chain = Chain(layers)
    dense_shape = chain.dense_shape(image.shape[2:])
    strides = [
        tuple(window.stride for window in windows) or (1,) * chain.axes
        for windows in chain.windows
    ]
    fragments = extended(image, chain)
    for layer, stride in zip(chain.layers, strides, strict=True):
        fragments = layer(torch.cat(shifted_copies(fragments, stride)))
    # Fragments of the last layer are neighbours within those of the layer before.
    for stride in reversed(strides):
        fragments = interleaved(fragments, stride)
    return crop(fragments, (0,) * chain.axes, dense_shape)
