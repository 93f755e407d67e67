"""Options of the 2D networks on VGG16."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from foveal.config.networks.section import NetworkConfig

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
