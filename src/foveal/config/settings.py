"""What a person chooses: sampling, augmentation, loss, optimiser, length of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from foveal.config.sections import (
    Factors,
    Fraction,
    PerAxis,
    PositiveFraction,
    Section,
    Triple,
)


class SplitsConfig(Section):
    """How patients are divided when the data set does not say so itself."""

    folds: PositiveInt | None = None
    """Parts of the training patients; fold K validates on part K. Unset: 5, or one per
    patient if there are fewer. 1: every training case is trained on and none is
    validated."""

    fold: NonNegativeInt = 0
    """Which of the folds this run is."""

    seed: NonNegativeInt = 12345
    """Of the division, apart from ``training.seed`` so that runs share their splits."""

    @model_validator(mode="after")
    def fold_exists(self) -> Self:
        """Refuse a fold beyond the last."""
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(
                f"splits.fold {self.fold} must be below splits.folds {self.folds}"
            )
        return self


class SamplingConfig(Section):
    """How training patches are drawn.

    Every case is equally likely, then what the patch is for, then the voxel it lies
    around.
    """

    sampler: str = "class_balanced"
    """``uniform``: anywhere. ``class_balanced``: a share of the patches lies around a
    voxel of a structure drawn first, the others anywhere.
    ``foreground_background``: a share lies around any voxel of the structures, the
    others around background. ``class_equal``: background and every structure of the
    case alike. ``mask``: any voxel of the case's mask. ``weight_map``: any voxel, as
    its weight map says. Or one of a plugin."""

    foreground_fraction: Fraction = 0.5
    """For ``class_balanced`` and ``foreground_background``: that share."""

    structure_weights: dict[str, PositiveFloat] = Field({})
    """For ``class_balanced``: structure to relative chance; empty: all alike."""

    one_case_per_batch: bool = False
    """Whether all patches of a step come from one case."""

    adaptive: bool = False
    """Draw as the sampler does, but from where the network still errs: by error maps
    of the training cases, which ``[error_maps]`` keeps fresh."""


class AugmentationConfig(Section):
    """Changes of training patches; each ``_probability`` is per patch."""

    rotation_probability: Fraction = 0.2
    rotation_degrees: NonNegativeFloat | PerAxis = 30.0
    """Largest angle. One number: about each axis, on strongly anisotropic grids only
    that across the slices. Three: about i, j and k, whatever the grid."""

    scaling_probability: Fraction = 0.2
    scaling: Factors = (0.7, 1.4)
    shear_probability: Fraction = 0.0
    shear_degrees: Annotated[float, Field(ge=0.0, lt=90.0)] = 6.0
    """Largest angle by which an axis leans; on strongly anisotropic grids only in
    the slices."""

    spacing_jitter_probability: Fraction = 0.0
    spacing_jitter_mm: NonNegativeFloat = 0.1
    """Largest difference of a patch's spacing from the plan's, drawn per axis."""

    translation_probability: Fraction = 0.0
    translation_voxels: NonNegativeFloat = 4.0
    elastic_probability: Fraction = 0.0
    elastic_spacing_voxels: PositiveFloat = 16.0
    """Distance of the control points."""

    elastic_voxels: NonNegativeFloat = 3.0
    """Standard deviation of the control points' displacement, at most 0.4 times their
    distance."""

    mirror_probability: Fraction = 0.5
    """Per axis of ``mirroring.axes``."""

    noise_probability: Fraction = 0.1
    noise_deviation: tuple[NonNegativeFloat, NonNegativeFloat] = (0.0, 0.3)
    blur_probability: Fraction = 0.1
    blur_sigma_voxels: Factors = (0.5, 1.0)
    shift_probability: Fraction = 0.0
    shift_deviation: NonNegativeFloat = 0.1
    """Standard deviation of what is added to a channel, in units of the preprocessed
    image."""

    shift_factor_deviation: NonNegativeFloat = 0.0
    """Standard deviation of the factor, 1 on average, of the shifted values."""

    brightness_probability: Fraction = 0.15
    brightness: Factors = (0.75, 1.25)
    """Factor."""

    contrast_probability: Fraction = 0.15
    contrast: Factors = (0.75, 1.25)
    """Factor about the patch's mean."""

    gamma_probability: Fraction = 0.2
    gamma: Factors = (0.7, 1.5)
    low_resolution_probability: Fraction = 0.1
    low_resolution: tuple[PositiveFraction, PositiveFraction] = (0.5, 1.0)
    """Factor of the voxel count per axis."""

    @model_validator(mode="after")
    def anatomy_is_not_folded(self) -> Self:
        """Refuse elastic deformation that turns tissue inside out."""
        # At 0.4 no drawn patch of 64 x 64 x 64 voxels folded, at 0.5 half of them with
        # a spacing of 4 voxels.
        if self.elastic_voxels > 0.4 * self.elastic_spacing_voxels:
            raise ValueError(
                f"elastic_voxels {self.elastic_voxels:g} must be at most 0.4 times "
                f"elastic_spacing_voxels {self.elastic_spacing_voxels:g}; control "
                "points that pass each other fold the image"
            )
        return self

    @model_validator(mode="after")
    def strengths_are_used(self) -> Self:
        """Refuse the strength of a change that never happens."""
        # By their values: those of a saved run are all set.
        fields = type(self).model_fields
        suffix = "_probability"
        changes = [name.removesuffix(suffix) for name in fields if suffix in name]
        for change in changes:
            strengths = [name for name in fields if name.startswith(change)]
            strengths.remove(change + suffix)
            for name in strengths if getattr(self, change + suffix) == 0 else ():
                usual = fields[name].default
                if getattr(self, name) != usual:
                    raise ValueError(
                        f"{name} changes nothing while {change}{suffix} is 0; raise "
                        f"that, or leave {name} out"
                    )
        return self


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


