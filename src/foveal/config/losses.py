"""Losses: what each counts, and the options of those that have any."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from foveal.config.sections import Section


class LossConfig(Section, extra="allow"):
    """Weighted sum of losses; a weight of 0 leaves one out.

    A plugin's losses have their weights here too; they are 0 unless set.
    """

    __pydantic_extra__: dict[str, NonNegativeFloat] = Field(init=False)

    cross_entropy: NonNegativeFloat = 1.0
    top_k: NonNegativeFloat = 0.0
    """Cross entropy of the voxels that are predicted worst."""

    focal: NonNegativeFloat = 0.0
    """Cross entropy in which voxels count little that are right already."""

    dice: NonNegativeFloat = 1.0
    generalised_dice: NonNegativeFloat = 0.0
    """One Dice of everything, structures weighted by the inverse of squared volume."""

    iou: NonNegativeFloat = 0.0
    tversky: NonNegativeFloat = 0.0
    """Dice in which voxels missed count more than voxels too many."""

    region_cross_entropy: NonNegativeFloat = 0.0
    """Binary cross entropy of every structure, for structures that overlap."""

    border_cross_entropy: NonNegativeFloat = 0.0
    """Cross entropy with border weights; usually instead of ``cross_entropy``."""

    @property
    def weights(self) -> dict[str, float]:
        """Loss to weight, of those that count."""
        return {name: weight for name, weight in self if weight > 0}

    @model_validator(mode="after")
    def something_is_left(self) -> Self:
        """Refuse a loss that is always zero."""
        if not self.weights:
            raise ValueError("at least one weight must be above 0")
        return self


class CrossEntropyConfig(Section):
    """What counts more in ``loss.cross_entropy``; the mean is weighted."""

    class_weights: dict[str, NonNegativeFloat] = Field({})
    """Structure or ``background`` to weight; 1 for all others. A voxel in several
    structures has the product of their weights."""

    voxel_weights: bool = False
    """Weigh every voxel by its case's ``weight_map``."""


class TopKConfig(Section):
    """Which voxels count in ``loss.top_k``."""

    percent: Annotated[float, Field(gt=0.0, le=100.0)] = 10.0
    """Of the known voxels of a batch, those with the largest cross entropy."""


class FocalConfig(Section):
    """How ``loss.focal`` leaves out what is easy."""

    gamma: NonNegativeFloat = 2.0
    """A voxel counts as the power of what its right class lacks in probability; 0:
    cross entropy."""


class TverskyConfig(Section):
    """What errors cost in ``loss.tversky``; both 0.5: Dice, both 1: IoU."""

    false_positives: PositiveFloat = 0.3
    """Weight of voxels predicted too much (alpha)."""

    false_negatives: PositiveFloat = 0.7
    """Weight of voxels missed (beta)."""


class BorderWeightsConfig(Section):
    """How much gaps between objects count in ``loss.border_cross_entropy``.

    Objects are the connected parts of the structures; gaps are background.
    """

    factor: NonNegativeFloat = 10.0
    """Weight that the narrowest gap adds to the 1 that every voxel has."""

    sigma_voxels: PositiveFloat = 5.0
    """The weight falls by 40 % where the distances to two objects sum to this. With
    deep supervision it counts the voxels of every scale, so gaps reach farther at the
    coarse ones."""


class LossOptionsConfig(Section):
    """Options of the losses that have any.

    Those of a loss whose weight is 0 are an error.
    """

    cross_entropy: CrossEntropyConfig = CrossEntropyConfig()
    top_k: TopKConfig = TopKConfig()
    focal: FocalConfig = FocalConfig()
    tversky: TverskyConfig = TverskyConfig()
    border_cross_entropy: BorderWeightsConfig = BorderWeightsConfig()

    @property
    def changed(self) -> list[str]:
        """Losses with an option that is not the default."""
        # By their values: those of a saved run are all set.
        usual = LossOptionsConfig().model_dump()
        return [
            name
            for name, options in self.model_dump().items()
            if options != usual[name]
        ]
