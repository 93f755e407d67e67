"""What follows a network, from the settings of a run."""

from collections.abc import Iterable, Mapping, Sequence

from foveal.config.postprocessing import (
    ComponentRuleConfig,
    CrfConfig,
    PostprocessingConfig,
)
from foveal.crf.mean_field import DenseCrf
from foveal.errors import SettingsError
from foveal.postprocessing.components import ComponentRule
from foveal.postprocessing.steps import Steps


def steps(follows: PostprocessingConfig, *, use_crf: bool = False) -> Steps:
    """What is done after the network.

    Args:
        follows: As a run keeps it.
        use_crf: Whether its CRF counts, which takes seconds per case.
    """
    temperature = follows.temperature
    return Steps(temperature=1.0 if temperature is None else temperature.value)


def component_rules(
    sections: Iterable[ComponentRuleConfig], structures: Mapping[str, Sequence[int]]
) -> tuple[ComponentRule, ...]:
    """Rules of a run, for its own structures.

    Raises:
        SettingsError: A rule names a structure that there is not.
    """
    rules = []
    for number, section in enumerate(sections):
        unknown = [name for name in section.structures if name not in structures]
        if unknown:
            raise SettingsError(
                f"components.{number}.structures: there is no structure {unknown[0]}; "
                f"there are {', '.join(structures)}"
            )
        rules.append(
            ComponentRule(
                structures=section.structures,
                keep=section.keep,
                smallest_voxels=section.smallest_voxels,
                smallest_ml=section.smallest_ml,
                fill_holes=section.fill_holes,
            )
        )
    return tuple(rules)


def dense_crf(section: CrfConfig, num_channels: int, num_classes: int) -> DenseCrf:
    """The CRF of a run, for its own channels and classes.

    Raises:
        SettingsError: The deviations or the compatibility are of other channels or
            classes.
    """
    num_deviations = len(section.appearance_deviations)
    if num_deviations not in {1, num_channels}:
        raise SettingsError(
            f"crf.appearance_deviations has {num_deviations} values, but the images "
            f"have {num_channels} channels; give one for all or one per channel"
        )
    matrix = section.compatibility
    if matrix is not None and len(matrix) != num_classes:
        raise SettingsError(
            f"crf.compatibility has {len(matrix)} rows, but there are {num_classes} "
            "classes, background among them; give a row and a column for each"
        )
    return DenseCrf(
        smoothness_mm=section.smoothness_mm,
        smoothness_weight=section.smoothness_weight,
        appearance_mm=section.appearance_mm,
        appearance_deviations=section.appearance_deviations,
        appearance_weight=section.appearance_weight,
        iterations=section.iterations,
        normalisation=section.normalisation,
        compatibility=matrix,
        whole_foreground=section.whole_foreground,
    )
