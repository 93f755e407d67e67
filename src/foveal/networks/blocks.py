"""Layers that several networks share."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Norm = Literal["instance", "batch", "none"]

Activation = Literal["leaky_relu", "relu"]

NEGATIVE_SLOPE = 0.01
NORM_EPSILON = 1e-5


@runtime_checkable
class ResidualBlock(Protocol):
    """What marks a residual block that can begin as the identity.

    A block whose branch ends with a normalisation, just before the sum, has a property
    ``last_norm`` that gives it, whatever the submodule is called (torchvision's name
    is ``bn3``). ``training.zero_gamma`` finds blocks by this property alone.
    """

    @property
    def last_norm(self) -> nn.Module:
        """The last normalisation of the branch, with a ``weight`` per channel."""
        ...


class InstanceNorm(nn.Module):
    """Zero mean and unit variance per patch and channel, then a learned scale, shift.

    In 2D and 3D.

    Ulyanov et al. 2016, https://arxiv.org/abs/1607.08022. On channels-last CPU tensors
    PyTorch's own instance norm leaves that layout and comes back; here every patch goes
    through the batch norm kernel on its own, which is the same sum and stays in place
    (2.3 times faster at 32 channels of 40 x 56 x 40 in bfloat16).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, image: Float[Tensor, "patch channel *space"]
    ) -> Float[Tensor, "patch channel *space"]:
        """Normalise each patch by itself."""
        if image.device.type == "cpu" and _is_channels_last(image):
            normalised: Tensor = _ChannelsLastInstanceNorm.apply(  # type: ignore[no-untyped-call]
                image, self.weight, self.bias
            )
            return normalised
        return F.instance_norm(
            image, None, None, self.weight, self.bias, True, 0.0, NORM_EPSILON
        )


class _ChannelsLastInstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401 - PyTorch's context
        normalised = torch.empty_like(image)
        means = image.new_empty(image.shape[:2], dtype=torch.float32)
        inverse_deviations = torch.empty_like(means)
        for n in range(len(image)):
            torch.native_batch_norm(
                image[n : n + 1],
                weight,
                bias,
                None,
                None,
                True,
                0.0,
                NORM_EPSILON,
                out=(normalised[n : n + 1], means[n], inverse_deviations[n]),
            )
        ctx.save_for_backward(image, weight, means, inverse_deviations)
        return normalised

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - PyTorch's context
        image, weight, means, inverse_deviations = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=_channels_last(image))
        image_gradient = torch.empty_like(image)
        weight_gradient = torch.zeros_like(weight)
        bias_gradient = torch.zeros_like(weight)
        for n in range(len(image)):
            of_patch, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                gradient[n : n + 1],
                image[n : n + 1],
                weight,
                None,
                None,
                means[n],
                inverse_deviations[n],
                True,
                NORM_EPSILON,
                [True, True, True],
            )
            image_gradient[n : n + 1] = of_patch
            weight_gradient += of_weight
            bias_gradient += of_bias
        return image_gradient, weight_gradient, bias_gradient


def _is_channels_last(image: Tensor) -> bool:
    return (
        image.is_contiguous(memory_format=_channels_last(image))
        and not image.is_contiguous()
    )


def _channels_last(image: Tensor) -> torch.memory_format:
    return torch.channels_last if image.ndim == 4 else torch.channels_last_3d


def convolution_class(dimensions: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    """PyTorch's convolution along so many axes."""
    return nn.Conv2d if dimensions == 2 else nn.Conv3d


def norm_layer(norm: Norm, convolution: nn.Conv2d | nn.Conv3d) -> nn.Module:
    """Normalisation, by its name in the settings, of what a convolution puts out."""
    channels = convolution.out_channels
    if norm == "instance":
        return InstanceNorm(channels)
    if norm == "batch":
        is_plane = isinstance(convolution, nn.Conv2d)
        return nn.BatchNorm2d(channels) if is_plane else nn.BatchNorm3d(channels)
    return nn.Identity()


def activation_layer(activation: Activation) -> nn.Module:
    """Activation by its name in the settings, in place."""
    if activation == "relu":
        return nn.ReLU(inplace=True)
    return nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)


def linear_profile(kernel: int, stride: int) -> Float[Tensor, " kernel"]:
    """Weights along one axis of a deconvolution that interpolates linearly."""
    distance = (torch.arange(kernel) - (kernel - 1) / 2).abs()
    return (1 - distance / stride).clamp(min=0)


def convolution_block(
    in_channels: int,
    out_channels: int,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    norm: Norm,
    activation: Activation = "leaky_relu",
) -> nn.Sequential:
    """Padded convolution, normalisation, activation; kernel and stride tell the axes.

    Weights are He et al.'s normal draws (2015, https://arxiv.org/abs/1502.01852).
    """
    convolution = convolution_class(len(kernel))(
        in_channels,
        out_channels,
        tuple(kernel),  # type: ignore[arg-type]
        stride=tuple(stride),  # type: ignore[arg-type]
        padding=tuple(length // 2 for length in kernel),  # type: ignore[arg-type]
        # A norm layer's shift makes the bias redundant.
        bias=norm == "none",
    )
    slope = NEGATIVE_SLOPE if activation == "leaky_relu" else 0.0
    nn.init.kaiming_normal_(convolution.weight, a=slope)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(
        convolution, norm_layer(norm, convolution), activation_layer(activation)
    )
