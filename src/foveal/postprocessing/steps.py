"""What follows the network, in order: temperature, CRF, decision, component rules."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """As a run keeps them, or none."""

    temperature: float = 1.0
    """What log probabilities are divided by; 1 changes nothing."""


NO_STEPS = Steps()
