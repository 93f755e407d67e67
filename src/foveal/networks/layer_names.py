"""Layers by the names that settings give them."""

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn import Parameter

from foveal.errors import SettingsError
from foveal.networks.initialisation import WEIGHTED
from foveal.networks.interface import Network
from foveal.networks.slices import SliceBySlice


def named_networks(whole: nn.Module) -> list[Network]:
    """Networks of a method, those inside another left out; 2D ones as they are.

    So the names of a 2D network's layers are the same for volumes.
    """
    found: list[Network] = []

    def look_into(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, SliceBySlice):
                found.append(child.network)
            elif isinstance(child, Network):
                found.append(child)
            else:
                look_into(child)

    look_into(whole)
    return found


def layers_named(whole: nn.Module, name: str, setting: str) -> list[nn.Module]:
    """The module of this name in every network of a method that has it.

    Args:
        whole: The method.
        name: Dotted, such as ``encoder.0``; all that is inside belongs to it.
        setting: That gives the name, for the message.

    Raises:
        SettingsError: No network has such a module; says which there are.
    """
    networks = named_networks(whole)
    layers = [
        module
        for network in networks
        for path, module in network.named_modules()
        if path == name and path
    ]
    if not layers:
        there = dict.fromkeys(
            path for network in networks for path, _ in network.named_children()
        )
        raise SettingsError(
            f'{setting}: no layer is called "{name}"; there are {", ".join(there)}'
        )
    return layers


def rate_factors(
    whole: nn.Module, factors: Mapping[str, float], setting: str
) -> dict[Parameter, float]:
    """Parameters whose learning rate is multiplied, and by what.

    Args:
        whole: The method; what does not learn is frozen already.
        factors: Name of a module to factor; of several, the longest name counts.
        setting: That gives the names, for messages.

    Raises:
        SettingsError: A name fits no layer, or only such that do not learn.
    """
    found: dict[Parameter, float] = {}
    # An inner module has a longer name than those around it.
    for name in sorted(factors, key=len):
        learned = [
            parameter
            for layer in layers_named(whole, name, setting)
            for parameter in layer.parameters()
            if parameter.requires_grad
        ]
        if not learned:
            raise SettingsError(f'{setting}: nothing in "{name}" learns')
        found |= dict.fromkeys(learned, factors[name])
    return found


def regularised_weights(
    whole: nn.Module, among: Sequence[Parameter], *, with_classifier: bool
) -> list[Parameter]:
    """Weights of convolutions and linear layers: no biases, norms or slopes.

    Args:
        whole: The method.
        among: Those that are learned.
        with_classifier: Also of the layers that make logits.
    """
    exempt = (
        set()
        if with_classifier
        else {
            parameter
            for network in named_networks(whole)
            for name in network.classifier_names
            for parameter in network.get_submodule(name).parameters()
        }
    )
    weights = {
        parameter
        for module in whole.modules()
        if isinstance(module, WEIGHTED)
        for name, parameter in module.named_parameters(recurse=False)
        if name == "weight"
    }
    return [each for each in among if each in weights and each not in exempt]