class NamedSection(Section):
    """A table in which one entry decides which of the others there are.

    An unset option has the default of what is chosen; one that it does not use must be
    left out.
    """

    chooser: ClassVar[str] = "name"
    """That entry."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Choice to the options that it has beside those that all have."""

    @model_validator(mode="wrap")
    @classmethod
    def with_defaults(
        cls,
        table: Any,  # noqa: ANN401 - whatever a file holds
        handler: ModelWrapValidatorHandler[Self],
    ) -> Self:
        """Fill in what is unset."""
        if not isinstance(table, dict):
            return handler(table)
        name = table.get(cls.chooser, cls.model_fields[cls.chooser].default)
        # A choice that is none is told of by its own field.
        known = cls.defaults.get(name, {}) if isinstance(name, str) else {}
        given = {key: value for key, value in table.items() if value is not None}
        made = handler({**known, **given})
        # A resumed run is compared with what its file sets, not with defaults.
        made.model_fields_set.intersection_update(given)
        return made

    @model_validator(mode="after")
    def every_option_is_used(self) -> Self:
        """Refuse an option that would change nothing."""
        optional = {key for options in self.defaults.values() for key in options}
        chosen = getattr(self, self.chooser)
        own = self.defaults[chosen]
        unused = [
            key
            for key in sorted(optional - own.keys())
            if getattr(self, key) is not None
        ]
        if unused:
            raise ValueError(
                f"{chosen} does not use {', '.join(unused)}; "
                f"its options are {', '.join(own) or 'none'}"
            )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Values of the options of what is chosen."""
        own = self.defaults[getattr(self, self.chooser)]
        return {key: getattr(self, key) for key in own}


class ErrorMapsConfig(NamedSection):
    """Where the network errs, for ``sampling.adaptive``: E = 1 - p(true class)."""

    chooser: ClassVar[str] = "refresh"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fraction": {
            "refresh_fraction": 0.1,
            "every_steps": None,
            "cases_per_refresh": None,
        },
        "epoch": {"every_steps": 100, "cases_per_refresh": None},
        "concurrent": {"every_steps": 20, "device": "auto", "threads": None},
    }

    epsilon: Fraction = 0.01
    """A patch is accepted with probability min(1, E + epsilon), where E is the error of
    the voxel it lies around. 0: by errors alone; 1: as if not adaptive."""

    draw: Literal["direct", "loop"] = "direct"
    """``loop``: draws until one is accepted, as published; ``direct``: from the same
    distribution without a loop, in a time that neither the size of the volume nor the
    errors change."""

    refresh: Literal["fraction", "epoch", "concurrent"] = "fraction"
    """``fraction``: training pauses to refresh maps for a share of the time, found by
    timing when it starts; ``epoch``: after a number of steps; ``concurrent``: another
    process refreshes them all the time. Only with the first two is a resumed run
    exactly the unbroken one."""

    refresh_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Of ``fraction``: share of the time that goes into predicting training cases.
    Unset: 0.1."""

    every_steps: PositiveInt | None = None
    """Steps between refreshes. Unset: for ``fraction`` by timing, for ``epoch`` 100.
    Of ``concurrent``: steps after which the other process gets new weights; unset:
    20."""

    cases_per_refresh: PositiveInt | None = None
    """Cases predicted at a time. Unset: for ``fraction`` by timing, for ``epoch``
    all."""

    order: Literal["stalest", "random"] = "stalest"
    """Whose turn it is: the cases whose maps are oldest, or any."""

    block_voxels: PositiveInt = 1
    """Edge of the blocks of voxels that share one byte of a map, their mean error."""

    curriculum_steps: NonNegativeInt = 0
    """Steps until all cases are drawn from: at first only the 30 % with the smallest
    errors in their structures, then more and more. 0: all from the start."""

    device: Literal["auto", "cpu", "cuda", "mps"] | None = None
    """Of ``concurrent``: where the other process computes. ``auto``: a GPU of its own
    where there are two, else that of the training."""

    threads: PositiveInt | None = None
    """Of ``concurrent``: CPU threads of the other process, which are taken from the
    training's. Unset: one tenth, at least one."""


