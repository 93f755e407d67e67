"""Options of DeepLab."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from foveal.config.networks.section import NetworkConfig


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
    """For ``vgg16``: values dropped before the last two layers, in training."""

    @model_validator(mode="after")
    def dropout_is_used(self) -> Self:
        """Refuse a dropout that the backbone has no layers for."""
        unused = type(self).model_fields["dropout_fraction"].default
        if self.backbone != "vgg16" and self.dropout_fraction != unused:
            raise ValueError(
                "network.dropout_fraction is for backbone vgg16; "
                f"{self.backbone} has no layer that drops values"
            )
        return self


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
    8. ``resnet18`` ends with two blocks, which take the first two numbers."""

    rates: tuple[PositiveInt, ...] = (6, 12, 18)
    """Dilation of the parallel 3x3 convolutions at output stride 16; twice that at
    8."""

    head_features: PositiveInt = 256
    """Channels of each parallel way and before the classifier."""
