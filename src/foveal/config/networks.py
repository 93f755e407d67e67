"""Options of every network, by its name; see the classes in `foveal.networks`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

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


VggFeatures = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt]
"""Channels of VGG16's five stages."""


class Fcn32sConfig(NetworkConfig):
    """Fully convolutional VGG16, 2D.

    ``fcn16s`` has the same settings and ``pool4_scale`` (1.0), a factor of the fourth
    pooling before it is scored; ``fcn8s`` also ``pool3_scale``. Where all strides are
    trained at once, the authors set 0.01 and 0.0001.
    """

    name: str = "fcn32s"
    """``fcn16s`` adds scores of the fourth pooling, ``fcn8s`` also of the third."""

    features: VggFeatures = (64, 128, 256, 512, 512)
    """Channels per stage, finest first."""

    head_features: PositiveInt = 4096
    """Channels of the two layers that were fully connected."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """After each of those two, in training."""

    input_padding: PositiveInt = 100
    """Zeros around the image. 1 is far cheaper for small images, and puts zeros around
    the last pooling instead."""

    upsampling: Literal["fixed", "learned"] = "fixed"
    """``fixed``: bilinear. ``learned``: weights that start there."""

    published_output: ClassVar[tuple[int, ...]] = (500, 500)
    published_batch_size: ClassVar[int | None] = 1


class Fcn16sConfig(Fcn32sConfig):
    """With scores of the fourth pooling."""

    name: str = "fcn16s"

    pool4_scale: PositiveFloat = 1.0
    """Factor of the fourth pooling before it is scored; 0.01 where all strides are
    trained at once."""


class Fcn8sConfig(Fcn16sConfig):
    """And with those of the third."""

    name: str = "fcn8s"

    pool3_scale: PositiveFloat = 1.0
    """Factor of the third pooling before it is scored; 0.0001 where all strides are
    trained at once."""


class SegNetConfig(NetworkConfig):
    """VGG16's convolutions and their mirror image with pooling indices, 2D."""

    name: str = "segnet"

    features: VggFeatures = (64, 128, 256, 512, 512)
    """Channels per stage, finest first."""

    published_output: ClassVar[tuple[int, ...]] = (360, 480)
    published_batch_size: ClassVar[int | None] = 4


class DeconvNetConfig(NetworkConfig):
    """VGG16 with fully connected layers and its mirror image by unpooling, 2D."""

    name: str = "deconvnet"

    features: VggFeatures = (64, 128, 256, 512, 512)
    """Channels per stage, finest first."""

    head_features: PositiveInt = 4096
    """Channels of the two layers that were fully connected."""

    published_output: ClassVar[tuple[int, ...]] = (224, 224)
    # Of the 64 per update: the authors add the gradients of eight such batches.
    published_batch_size: ClassVar[int | None] = 8


class DecoupledNetConfig(NetworkConfig):
    """A VGG16 trained with image labels guides a decoder trained with masks, 2D."""

    name: str = "decouplednet"

    features: VggFeatures = (64, 128, 256, 512, 512)
    """Channels per stage, finest first."""

    head_features: PositiveInt = 4096
    """Channels of the classifier's two layers that were fully connected."""

    bridge_features: PositiveInt = 2048
    """Channels of the two such layers between classifier and decoder."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """After each of the classifier's two, in training it."""

    presence_threshold: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Classes whose probability for the image is lower are left out of predictions;
    the authors' 0.5 asks for a classifier trained with image labels."""

    published_output: ClassVar[tuple[int, ...]] = (320, 320)


NETWORK_SECTIONS: Mapping[str, type[NetworkConfig]] = {
    "unet3d": UNet3dConfig,
    "fcn32s": Fcn32sConfig,
    "fcn16s": Fcn16sConfig,
    "fcn8s": Fcn8sConfig,
    "segnet": SegNetConfig,
    "deconvnet": DeconvNetConfig,
    "decouplednet": DecoupledNetConfig,
}
"""Name to the section that the plan's table ``network`` is read with."""
