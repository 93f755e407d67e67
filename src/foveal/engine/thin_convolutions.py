"""A fault of PyTorch's processor kernels, kept away from the weights.

In bfloat16, the weight gradient of a 3D convolution whose kernel is longer along the
first axis than its input (and that is longer than one voxel) is made of memory that
nobody wrote: PyTorch 2.13.0 with oneDNN, in both memory layouts, for kernels of 3 on 2
voxels and of 5 on 2 to 4, transposed or not. Output and input gradient are right, and
float32 is.
"""

from typing import Any

import torch
from torch import Tensor, nn

Convolution = nn.Conv3d | nn.ConvTranspose3d


def compute_thin_convolutions_in_float32(module: nn.Module) -> None:
    """Take the convolutions that would get such a gradient out of autocast.

    They see few voxels, so this costs next to nothing.

    Args:
        module: Trained in bfloat16 on a processor.
    """
    for layer in module.modules():
        if isinstance(layer, Convolution) and layer.kernel_size[0] > 1:
            layer.register_forward_pre_hook(_leave_autocast_if_thin)
            layer.register_forward_hook(_return_to_autocast, always_call=True)


def _leave_autocast_if_thin(
    layer: Convolution, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    image, *others = inputs
    if not torch.is_grad_enabled() or not 1 < image.shape[2] < layer.kernel_size[0]:
        return inputs
    # Hooks are all that a copy of the network keeps, so the context waits in the layer.
    outside: Any = torch.autocast("cpu", enabled=False)
    outside.__enter__()
    layer.outside_autocast = outside
    return (image.float(), *others)


def _return_to_autocast(layer: Convolution, _: object, __: object) -> None:
    outside: Any = getattr(layer, "outside_autocast", None)
    if outside is not None:
        del layer.outside_autocast
        outside.__exit__(None, None, None)
