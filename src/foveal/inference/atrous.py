"""The atrous network: strides become distances between the weights behind them.

Holschneider et al. 1989 ("à trous"); Chen et al. 2015,
https://arxiv.org/abs/1412.7062; Yu and Koltun 2016, https://arxiv.org/abs/1511.07122.
"""

import copy
from collections.abc import Iterable

from torch import nn

from foveal.inference.chains import Chain


def atrous(layers: Iterable[nn.Module]) -> nn.Sequential:
    """A network that makes one prediction per voxel, with the same weights.

    Every layer has stride 1 and is dilated by the strides before it.

    Args:
        layers: See `foveal.inference.chains.Chain`. They are left as they are; their
            weights are shared, not copied.
    """
    chain = Chain(layers)
    dense = nn.Sequential()
    scale = (1,) * chain.axes
    for layer, windows in zip(chain.layers, chain.windows, strict=True):
        if not windows:
            dense.append(layer)
            continue
        # A shallow copy: of its own are only the numbers that are set here.
        dilated = copy.copy(layer)
        vars(dilated)["stride"] = (1,) * chain.axes
        vars(dilated)["dilation"] = tuple(
            window.dilation * step for window, step in zip(windows, scale, strict=True)
        )
        dense.append(dilated)
        scale = tuple(
            step * window.stride for window, step in zip(windows, scale, strict=True)
        )
    return dense
