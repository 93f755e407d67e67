"""Options of every network, by its name; see the classes in `foveal.networks`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from foveal.config.sections import Section, Triple

DEFAULT_NETWORK = "unet3d"
"""The network of a plan that names none."""


class NetworkConfig(Section):
    """Shape of the network; ``name`` decides which options there are."""

    name: str
    """Of the network, as in `foveal.network`."""

    published_output: ClassVar[tuple[int, ...]] = ()
    """Voxels that its authors predict per training patch; empty: the data decide."""

    published_batch_size: ClassVar[int | None] = None
    """Patches per step of its authors; ``None``: the data decide."""

    @property
    def options(self) -> dict[str, Any]:
        """What its class is built with, apart from channels and classes."""
        return {key: value for key, value in self if key != "name"}


class UnknownNetworkConfig(NetworkConfig, extra="allow"):
    """Options of a network whose plugin was not given; for reading only."""


class UNet3dConfig(NetworkConfig):
    """U-Net whose kernels and strides may differ per axis."""

    name: str = "unet3d"
    """Of the network, as in `foveal.network`. A plugin's has options of its own."""

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128), min_length=1)
    """Channels per stage, finest first."""

    kernels: tuple[Triple, ...] = ((3, 3, 3),) * 4
    """Convolution kernel per stage, in voxels; odd."""

    strides: tuple[Triple, ...] = ((2, 2, 2),) * 3
    """Downsampling into each stage after the first."""

    convolutions: PositiveInt = 2
    """Convolutions per stage, on the way down and on the way up."""

    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation after every convolution."""

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


class FCN3dConfig(NetworkConfig):
    """Fully convolutional network of EMMA.

    Variants: ``fcn3d-residual``, whose every convolution is a residual block of two,
    and ``fcn3d-shallow``, which also has one stage less.
    """

    published_output: ClassVar[tuple[int, ...]] = (64, 64, 64)

    name: str = "fcn3d"
    """Of the network: ``fcn3d``, ``fcn3d-residual`` or ``fcn3d-shallow``."""

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128), min_length=1)
    """Channels per stage, finest first."""

    strides: tuple[Triple, ...] = ((2, 2, 2),) * 3
    """Max pooling into each stage after the first."""

    convolutions: PositiveInt = 2
    """Convolutions, or residual blocks, per stage."""

    residual: bool = False
    """Each convolution is a residual block of two."""

    decoder: Literal["sum", "concatenate"] = "sum"
    """How upsampled scores meet the features of the next finer stage: ``sum`` adds
    scores made of these, ``concatenate`` makes scores of both together."""

    score_kernel: PositiveInt = 1
    """Of the convolution that makes scores, on every axis; odd. The coarsest scores are
    always of kernel 1."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth and an even kernel."""
        stages = len(self.features)
        if len(self.strides) != stages - 1:
            raise ValueError(
                f"network.features has {stages} stages; network.strides has "
                f"{len(self.strides)} entries (needs {stages - 1})"
            )
        if self.score_kernel % 2 == 0:
            raise ValueError(f"network.score_kernel {self.score_kernel} must be odd")
        return self


class ResidualFCN3dConfig(FCN3dConfig):
    """The second of EMMA's three."""

    published_output: ClassVar[tuple[int, ...]] = (80, 80, 80)

    name: str = "fcn3d-residual"
    residual: bool = True


class ShallowFCN3dConfig(ResidualFCN3dConfig):
    """The third of EMMA's three."""

    name: str = "fcn3d-shallow"
    features: tuple[PositiveInt, ...] = Field((16, 32, 64), min_length=1)
    strides: tuple[Triple, ...] = ((2, 2, 2),) * 2


NETWORK_SECTIONS: Mapping[str, type[NetworkConfig]] = {
    "unet3d": UNet3dConfig,
    "fcn3d": FCN3dConfig,
    "fcn3d-residual": ResidualFCN3dConfig,
    "fcn3d-shallow": ShallowFCN3dConfig,
}
"""Name to the section that the plan's table ``network`` is read with."""
