"""Networks by their names and by a plan."""

from typing import Any

from foveal.building.names import NETWORKS, WITHOUT_PLUGINS, of_another_kind
from foveal.config.networks.registry import NETWORK_SECTIONS
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.errors import SettingsError
from foveal.networks.crf_rnn import CrfRnn, MeanFieldLayer
from foveal.networks.initialisation import initialise, zero_last_scales
from foveal.networks.interface import Network
from foveal.networks.pointwise_strides import subsample_before_pointwise
from foveal.networks.slices import SliceBySlice
from foveal.plugins.parts import Parts
from foveal.settings_files import options_of

VOLUME_AXES = 3


def network(
    name: str,
    *,
    in_channels: int,
    num_classes: int,
    **options: Any,  # noqa: ANN401 - each network states its own
) -> Network:
    """Build a network by its name.

    Args:
        name: One of `NETWORKS`.
        in_channels: Of the image.
        num_classes: Including background.
        **options: Of that network; see its class.

    Raises:
        SettingsError: There is no such network, or it has no such option.
    """
    if name not in NETWORKS:
        raise SettingsError(f'"{name}" is no network; there are {", ".join(NETWORKS)}')
    options = options_of(NETWORK_SECTIONS[name], {"name": name, **options}, "network")
    del options["name"]
    made: Network = NETWORKS[name](in_channels, num_classes, **options)
    subsample_before_pointwise(made)
    return made


def planned_network(plan: Plan, parts: Parts = WITHOUT_PLUGINS) -> Network:
    """The network that a plan describes, with fresh weights, for volumes.

    Raises:
        SettingsError: There is no such network, or it is 2D and the plan's patches are
            not one voxel thick.
        PluginError: It is a plugin's, which fails or makes something else.
    """
    made = bare_network(plan, parts)
    if len(made.alignment) == VOLUME_AXES:
        return made
    if 1 not in plan.patches.size:
        raise SettingsError(
            f"network {plan.network.name} is 2D and sees one slice at a time; "
            f"patches.size {plan.patches.size} must be 1 along the axis that counts "
            f"the slices, for example {(*plan.patches.size[:2], 1)}"
        )
    return SliceBySlice(made, _slice_axis(plan))


def bare_network(plan: Plan, parts: Parts = WITHOUT_PLUGINS) -> Network:
    """The network that a plan describes, 2D or 3D as it is, with its CRF if any."""
    made = _network_alone(plan, parts)
    if plan.crf_rnn is None:
        return made
    spacing_mm = list(plan.preprocessing.spacing_mm)
    if len(made.alignment) < VOLUME_AXES:
        del spacing_mm[_slice_axis(plan)]
    options = plan.crf_rnn.model_dump()
    return CrfRnn(made, MeanFieldLayer(plan.labels.num_classes, spacing_mm, **options))


def _slice_axis(plan: Plan) -> int:
    """Axis that counts the slices for a 2D network.

    Of several axes of one voxel the last: pictures are stored that way. So is the axis
    taken where patches are still a volume's.
    """
    thin = [axis for axis in range(VOLUME_AXES) if plan.patches.size[axis] == 1]
    return max(thin, default=VOLUME_AXES - 1)


def _network_alone(plan: Plan, parts: Parts) -> Network:
    name, options = plan.network.name, plan.network.model_dump()
    in_channels, num_classes = (
        len(plan.preprocessing.channels),
        plan.labels.num_classes,
    )
    own = parts.added("network", name)
    if own is None:
        del options["name"]
        return network(
            name, in_channels=in_channels, num_classes=num_classes, **options
        )
    made = parts.built(own, options, in_channels, num_classes)
    if not isinstance(made, Network):
        raise of_another_kind(own, made, "foveal.networks.interface.Network")
    subsample_before_pointwise(made)
    return made


def initialised_network(settings: Settings, plan: Plan, parts: Parts) -> Network:
    """The network of a plan with the weights that a run begins with.

    Raises:
        SettingsError: Its residual blocks shall begin as the identity, but it has none
            that can.
    """
    made = planned_network(plan, parts)
    if settings.training.initialisation != "network":
        initialise(made, settings.training.initialisation)
    if settings.training.zero_gamma and zero_last_scales(made) == 0:
        raise SettingsError(
            f"training.zero_gamma: network {plan.network.name} has no residual block "
            "that ends with a norm; leave it out"
        )
    return made