class OptimiserConfig(NamedSection):
    """How weights follow gradients."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "adamw": {
            "learning_rate": 3e-3,
            "weight_decay": 1e-2,
            "momentum": 0.9,
            "squares_decay": 0.999,
            "epsilon": 1e-8,
        },
        "adam": {
            "learning_rate": 1e-3,
            "momentum": 0.9,
            "squares_decay": 0.999,
            "epsilon": 1e-8,
        },
        "sgd": {"learning_rate": 3e-3, "weight_decay": 0.0, "momentum": 0.9},
        "rmsprop": {
            "learning_rate": 1e-3,
            "momentum": 0.6,
            "squares_decay": 0.9,
            "epsilon": 1e-4,
        },
        "adadelta": {"learning_rate": 1.0, "squares_decay": 0.95, "epsilon": 1e-6},
    }

    name: Literal["adamw", "adam", "sgd", "rmsprop", "adadelta"] = "adamw"
    """``sgd`` is with Nesterov momentum; ``rmsprop`` is DeepMedic's, with Nesterov
    momentum and ``epsilon`` inside the root. An option that the chosen one does not use
    is an error."""

    learning_rate: PositiveFloat = 3e-3
    """Unset: ``adam`` and ``rmsprop`` 0.001, ``adadelta`` 1, others 0.003."""

    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """AdamW, Adam: decay of the mean gradient. SGD, RMSProp: Nesterov momentum. Unset:
    0.9, ``rmsprop`` 0.6."""

    squares_decay: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Of the mean squared gradient, all but SGD. Unset: 0.999, ``rmsprop`` 0.9,
    ``adadelta`` 0.95."""

    epsilon: PositiveFloat | None = None
    """Keeps the division by the root mean square from being one by zero, all but SGD.
    Unset: 1e-8, ``rmsprop`` 1e-4, ``adadelta`` 1e-6."""

    weight_decay: NonNegativeFloat | None = None
    """Of every parameter. AdamW: share lost per step, times the learning rate, apart
    from the gradient. SGD: what is added to the gradient per weight. Unset: ``adamw``
    0.01, ``sgd`` 0."""

    l1: NonNegativeFloat = 0.0
    """Added to the loss: this times the sum of absolute weights of convolutions and
    linear layers, so neither of biases, norms nor slopes."""

    l2: NonNegativeFloat = 0.0
    """Added to the loss: this times the sum of squares of the same weights; half of the
    "weight decay" of papers that add it to the gradient."""

    regularise_classifier: bool = True
    """Whether ``l1`` and ``l2`` hold for the layers that make logits too."""

    gradient_clip_norm: PositiveFloat = 12.0
    """Largest norm of the gradient of all that the optimiser updates; inf: no limit."""

    @model_validator(mode="after")
    def something_is_regularised(self) -> Self:
        """Refuse an exemption from nothing."""
        if not self.regularise_classifier and self.l1 == self.l2 == 0:
            raise ValueError(
                "regularise_classifier = false changes nothing while l1 and l2 are 0"
            )
        return self


