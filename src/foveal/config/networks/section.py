"""What the options of every network share."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from foveal.config.sections import Section

DropoutFraction = Annotated[float, Field(ge=0.0, lt=1.0)]


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
