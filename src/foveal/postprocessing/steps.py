"""What follows the network, in order: temperature, CRF, decision, component rules."""

from dataclasses import dataclass

from foveal.crf.mean_field import DenseCrf
from foveal.postprocessing.components import ComponentRule


@dataclass(frozen=True)
class Steps:
    """As a run keeps them, or none."""

    temperature: float = 1.0
    """What log probabilities are divided by; 1 changes nothing."""

    crf: DenseCrf | None = None
    """Refines the probabilities of a whole case."""

    components: tuple[ComponentRule, ...] = ()
    """Rules for the label map, one after another."""


NO_STEPS = Steps()
