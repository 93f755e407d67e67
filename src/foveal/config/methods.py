"""What is learned from which batches, and every method's own options."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from foveal.config.sections import Fraction, PositiveFraction, Section


class MethodConfig(Section):
    """What is learned from which batches; ``name`` decides which options there are."""

    name: str = "supervised"
    """``supervised``: outlines in patches. ``classification``: only which structures a
    patch shows; its weights start a segmentation network. ``pseudo_label``,
    ``consistency``, ``mean_teacher`` and ``cclp`` also learn from unlabelled cases, as
    ``cclp_classification`` does of what a patch shows; ``adversarial`` from those of
    another domain. Or one of a plugin."""

    begins_with_weights: ClassVar[bool] = False
    """Whether a trained network must be there before the first step."""

    predicts_with_average: ClassVar[bool] = False
    """Whether what is validated is a moving average of the weights already."""

    @property
    def options(self) -> dict[str, Any]:
        """All but the name."""
        return {key: value for key, value in self if key != "name"}


class UnknownMethodConfig(MethodConfig):
    """A method of a plugin, whose options are in ``[plugins.NAME]``."""


class SupervisedConfig(MethodConfig):
    """Outlines in patches; it has no options of its own."""

    name: Literal["supervised"] = "supervised"


class ClassificationConfig(MethodConfig):
    """Only which structures a patch shows; it has no options of its own."""

    name: Literal["classification"] = "classification"


class PseudoLabelConfig(MethodConfig):
    """Unlabelled cases with the labels that the network itself gives them (Lee 2013).

    Needs ``transfer.weights``: the trained run that labels them first, and whose
    weights training begins with.
    """

    begins_with_weights: ClassVar[bool] = True

    name: Literal["pseudo_label"] = "pseudo_label"

    labels: Literal["hard", "soft"] = "hard"
    """``hard``: the most probable class. ``soft``: its probabilities, to which the
    network's are brought by cross entropy; a byte per class and voxel on disk."""

    threshold: Fraction = 0.0
    """Voxels whose most probable class is less probable carry no loss. A network may
    find a structure well and never be sure of it, so it is 0, as in the paper."""

    weight: NonNegativeFloat = 1.0
    """Of the loss on unlabelled patches."""

    ramp_up_fraction: Fraction = 0.0
    """Share of the run in which the weight rises from 0."""

    every_steps: PositiveInt | None = None
    """Steps after which the labels are made anew by the network in training; unset:
    never, all are the first run's."""

    least_share: Fraction = 0.5
    """New labels are not used if a structure has less than this share of the voxels
    that the first run gave it."""

    batch_size: PositiveInt | None = None
    """Unlabelled patches per step; unset: as many as labelled ones."""


class ConsistencyConfig(MethodConfig):
    """An unlabelled patch means the same once augmented (UDA, Xie et al. 2020)."""

    name: Literal["consistency"] = "consistency"

    weight: NonNegativeFloat = 1.0
    """Of the Kullback-Leibler divergence of the augmented patch's answer."""

    ramp_up_fraction: Fraction = 0.3
    """Share of the run in which the weight rises from 0."""

    temperature: PositiveFloat = 0.4
    """The target's logits are divided by it: below 1 it is sharper."""

    threshold: Fraction = 0.8
    """Voxels whose target is less sure carry no loss, and count in its mean."""

    annealing: Literal["none", "linear", "log", "exp"] = "none"
    """Training-signal annealing: labelled voxels that are right with a probability
    above a rising limit carry no loss until then. ``log`` rises early, ``exp`` late."""

    batch_size: PositiveInt | None = None
    """Unlabelled patches per step; unset: as many as labelled ones."""


class MeanTeacherConfig(MethodConfig):
    """Consistency with the moving average of the weights (Tarvainen and Valpola 2017).

    The average, the teacher, is what is validated and used to predict.
    """

    predicts_with_average: ClassVar[bool] = True

    name: Literal["mean_teacher"] = "mean_teacher"

    weight: NonNegativeFloat = 10.0
    """Of the mean squared difference of probabilities, summed over classes. The paper's
    is 100 of its mean over 10 classes."""

    ramp_up_fraction: Fraction = 0.3
    """Share of the run in which the weight rises from 0."""

    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """Of the average; less in the first steps, (1 + n) / (10 + n)."""

    threshold: Fraction = 0.0
    """Voxels of which the teacher is less sure carry no loss, and count in its mean."""

    batch_size: PositiveInt | None = None
    """Unlabelled patches per step; unset: as many as labelled ones."""


