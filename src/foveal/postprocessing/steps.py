"""What follows the network, in order: temperature, CRF, decision, component rules."""

from collections.abc import Collection
from dataclasses import dataclass

from foveal.crf.mean_field import DenseCrf
from foveal.errors import SettingsError
from foveal.postprocessing.components import ComponentRule


@dataclass(frozen=True)
class Steps:
    """As a run keeps them, or none."""

    temperature: float = 1.0
    """What log probabilities are divided by; 1 changes nothing."""

    crf: DenseCrf | None = None
    """Refines the probabilities of a whole case."""

    crf_within_mask: bool | None = None
    """Whether the CRF is meant for cases with a mask; ``None``: for either."""

    components: tuple[ComponentRule, ...] = ()
    """Rules for the label map, one after another."""

    def require_fit(
        self, structures: Collection[str], num_channels: int, num_classes: int
    ) -> None:
        """Refuse steps that are meant for other cases.

        Args:
            structures: Names of what is predicted.
            num_channels: Of an image.
            num_classes: Including background.

        Raises:
            SettingsError: A rule names a structure that is not predicted, or the CRF
                has parameters of other channels or classes.
        """
        for rule in self.components:
            for name in rule.structures:
                if name not in structures:
                    raise SettingsError(
                        f"a rule for components names the structure {name}, which is "
                        f"not predicted (there are {', '.join(structures)}); correct "
                        "components.structures in the rule, or run foveal "
                        "tune-components again"
                    )
        if self.crf is None:
            return
        num_deviations = len(self.crf.appearance_deviations)
        if num_deviations not in {1, num_channels}:
            raise SettingsError(
                f"crf.appearance_deviations has {num_deviations} values, but images "
                f"have {num_channels} channels; give one for all or one per channel"
            )
        matrix = self.crf.compatibility
        if matrix is not None and len(matrix) != num_classes:
            raise SettingsError(
                f"crf.compatibility has {len(matrix)} rows, but there are "
                f"{num_classes} classes, background among them; give a row and a "
                "column for each"
            )


NO_STEPS = Steps()