class ScheduleConfig(NamedSection):
    """How the learning rate moves over the run."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "poly": {"power": 0.9, "wait_fraction": 0.0},
        "cosine": {},
        "constant": {},
        "steps": {"drop_at": (), "drop_factor": 0.5},
        "plateau": {"drop_factor": 0.5, "patience_validations": 5},
    }

    name: Literal["poly", "cosine", "constant", "steps", "plateau"] = "poly"
    """``poly``: down to 0 as a power of what is left of the run; ``cosine``: down to 0;
    ``steps``: drops at given points; ``plateau``: drops when validation gets no better.
    An option that the chosen one does not use is an error."""

    power: PositiveFloat | None = None
    """Of ``poly``. Unset: 0.9."""

    wait_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Of ``poly``: share of the run before the decay begins. Unset: 0."""

    drop_at: tuple[PositiveFloat, ...] | None = None
    """Of ``steps``: when the learning rate drops; below 1 a share of the run, from 1 on
    a number of steps."""

    drop_factor: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Of ``steps`` and ``plateau``: what each drop multiplies by. Unset: 0.5."""

    patience_validations: PositiveInt | None = None
    """Of ``plateau``: validations in a row without a new best score, such as mean Dice,
    until the learning rate drops. Unset: 5."""

    warmup_steps: NonNegativeInt = 20
    """Steps of a linear rise at the beginning; the decay runs under it."""

    warmup_start_fraction: PositiveFraction | None = None
    """Of the learning rate at the first step; the whole is reached after
    ``warmup_steps``. Unset: 1 / (``warmup_steps`` + 1)."""

    @model_validator(mode="after")
    def rise_and_drops_exist(self) -> Self:
        """Refuse a rise that takes no time, and drops without points."""
        if self.warmup_start_fraction is not None and self.warmup_steps == 0:
            raise ValueError("warmup_start_fraction changes nothing: warmup_steps is 0")
        if self.drop_at == ():
            raise ValueError(
                "steps needs drop_at, for example [0.5, 0.75]: shares of the run"
            )
        return self


class TransferConfig(Section):
    """What a run begins with that was learned elsewhere, and what of it may change."""

    weights: Path | None = None
    """Folder of a run, an exported model, or ``.safetensors`` or ``.pth`` with weights
    of a classification network in torchvision's naming; relative to the settings file.
    Unset: all weights are drawn."""

    freeze: tuple[str, ...] = ()
    """Modules that do not learn, with all that is inside: ``backbone.layer1``. Their
    batch norms' statistics stay as they are too."""

    learning_rate_factors: dict[str, NonNegativeFloat] = Field({})
    """Name of a module to what multiplies the learning rate of all that is inside; the
    longest name counts."""


