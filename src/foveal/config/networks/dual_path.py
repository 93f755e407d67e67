"""Options of the dual path network."""

from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from foveal.config.networks.section import DropoutFraction, NetworkConfig


class DualPathConfig(NetworkConfig):
    """Residual network with a sharp and a quarter-resolution pathway.

    A reconstruction: 19 layers, receptive field 124^3 and, with one channel and two
    classes, 649,251 parameters are the paper's; the channels per layer are not known.
    """

    name: str = "dual-path"
    """Of the network, as in `foveal.network`."""

    published_output: ClassVar[tuple[int, ...]] = (16, 16, 16)
    # The paper's figure has the size, its text does not: a choice.
    published_batch_size: ClassVar[int | None] = 12

    factor: PositiveInt = 4
    """Downsampling of the wide pathway."""

    downsampling: Literal["probing", "averaging"] = "probing"
    """Every fourth voxel, or the mean of every block of four."""

    convolution_features: tuple[PositiveInt, ...] = (20, 20)
    """Channels of the plain convolutions at the start of a pathway."""

    block_features: tuple[PositiveInt, ...] = (20, 24, 24, 24, 24, 64)
    """Channels of the residual blocks that follow."""

    bottleneck_features: tuple[tuple[PositiveInt, PositiveInt], ...] = ((16, 64),)
    """Inner and outer channels of the bottleneck blocks at the end."""

    hidden_features: tuple[PositiveInt, ...] = (85,)
    """Channels of the fully connected layers before the classifier."""

    dropout_fraction: DropoutFraction = 0.5
    """Before each fully connected layer, in training."""

    @model_validator(mode="after")
    def pathway_has_layers(self) -> Self:
        """Refuse a pathway that does nothing."""
        if not (
            self.convolution_features or self.block_features or self.bottleneck_features
        ):
            raise ValueError(
                "network: convolution_features, block_features and bottleneck_features "
                "are all empty; a pathway needs a layer"
            )
        return self
