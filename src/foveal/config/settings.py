"""What a person chooses: sampling, augmentation, loss, optimiser, length of a run."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from foveal.config.sections import (
    Factors,
    Fraction,
    PositiveFraction,
    Section,
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
    """How training patches are drawn."""

    sampler: str = "class_balanced"
    """``uniform``: anywhere. ``class_balanced``: a share of the patches contains a
    voxel of a class drawn first. Or one of a plugin."""

    foreground_fraction: Fraction = 0.5
    """For ``class_balanced``: share of patches drawn for a class, the rest anywhere."""

    structure_weights: dict[str, PositiveFloat] = Field({})
    """For ``class_balanced``: structure to relative chance; empty: all alike."""


class AugmentationConfig(Section):
    """Changes of training patches; each ``_probability`` is per patch."""

    rotation_probability: Fraction = 0.2
    rotation_degrees: NonNegativeFloat = 30.0
    """Largest angle about each axis; on strongly anisotropic grids only in plane."""

    scaling_probability: Fraction = 0.2
    scaling: Factors = (0.7, 1.4)
    shear_probability: Fraction = 0.0
    shear: NonNegativeFloat = 0.1
    """Largest shift per unit length."""

    translation_probability: Fraction = 0.0
    translation_voxels: NonNegativeFloat = 4.0
    elastic_probability: Fraction = 0.0
    elastic_spacing_voxels: PositiveFloat = 16.0
    """Distance of the control points."""

    elastic_voxels: NonNegativeFloat = 3.0
    """Standard deviation of the control points' displacement."""

    mirror_probability: Fraction = 0.5
    """Per axis of ``mirroring.axes``."""

    noise_probability: Fraction = 0.1
    noise_deviation: tuple[NonNegativeFloat, NonNegativeFloat] = (0.0, 0.3)
    blur_probability: Fraction = 0.1
    blur_sigma_voxels: Factors = (0.5, 1.0)
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


class LossConfig(Section, extra="allow"):
    """Weighted sum of losses; a weight of 0 leaves one out.

    A plugin's losses have their weights here too; they are 0 unless set.
    """

    __pydantic_extra__: dict[str, NonNegativeFloat] = Field(init=False)

    cross_entropy: NonNegativeFloat = 1.0
    dice: NonNegativeFloat = 1.0
    border_cross_entropy: NonNegativeFloat = 0.0
    """Cross entropy with ``[border_weights]``; usually instead of ``cross_entropy``."""

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


class BorderWeightsConfig(Section):
    """How much gaps between objects count in ``loss.border_cross_entropy``.

    Objects are the connected parts of the structures; gaps are background.
    """

    factor: NonNegativeFloat = 10.0
    """Weight that the narrowest gap adds to the 1 that every voxel has."""

    sigma_voxels: PositiveFloat = 5.0
    """The weight falls by 40 % where the distances to two objects sum to this."""


class OptimiserConfig(Section):
    """How weights follow gradients."""

    name: Literal["adamw", "sgd"] = "adamw"
    """``sgd`` is with Nesterov momentum."""

    learning_rate: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 1e-2
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """AdamW: first moment's decay. SGD: Nesterov momentum."""

    gradient_clip_norm: PositiveFloat = 12.0


class ScheduleConfig(Section):
    """How the learning rate moves over the run."""

    name: Literal["poly", "cosine", "constant"] = "poly"
    power: PositiveFloat = 0.9
    """Of ``poly``."""

    warmup_steps: NonNegativeInt = 20


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
    """Least part of a patch shared with the next."""

    batch_size: PositiveInt = 2
    """Patches predicted at once."""


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
    augmentation: AugmentationConfig = AugmentationConfig()
    method: MethodConfig = MethodConfig()
    loss: LossConfig = LossConfig()
    border_weights: BorderWeightsConfig = BorderWeightsConfig()
    plugins: PluginsConfig = PluginsConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    prediction: PredictionConfig = PredictionConfig()
