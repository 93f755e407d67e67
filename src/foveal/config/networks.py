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


class DeepLabV2Config(NetworkConfig):
    """DeepLabv2: atrous convolutions, and a sum of classifiers of several reaches."""

    published_output: ClassVar[tuple[int, ...]] = (321, 321)
    published_batch_size: ClassVar[int | None] = 10

    name: str = "deeplabv2"
    """Of the network, as in `foveal.network`."""

    backbone: Literal["resnet101", "resnet50", "resnet34", "resnet18", "vgg16"] = (
        "resnet101"
    )
    """The paper's are ``resnet101`` and ``vgg16``."""

    first_features: PositiveInt = 64
    """Channels after the first convolution; all other layers in proportion."""

    rates: tuple[PositiveInt, ...] = Field((6, 12, 18, 24), min_length=1)
    """Dilation of the parallel 3x3 convolutions; one of 12 is the paper's large
    field of view."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """For ``vgg16``: channels dropped before the last two layers, in training."""


class DeepLabV3Config(NetworkConfig):
    """DeepLabv3: atrous convolutions of several reaches beside the image's mean."""

    published_output: ClassVar[tuple[int, ...]] = (513, 513)
    published_batch_size: ClassVar[int | None] = 16

    name: str = "deeplabv3"
    """Of the network, as in `foveal.network`."""

    backbone: Literal["resnet101", "resnet50", "resnet34", "resnet18"] = "resnet101"
    """The paper's are ``resnet101`` and ``resnet50``."""

    first_features: PositiveInt = 64
    """Channels after the first convolution; all other layers of the backbone in
    proportion."""

    output_stride: Literal[8, 16] = 16
    """Voxels between features; 8 is finer and slower, on the same weights."""

    multi_grid: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 4)
    """Dilation of the last three blocks, in units of 2 at output stride 16 and 4 at
    8."""

    rates: tuple[PositiveInt, ...] = (6, 12, 18)
    """Dilation of the parallel 3x3 convolutions at output stride 16; twice that at
    8."""

    head_features: PositiveInt = 256
    """Channels of each parallel way and before the classifier."""


NETWORK_SECTIONS: Mapping[str, type[NetworkConfig]] = {
    "unet3d": UNet3dConfig,
    "deeplabv2": DeepLabV2Config,
    "deeplabv3": DeepLabV3Config,
}
"""Name to the section that the plan's table ``network`` is read with."""
