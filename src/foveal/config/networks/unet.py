"""Options of the U-Nets."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from foveal.config.networks.section import NetworkConfig
from foveal.config.sections import Pair, Triple


class UNetConfig(NetworkConfig):
    """U-Net whose kernels and strides may differ per axis.

    `unet2d` has the same options with two numbers per kernel and stride instead of
    three, and 32, 64, 128, 256, 512 features. `unet3d-residual` has a residual encoder.
    `unet3d-sum` and `unet3d-concatenated` are the two of EMMA: batch norm, ReLU and 32,
    64, 128, 256 features; the first pools by the maximum and sums at its skips.
    """

    name: str = "unet3d"
    """Of the network, as in `foveal.network`. A plugin's has options of its own."""

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128), min_length=1)
    """Channels per stage, finest first."""

    kernels: tuple[tuple[PositiveInt, ...], ...] = ((3, 3, 3),) * 4
    """Convolution kernel per stage, in voxels; odd."""

    strides: tuple[tuple[PositiveInt, ...], ...] = ((2, 2, 2),) * 3
    """Downsampling into each stage after the first."""

    convolutions: PositiveInt = 2
    """Convolutions per stage, on the way down and on the way up."""

    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation after every convolution."""

    activation: Literal["leaky_relu", "relu"] = "leaky_relu"
    """After every normalisation."""

    downsampling: Literal["strided", "max_pool"] = "strided"
    """By the first convolution of a stage, or by max pooling before it."""

    skips: Literal["concatenated", "summed"] = "concatenated"
    """How the way up takes what the way down gives: as further channels, or added."""

    residual: bool = False
    """Stages of the way down add what they take in to what they make of it."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after each stage, in training."""

    deep_supervision: bool = False
    """Also predict from the coarser stages of the way up while training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth and even kernels."""
        stages = len(self.features)
        if len(self.kernels) != stages or len(self.strides) != stages - 1:
            raise ValueError(
                f"network.features has {stages} stages; network.kernels has "
                f"{len(self.kernels)} entries (needs {stages}) and network.strides "
                f"{len(self.strides)} (needs {stages - 1})"
            )
        if any(size % 2 == 0 for kernel in self.kernels for size in kernel):
            raise ValueError(f"network.kernels {self.kernels} must be odd")
        return self


class UNet3dConfig(UNetConfig):
    """`UNetConfig` for volumes."""

    kernels: tuple[Triple, ...] = ((3, 3, 3),) * 4
    strides: tuple[Triple, ...] = ((2, 2, 2),) * 3


class UNet2dConfig(UNetConfig):
    """`UNetConfig` for pictures and slices."""

    name: str = "unet2d"
    features: tuple[PositiveInt, ...] = Field((32, 64, 128, 256, 512), min_length=1)
    kernels: tuple[Pair, ...] = ((3, 3),) * 5
    strides: tuple[Pair, ...] = ((2, 2),) * 4


class ResidualUNet3dConfig(UNet3dConfig):
    """`UNet3dConfig` with a residual encoder."""

    name: str = "unet3d-residual"
    residual: bool = True


class EmmaUNetConfig(UNet3dConfig):
    """EMMA's second U-Net, and what its first shares with it."""

    published_output: ClassVar[tuple[int, ...]] = (64, 64, 64)

    name: str = "unet3d-concatenated"
    features: tuple[PositiveInt, ...] = Field((32, 64, 128, 256), min_length=1)
    norm: Literal["instance", "batch", "none"] = "batch"
    activation: Literal["leaky_relu", "relu"] = "relu"


class EmmaSumUNetConfig(EmmaUNetConfig):
    """EMMA's first U-Net."""

    name: str = "unet3d-sum"
    downsampling: Literal["strided", "max_pool"] = "max_pool"
    skips: Literal["concatenated", "summed"] = "summed"


class SpleenUNetConfig(NetworkConfig):
    """U-Net with double convolutions of a report on the spleen; see its class."""

    published_output: ClassVar[tuple[int, ...]] = (128, 128, 64)

    name: str = "unet3d-spleen"
    """Of the network."""

    width: PositiveInt = 8
    """Channels at full resolution; they double at each of four halvings."""

    upsampling_kernel: Literal[1, 3] = 1
    """Of the convolution after each upsampling, in voxels."""

    norm: Literal["batch", "none"] = "batch"
    """Normalisation after the double convolutions."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Numbers dropped after every stage but the first, in training."""