class CclpConfig(MethodConfig):
    """Compact clusters by label propagation (Kamnitsas et al. 2018; thesis, ch. 6)."""

    name: Literal["cclp"] = "cclp"

    weight: NonNegativeFloat = 0.01
    """Of the regulariser."""

    ramp_up_fraction: Fraction = 0.1
    """Share of the run in which the weight rises from 0."""

    steps: PositiveInt = 3
    """S, the longest Markov chain."""

    normalisation: Literal["mean_of_rows", "mean_of_pairs"] = "mean_of_rows"
    """``mean_of_rows``: cross entropies of the transitions summed over the second voxel
    and averaged over the first, 1/N, as in the authors' program. ``mean_of_pairs``:
    1/N^2, as in the thesis, which is smaller N times."""

    similarity: Literal["dot", "cosine", "euclidean"] = "cosine"
    """Of two embeddings. ``dot``: their product, the thesis's; ``cosine``: of them
    normalised; ``euclidean``: minus the squared distance."""

    temperature: PositiveFloat = 0.1
    """Similarities are divided by it."""

    layer: str | None = None
    """Whose activations are the embeddings; unset: the network's last hidden layer."""

    labelled_voxels: PositiveInt = 120
    """Drawn per step from labelled patches, as many of every class that is there."""

    unlabelled_voxels: Annotated[int, Field(ge=0)] = 120
    """Drawn per step from unlabelled patches, by predicted class. 0: only labelled
    cases are learned from (the regulariser in supervised training)."""

    background_share: Fraction = 0.5
    """Of the unlabelled voxels, at most so many that are predicted as background."""

    batch_size: PositiveInt | None = None
    """Unlabelled patches per step; unset: as many as labelled ones."""

    @model_validator(mode="after")
    def what_is_unlabelled_is_used(self) -> Self:
        """Refuse options of unlabelled patches where none are read."""
        unused = [
            name
            for name in ("background_share", "batch_size")
            if getattr(self, name) != type(self).model_fields[name].default
        ]
        if unused and not self.unlabelled_voxels:
            raise ValueError(
                "unlabelled_voxels is 0: no unlabelled patch is read; leave out "
                + ", ".join(unused)
            )
        return self


class CclpClassificationConfig(MethodConfig):
    """CCLP of whole patches: which structures they show, as ``classification``."""

    name: Literal["cclp_classification"] = "cclp_classification"

    weight: NonNegativeFloat = 0.01
    """Of the regulariser."""

    ramp_up_fraction: Fraction = 0.1
    """Share of the run in which the weight rises from 0."""

    steps: PositiveInt = 3
    """S, the longest Markov chain."""

    normalisation: Literal["mean_of_rows", "mean_of_pairs"] = "mean_of_rows"
    """As of ``cclp``, of patches."""

    similarity: Literal["dot", "cosine", "euclidean"] = "cosine"
    """Of two embeddings, as of ``cclp``."""

    temperature: PositiveFloat = 0.1
    """Similarities are divided by it."""

    layer: str | None = None
    """Whose activations, their mean over space, are the embeddings; unset: the
    network's last hidden layer."""

    unlabelled_patches: Annotated[int, Field(ge=0)] | None = None
    """Per step, of cases that nobody outlined; unset: as many as labelled ones. 0: none
    are read."""


class AdversarialConfig(MethodConfig):
    """Features that do not tell the domain (Kamnitsas et al. 2017; thesis, ch. 5).

    Domains are those of the data set's column ``domain``.
    """

    name: Literal["adversarial"] = "adversarial"

    source: tuple[str, ...] = ()
    """Domains that labels come from; empty: those with a labelled training case."""

    target: tuple[str, ...] = ()
    """Domains to adapt to; empty: all others."""

    layers: tuple[str, ...] = ()
    """Whose activations the discriminator sees. Empty: of DeepMedic those of the thesis
    (4, 6 and 8 of every pathway, and the last hidden one), of other networks what
    docs/adversarial.md says."""

    alpha_max: NonNegativeFloat = 0.05
    """How much the network counters the discriminator in the end."""

    begin_fraction: Fraction = 0.2
    """Share of the run until which alpha is 0; the thesis's epoch 10."""

    full_fraction: PositiveFraction = 0.7
    """Share of the run from which alpha is ``alpha_max``; the thesis's epoch 35."""

    form: Literal["reversal", "confusion", "flipped"] = "reversal"
    """What the network minimises of the domains: ``reversal``: minus the
    discriminator's loss, the thesis's; ``confusion``: the cross entropy of its answer
    and an even one (Tzeng et al. 2015); ``flipped``: its loss with the domains
    exchanged."""

    features: tuple[PositiveInt, ...] = (100, 100, 100, 100)
    """Channels of the discriminator's layers."""

    learning_rate: PositiveFloat = 1e-3
    """Of the discriminator, constant."""

    batch_size: PositiveInt | None = None
    """Patches per step of which the domain is to be told, half from either; unset:
    twice as many as labelled ones, as in the thesis."""

    @model_validator(mode="after")
    def alpha_rises(self) -> Self:
        """Refuse an end of the rise before its beginning."""
        if self.full_fraction < self.begin_fraction:
            raise ValueError(
                f"full_fraction {self.full_fraction:g} must not be below "
                f"begin_fraction {self.begin_fraction:g}"
            )
        return self

    @model_validator(mode="after")
    def domains_differ(self) -> Self:
        """Refuse a domain that would be told from itself."""
        if both := sorted({*self.source} & {*self.target}):
            raise ValueError(
                f"target names {', '.join(both)}, and so does source; a domain is one "
                "or the other"
            )
        return self

    @model_validator(mode="after")
    def halves_are_whole(self) -> Self:
        """Refuse an odd number of patches, which has no halves."""
        if self.batch_size is not None and self.batch_size % 2:
            raise ValueError(
                f"batch_size {self.batch_size} must be even: half are of either domain"
            )
        return self


METHOD_SECTIONS: Mapping[str, type[MethodConfig]] = {
    "supervised": SupervisedConfig,
    "classification": ClassificationConfig,
    "pseudo_label": PseudoLabelConfig,
    "consistency": ConsistencyConfig,
    "mean_teacher": MeanTeacherConfig,
    "cclp": CclpConfig,
    "cclp_classification": CclpClassificationConfig,
    "adversarial": AdversarialConfig,
}
