"""What holds for every network that can be named."""

from foveal.building import NETWORKS
from foveal.config.networks.registry import NETWORK_SECTIONS


def test_every_network_has_its_options_and_every_options_their_network():
    assert NETWORKS.keys() == NETWORK_SECTIONS.keys()
