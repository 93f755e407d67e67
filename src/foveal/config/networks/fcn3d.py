"""Options of EMMA's fully convolutional networks."""

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from foveal.config.networks.foreign import require_step_between_stages
from foveal.config.networks.section import NetworkConfig
from foveal.config.sections import Triple


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
        require_step_between_stages(self.features, self.strides)
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
