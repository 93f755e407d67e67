"""A fault of oneDNN, kept away: it writes beyond its memory.

The weight gradient of a 2D convolution of one voxel with a stride, on a processor and
channels last, overruns a buffer where the channels that come in are fewer than the
processor adds at once (16 with AVX512): PyTorch 2.13.0, in float32 and bfloat16,
https://github.com/uxlfoundation/oneDNN/issues/6035. Small pictures survive it most of
the time, others end in a segmentation fault. Without a stride nothing is overrun.
"""

from functools import partial

from torch import Tensor, nn


def subsample_before_pointwise(module: nn.Module) -> None:
    """Let convolutions of one voxel see only the voxels that their strides keep.

    They put out the same numbers, at the same cost: oneDNN copies these voxels too.

    Args:
        module: Changed in place; names and shapes of its weights stay.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and _is_pointwise(layer):
            keep_voxels = partial(_every, strides=layer.stride)
            layer.stride = (1, 1)
            layer.register_forward_pre_hook(keep_voxels)


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.padding in {(0, 0), "valid"}
    )


def _every(
    _: nn.Module, inputs: tuple[Tensor, ...], *, strides: tuple[int, ...]
) -> tuple[Tensor, ...]:
    image, *others = inputs
    return (image[..., :: strides[0], :: strides[1]], *others)
