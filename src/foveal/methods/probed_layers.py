"""Layers that a method looks at, tried before training with a small patch of zeros."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foveal.errors import SettingsError
from foveal.methods.interface import Setting
from foveal.networks.interface import Network, UnknownLayerError, whole

PROBED_BLOCKS = 2
"""Along an axis of the output: of one, the deepest stage of a network would be a single
voxel, which an instance norm refuses."""


def probed_channels(
    setting: Setting, layers: Sequence[str], *, option: str, missing: str
) -> list[int]:
    """Channels of each layer.

    Args:
        setting: With the network.
        layers: Names; none, or an empty one: the network has no default.
        option: That they come from, for messages.
        missing: What to tell where the network has no default; ends before the names of
            all its layers.

    Raises:
        SettingsError: A layer does not exist, and says which do; or it is no map of the
            image.
    """
    network = setting.network
    like = next(network.parameters())
    shape = small_shape(network, setting.patch_size)
    image = torch.zeros(1, setting.in_channels, *shape).to(like)
    was_training = network.training
    try:
        with torch.no_grad():
            output = network.eval()(image, list(layers) or [""])
    except UnknownLayerError as error:
        if any(layers):
            raise SettingsError(f"{option}: {error}") from error
        raise SettingsError(f"{option}: {missing} {', '.join(error.names)}") from error
    finally:
        network.train(was_training)
    predicted = output.logits.shape[2:]
    channels = []
    for name, activation in zip(layers, output.activations, strict=True):
        is_map = isinstance(activation, Tensor) and activation.ndim > len(predicted)
        if is_map:
            shown = network.at_output(name, activation, predicted, whole(predicted))
            is_map = len(shown) == len(image) and shown.shape[2:] == predicted
        if not is_map:
            raise SettingsError(
                f'{option}: "{name}" gives no map of the image; name another layer'
            )
        channels.append(shown.shape[1])
    return channels


def small_shape(network: Network, patch_size: Sequence[int]) -> list[int]:
    """Input of few voxels that a network takes, at most a patch."""
    smallest = network.fitting_shape(
        [
            before + PROBED_BLOCKS * step + after
            for step, (before, after) in zip(
                network.alignment, network.all_margins, strict=True
            )
        ]
    )
    return [min(lengths) for lengths in zip(smallest, patch_size, strict=True)]
