"""What follows a network, from the settings of a run."""

from foveal.config.postprocessing import (
    ComponentRuleConfig,
    CrfConfig,
    PostprocessingConfig,
)
from foveal.crf.mean_field import DenseCrf
from foveal.postprocessing.components import ComponentRule
from foveal.postprocessing.steps import Steps


def steps(follows: PostprocessingConfig, *, use_crf: bool = False) -> Steps:
    """What is done after the network.

    Args:
        follows: As a run keeps it.
        use_crf: Whether its CRF counts, which takes seconds per case.
    """
    temperature = follows.temperature
    return Steps(
        temperature=1.0 if temperature is None else temperature.value,
        crf=dense_crf(follows.crf) if use_crf and follows.crf else None,
        crf_within_mask=follows.crf.within_mask if use_crf and follows.crf else None,
        components=tuple(component_rule(rule) for rule in follows.components),
    )


def dense_crf(section: CrfConfig) -> DenseCrf:
    """A CRF with these parameters."""
    return DenseCrf(**section.model_dump(exclude={"evidence", "within_mask"}))


def component_rule(section: ComponentRuleConfig) -> ComponentRule:
    """What is removed and filled in."""
    return ComponentRule(**section.model_dump(exclude={"evidence"}))
