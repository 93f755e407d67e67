"""Options of MONAI's networks."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from foveal.config.networks.section import NetworkConfig


class MonaiUNetConfig(NetworkConfig):
    """MONAI's residual U-Net; needs ``foveal[monai]``."""

    name: str = "monai:unet"

    dimensions: Literal[2, 3] = 3
    """2: slice by slice."""

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128, 256), min_length=2)
    """Channels per stage, finest first."""

    strides: tuple[PositiveInt, ...] = (2, 2, 2, 2)
    """Downsampling into each stage after the first."""

    residual_units: NonNegativeInt = 2
    """Convolutions per stage around which a shortcut leads; 0: one without."""

    norm: Literal["instance", "batch"] = "instance"
    """Normalisation after every convolution."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after each convolution, in training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth."""
        require_step_between_stages(self.features, self.strides)
        return self


class MonaiAttentionUNetConfig(NetworkConfig):
    """MONAI's U-Net with attention gates at its skips; needs ``foveal[monai]``."""

    name: str = "monai:attentionunet"

    dimensions: Literal[2, 3] = 3
    """2: slice by slice."""

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128), min_length=2)
    """Channels per stage, finest first; the first even."""

    strides: tuple[PositiveInt, ...] = (2, 2, 2)
    """Downsampling into each stage after the first."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after each convolution, in training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth."""
        require_step_between_stages(self.features, self.strides)
        return self


class MonaiDynUNetConfig(NetworkConfig):
    """MONAI's U-Net after nnU-Net, alike on every axis; needs ``foveal[monai]``."""

    name: str = "monai:dynunet"

    dimensions: Literal[2, 3] = 3
    """2: slice by slice."""

    features: tuple[PositiveInt, ...] = Field((32, 64, 128, 256), min_length=3)
    """Channels per stage, finest first."""

    strides: tuple[PositiveInt, ...] = (2, 2, 2)
    """Downsampling into each stage after the first."""

    residual: bool = False
    """Residual blocks in place of two plain convolutions."""

    norm: Literal["instance", "batch"] = "instance"
    """Normalisation after every convolution."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after each convolution, in training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth."""
        require_step_between_stages(self.features, self.strides)
        return self


class MonaiSegResNetConfig(NetworkConfig):
    """MONAI's residual encoder with a small decoder; needs ``foveal[monai]``."""

    name: str = "monai:segresnet"

    dimensions: Literal[2, 3] = 3
    """2: slice by slice."""

    first_features: Annotated[PositiveInt, Field(multiple_of=8)] = 16
    """Channels of the finest stage, doubled with each; normalised in 8 groups."""

    blocks_down: tuple[PositiveInt, ...] = Field((1, 2, 2, 4), min_length=2)
    """Residual blocks per stage of the encoder, finest first."""

    blocks_up: tuple[PositiveInt, ...] = (1, 1, 1)
    """Residual blocks per stage of the decoder, coarsest first."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after the first convolution, in training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse a decoder of another depth than the encoder."""
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError(
                f"network.blocks_down has {len(self.blocks_down)} stages; "
                f"network.blocks_up has {len(self.blocks_up)} entries (needs "
                f"{len(self.blocks_down) - 1})"
            )
        return self


class MonaiSwinUNETRConfig(NetworkConfig):
    """MONAI's U-Net with a shifted-window transformer; needs ``foveal[monai]``.

    Patches must be longer than 32 voxels on at least one axis.
    """

    name: str = "monai:swinunetr"

    dimensions: Literal[2, 3] = 3
    """2: slice by slice."""

    first_features: Annotated[PositiveInt, Field(multiple_of=12)] = 24
    """Channels of the finest stage, doubled with each."""

    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 2, 2)
    """Transformer blocks per stage."""

    heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 6, 12, 24)
    """Attention heads per stage."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of the transformer's activations, in training."""


def require_step_between_stages(
    features: tuple[int, ...], strides: tuple[object, ...]
) -> None:
    """Refuse strides that are not one less than the stages."""
    if len(strides) != len(features) - 1:
        raise ValueError(
            f"network.features has {len(features)} stages; network.strides has "
            f"{len(strides)} entries (needs {len(features) - 1})"
        )
