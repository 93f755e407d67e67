"""Everything that a person chooses, and the tables that have no file of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from foveal.config.augmentation import AugmentationConfig
from foveal.config.losses import LossConfig, LossOptionsConfig
from foveal.config.methods import (
    METHOD_SECTIONS,
    MethodConfig,
    SupervisedConfig,
    UnknownMethodConfig,
)
from foveal.config.optimisation import OptimiserConfig, ScheduleConfig, TransferConfig
from foveal.config.sampling import ErrorMapsConfig, SamplingConfig
from foveal.config.sections import Section, Triple


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
    method: SerializeAsAny[MethodConfig] = SupervisedConfig()
    loss: LossConfig = LossConfig()
    loss_options: LossOptionsConfig = LossOptionsConfig()
    plugins: PluginsConfig = PluginsConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    transfer: TransferConfig = TransferConfig()
    training: TrainingConfig = TrainingConfig()
    prediction: PredictionConfig = PredictionConfig()

    methods: ClassVar[Mapping[str, type[MethodConfig]]] = METHOD_SECTIONS
    """Name to the section that the table ``method`` is read with."""

    other_methods: ClassVar[type[MethodConfig]] = UnknownMethodConfig
    """For all other names."""

    @field_validator("method", mode="before")
    @classmethod
    def method_of_its_name(cls, table: object) -> object:
        """Read the table with the section that its name stands for."""
        if not isinstance(table, dict):
            return table
        name = table.get("name", SupervisedConfig().name)
        known = isinstance(name, str) and name in cls.methods
        section = cls.methods[name] if known else cls.other_methods
        return section.model_validate(table)

    @property
    def error_map_rules(self) -> ErrorMapsConfig:
        """How error maps are used and refreshed, written down or not."""
        return self.error_maps or ErrorMapsConfig()

    @model_validator(mode="after")
    def error_maps_are_used(self) -> Self:
        """Refuse error maps that no sampler looks at."""
        if not self.sampling.adaptive and self.error_maps is not None:
            raise ValueError(
                "error_maps changes nothing while sampling.adaptive is false; leave "
                "the table out, or set sampling.adaptive = true"
            )
        return self

    @model_validator(mode="after")
    def averages_are_of_weights(self) -> Self:
        """Refuse averages of what is an average already, or never sees a batch."""
        if not self.method.predicts_with_average:
            return self
        if self.training.ema_decay:
            raise ValueError(
                f"training.ema_decay {self.training.ema_decay:g} would average the "
                f"teacher of method {self.method.name}, which is an average already; "
                "set method.decay, and leave training.ema_decay out"
            )
        if self.training.batch_norm_batches is not None:
            raise ValueError(
                f"training.batch_norm_batches {self.training.batch_norm_batches} is of "
                "batches that the predictor sees, and the teacher of method "
                f"{self.method.name} sees none: it has the average of the student's "
                "statistics; leave it out"
            )
        return self

    @model_validator(mode="after")
    def method_has_weights(self) -> Self:
        """Refuse a method that needs a trained network, without one."""
        if self.method.begins_with_weights and self.transfer.weights is None:
            raise ValueError(
                f"method {self.method.name} begins with a trained network, which "
                "labels the unlabelled cases; train one on the labelled cases (foveal "
                "train DATASET --out runs/first) and set transfer.weights=runs/first"
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