class TrainingConfig(Section):
    """Length, randomness and numerics of a run."""

    steps: PositiveInt | None = None
    """Updates of the weights; unset: as many as fit ``budget_seconds``."""

    budget_seconds: PositiveFloat | None = None
    """Wall-clock length of training, validation included."""

    seed: NonNegativeInt = 0
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of the moving average of the weights that is validated and used to predict; 0:
    the weights themselves."""

    batch_norm_batches: PositiveInt | None = None
    """Batches over whose statistics the plain mean is kept for validation and
    prediction (DeepMedic: 60). Unset: means that fade exponentially, as PyTorch has."""

    initialisation: Literal["network", "he", "glorot", "normal"] = "network"
    """Weights of convolutions and linear layers to begin with. ``network``: as its
    authors chose, or its own options say; the others replace those. ``he``: normal,
    variance 2 / inputs; ``glorot``: uniform, variance 2 / (inputs + outputs);
    ``normal``: deviation 0.01."""

    zero_gamma: bool = False
    """Let residual blocks begin as the identity: the scale of their last norm is 0."""

    validate_every_steps: PositiveInt | None = None
    """Unset: ten times in a run."""

    checkpoint_every_seconds: PositiveFloat = 60.0

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto`` is resolved by timing when training starts and then saved."""

    memory_layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: PositiveInt = 1
    """Data-parallel processes, one per device."""

    threads: PositiveInt | None = None
    """CPU threads; unset: all that the machine or container gives."""


class MethodConfig(Section):
    """What is learned from which batches."""

    name: str = "supervised"
    """``supervised``: outlines in patches. ``classification``: only which structures a
    patch shows; its weights start a segmentation network. Or one of a plugin."""


class PluginsConfig(Section, extra="allow"):
    """Options of plugins' losses, samplers and methods: ``plugins.NAME.option``."""

    __pydantic_extra__: dict[str, Any] = Field(init=False)


class PredictionConfig(Section):
    """How whole volumes are predicted, in validation and afterwards."""

    overlap_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Least part of a patch shared with the next. Patches of networks without padding
    adjoin, whatever it says."""

    batch_size: PositiveInt = 2
    """Patches predicted at once."""

    patch_size: Triple | None = None
    """Voxels that the network takes in. Unset: as in training. For networks without
    padding, where it changes speed and memory but not the answer, unset means large
    patches that together put out half a million voxels at most."""


class Settings(Section):
    """Everything that a person chooses about a run; the plan holds the rest."""

    format_version: Literal[1] = 1
    """Of the file; 1 is the only one so far."""

    dataset: Path | None = None
    """Folder or table, relative to the settings file."""

    store: Path | None = None
    """Where preprocessed cases are kept; unset: a folder of the user's cache."""

    splits: SplitsConfig = SplitsConfig()
    sampling: SamplingConfig = SamplingConfig()
    error_maps: ErrorMapsConfig | None = None
    """Unset: as written below, if ``sampling.adaptive``."""

    augmentation: AugmentationConfig = AugmentationConfig()
    method: MethodConfig = MethodConfig()
    loss: LossConfig = LossConfig()
    loss_options: LossOptionsConfig = LossOptionsConfig()
    plugins: PluginsConfig = PluginsConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    transfer: TransferConfig = TransferConfig()
    training: TrainingConfig = TrainingConfig()
    prediction: PredictionConfig = PredictionConfig()

    @model_validator(mode="after")
    def error_maps_are_used(self) -> Self:
        """Refuse error maps that no sampler looks at."""
        if not self.sampling.adaptive and self.error_maps is not None:
            raise ValueError(
                "error_maps changes nothing while sampling.adaptive is false"
            )
        return self

    @model_validator(mode="after")
    def loss_options_are_used(self) -> Self:
        """Refuse options of losses that do not count."""
        unused = [n for n in self.loss_options.changed if n not in self.loss.weights]
        if unused:
            raise ValueError(
                "; ".join(
                    f"loss_options.{name} changes nothing while loss.{name} is 0"
                    for name in unused
                )
            )
        return self
