"""What is done after the network, as validation cases chose it: a file of a run."""

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from foveal.config.sections import Section

PositiveTriple = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class EvidenceConfig(Section):
    """What validation cases said of a choice."""

    cases: tuple[str, ...] = ()
    """That it was chosen on; never test cases."""

    score_before: float | None = None
    """Mean over structures and cases without it."""

    score_after: float | None = None
    """The same with it, each case measured as the others chose."""

    score: str = "dice"
    """What the scores are: ``dice``, or ``nll`` (lower is better)."""

    p_value: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Of a paired test over the cases, two-sided; unset: too few cases."""


class TemperatureConfig(Section):
    """Softens (above 1) or sharpens (below 1) probabilities; Guo et al. 2017."""

    value: PositiveFloat
    evidence: EvidenceConfig = EvidenceConfig()


class CrfConfig(Section):
    """Fully connected CRF (Kamnitsas et al. 2017, section 2.4)."""

    smoothness_mm: PositiveTriple = (3.0, 3.0, 3.0)
    """Deviations of the smoothness kernel along the axes of the plan, in mm."""

    smoothness_weight: NonNegativeFloat = 3.0

    appearance_mm: PositiveTriple = (17.0, 12.0, 10.0)
    """Deviations of the appearance kernel along the axes of the plan, in mm."""

    appearance_deviations: tuple[PositiveFloat, ...] = Field((0.1,), min_length=1)
    """One per channel, or one for all: how unlike two voxels' intensities may be, in
    standard deviations of the channel."""

    appearance_weight: NonNegativeFloat = 5.0

    iterations: PositiveInt = 5
    """Of mean-field inference."""

    normalisation: Literal["symmetric", "before", "after", "none"] = "symmetric"
    """Of the kernels' messages."""

    compatibility: tuple[tuple[float, ...], ...] | None = None
    """Energy of each pair of inside classes being neighbours, background first,
    symmetric. Unset: Potts, which rewards agreement only."""

    whole_foreground: bool = False
    """Refine foreground against background, and leave the shares of the classes within
    the foreground as they are (thesis, section 3.4.2)."""

    within_mask: bool | None = None
    """Whether it was chosen on cases with masks, within which channels are then
    standardised; such a CRF refuses cases without one. Unset: either."""

    evidence: EvidenceConfig = EvidenceConfig()

    @model_validator(mode="after")
    def something_is_done(self) -> Self:
        """Refuse kernels without weight, and a compatibility that is no matrix."""
        if self.smoothness_weight == self.appearance_weight == 0:
            raise ValueError(
                "crf changes nothing while smoothness_weight and appearance_weight "
                "are 0; leave the table out, or give one of them a weight"
            )
        if self.compatibility is not None:
            size = len(self.compatibility)
            if any(len(row) != size for row in self.compatibility):
                raise ValueError("crf.compatibility must have as many rows as columns")
            if any(
                self.compatibility[a][b] != self.compatibility[b][a]
                for a in range(size)
                for b in range(a)
            ):
                raise ValueError("crf.compatibility must be symmetric")
            if self.whole_foreground:
                raise ValueError(
                    "crf.compatibility changes nothing while whole_foreground is true"
                )
        return self


class ComponentRuleConfig(Section):
    """What is removed from, and filled in, one structure or several taken together."""

    structures: tuple[str, ...] = Field(min_length=1)
    """Names; their voxels together form the components."""

    keep: Literal["all", "largest"] = "all"
    """Components that stay."""

    smallest_voxels: PositiveInt | None = None
    """Components below this size are removed (EMMA: 250)."""

    smallest_ml: PositiveFloat | None = None
    """The same in millilitres; one of the two."""

    fill_holes: bool = False
    """Background that the component encloses becomes the structure, the one that
    touches it most where there are several."""

    evidence: EvidenceConfig = EvidenceConfig()

    @model_validator(mode="after")
    def something_is_done(self) -> Self:
        """Refuse a rule without effect, and two sizes."""
        if self.smallest_voxels is not None and self.smallest_ml is not None:
            raise ValueError("give smallest_voxels or smallest_ml, not both")
        sizes = (self.smallest_voxels, self.smallest_ml)
        if self.keep == "all" and sizes == (None, None) and not self.fill_holes:
            raise ValueError(
                f"the rule for {', '.join(self.structures)} changes nothing; set keep, "
                "smallest_voxels, smallest_ml or fill_holes, or leave it out"
            )
        return self


class PostprocessingConfig(Section):
    """``postprocessing.toml``: what follows the network, in this order."""

    format_version: Literal[1] = 1

    made_of: tuple[str, ...] = ()
    """Digests of the models that it was chosen with, in order; other weights are
    refused. Empty: written by hand, for any."""

    temperature: TemperatureConfig | None = None
    crf: CrfConfig | None = None
    """Used where ``foveal predict --crf`` asks for it."""

    components: tuple[ComponentRuleConfig, ...] = ()
    """Rules, one after another."""

    @property
    def effects(self) -> Self:
        """The same without what it was chosen on and with: equal if predictions are."""
        none = {"evidence": EvidenceConfig()}
        return self.model_copy(
            update={
                "made_of": (),
                "temperature": self.temperature
                and self.temperature.model_copy(update=none),
                "crf": self.crf and self.crf.model_copy(update=none),
                "components": tuple(
                    rule.model_copy(update=none) for rule in self.components
                ),
            }
        )
