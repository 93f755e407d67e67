"""What follows a network, from the settings of a run."""

from foveal.config.postprocessing import PostprocessingConfig
from foveal.postprocessing.steps import Steps


def steps(follows: PostprocessingConfig, *, use_crf: bool = False) -> Steps:
    """What is done after the network.

    Args:
        follows: As a run keeps it.
        use_crf: Whether its CRF counts, which takes seconds per case.
    """
    temperature = follows.temperature
    return Steps(temperature=1.0 if temperature is None else temperature.value)
