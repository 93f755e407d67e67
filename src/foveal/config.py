"""Every setting of Foveal, its default, its meaning and its checks.

One namespace in two files: a *plan* holds what follows from the data (grids,
intensities, network shape, patch and batch size), the *settings* hold what a person
chooses (sampling, augmentation, loss, optimiser, length of training). A settings file
may name tables of both; ``--set table.name=value`` reaches both. Unknown names are
errors, so a misspelt one is never ignored.

Losses, networks, samplers and methods are chosen by name, and plugins add to the names.
`Plan` and `Settings` read whatever a run saved, with or without its plugins; what a
person writes is checked by `plan_model` and `settings_model`, which know all names.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    create_model,
    field_validator,
    model_validator,
)

PositiveFraction = Annotated[float, Field(gt=0.0, le=1.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Range = tuple[float, float]
Factors = tuple[PositiveFloat, PositiveFloat]
Triple = tuple[PositiveInt, PositiveInt, PositiveInt]


MOST_LABELS = 254
"""One byte holds these, background and ignored voxels."""


class Section(BaseModel):
    """One table of a settings file; a name that it does not know is an error."""

    # Nothing of pydantic's own is called "model_…" that a setting could hide.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


Model = TypeVar("Model", bound=Section)


# ---------------------------------------------------------------------------- plan


class LabelsConfig(Section):
    """What is segmented: structures, each a label or a union of labels.

    Inside, every voxel is of one class: background is 0, the labels are 1, 2, … in
    order.
    """

    names: tuple[str, ...] = Field(min_length=1)
    """Labels without background, in the order of their inside numbers from 1."""

    values: tuple[int, ...] = Field(min_length=1)
    """Value of each label in the user's label maps."""

    ignore_value: int | None = None
    """Value in the user's label maps whose voxels carry no loss and no score."""

    regions: dict[str, tuple[str, ...]] = {}
    """Structures as unions of labels, which may overlap: region to its labels. Empty:
    every label is a structure. A region's probability is the sum of its labels'."""

    separate_masks: bool = False
    """Predictions are one mask per structure, as the references were."""

    @model_validator(mode="after")
    def names_match_values(self) -> Self:
        """Refuse labels without a value of their own."""
        if len(self.names) != len(self.values):
            raise ValueError(
                f"labels.names has {len(self.names)} entries, "
                f"labels.values {len(self.values)}; give one value per name"
            )
        taken = [0, *self.values]
        if self.ignore_value is not None:
            taken.append(self.ignore_value)
        if len(set(taken)) != len(taken) or len(set(self.names)) != len(self.names):
            raise ValueError(
                "labels: every label needs its own name and value, "
                "different from 0 (background) and labels.ignore_value"
            )
        if len(self.names) > MOST_LABELS:
            raise ValueError(
                f"labels.names has {len(self.names)} labels; at most {MOST_LABELS} fit "
                "one byte per voxel"
            )
        return self

    @model_validator(mode="after")
    def regions_are_unions(self) -> Self:
        """Refuse regions of unknown labels, and labels in no region."""
        if not self.regions:
            return self
        used = {name for names in self.regions.values() for name in names}
        unknown = sorted(used - set(self.names))
        if unknown or any(not names for names in self.regions.values()):
            raise ValueError(
                f"labels.regions must be unions of {list(self.names)}; "
                + (f"unknown: {unknown}" if unknown else "one is empty")
            )
        unused = sorted(set(self.names) - used)
        if unused:
            raise ValueError(
                f"labels {unused} belong to none of labels.regions; add a region for "
                "them"
            )
        return self

    @property
    def num_classes(self) -> int:
        """Labels and background."""
        return len(self.names) + 1

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """What is measured: name to the inside classes whose union it is."""
        if not self.regions:
            return {name: (number,) for number, name in enumerate(self.names, start=1)}
        return {
            region: tuple(sorted(self.names.index(name) + 1 for name in names))
            for region, names in self.regions.items()
        }

    @property
    def combinations(self) -> tuple[frozenset[str], ...]:
        """Structures that each inside class belongs to, background's none first."""
        structures = self.structures.items()
        return tuple(
            frozenset(name for name, numbers in structures if number in numbers)
            for number in range(self.num_classes)
        )

    def swapped_classes(
        self, left_right_pairs: Sequence[tuple[str, str]]
    ) -> tuple[int, ...]:
        """Inside class that each becomes when pairs of structures change places.

        Raises:
            ValueError: A combination of structures has no mirror image.
        """
        partner = both_ways(left_right_pairs)
        combinations = self.combinations
        alike: dict[frozenset[str], list[int]] = {}
        for number, names in enumerate(combinations):
            alike.setdefault(names, []).append(number)
        swapped = list(range(len(combinations)))
        for names, numbers in alike.items():
            mirrored = frozenset(partner.get(name, name) for name in names)
            partners = alike.get(mirrored, [])
            if len(partners) != len(numbers):
                raise ValueError(
                    f'label "{self.names[numbers[0] - 1]}" has no mirror image among '
                    "the labels; take the sagittal axis out of mirroring.axes"
                )
            # Labels that are in the same structures change places in their order.
            for number, other in zip(numbers, partners, strict=True):
                swapped[number] = other
        return tuple(swapped)

    @property
    def structure_values(self) -> dict[str, tuple[int, ...]]:
        """Name of each structure to its values in the user's label maps."""
        return {
            name: tuple(self.values[number - 1] for number in numbers)
            for name, numbers in self.structures.items()
        }


def both_ways(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Partner of every member of a pair."""
    return dict(pairs) | {right: left for left, right in pairs}


class ChannelConfig(Section):
    """How the intensities of one channel are brought to a common scale."""

    name: str

    normalisation: Literal["ct", "robust_zscore", "zscore", "none"]
    """``ct``: clip, then data set mean and deviation. ``robust_zscore``: per case,
    median and interquartile range; ``zscore``: per case, mean and deviation, both under
    the mask. ``none``: values are used as they are."""

    clip: Range | None = None
    """For ``ct``: lowest and highest value kept (HU)."""

    mean: float | None = None
    """For ``ct``: data set mean of the clipped foreground."""

    deviation: PositiveFloat | None = None
    """For ``ct``: data set standard deviation of the clipped foreground."""

    @model_validator(mode="after")
    def ct_has_constants(self) -> Self:
        """Refuse a CT channel without its data set constants."""
        constants = (self.clip, self.mean, self.deviation)
        if self.normalisation == "ct" and any(value is None for value in constants):
            raise ValueError(
                f'channel "{self.name}": normalisation "ct" needs clip, mean and '
                'deviation; run "foveal plan" to find them'
            )
        return self


class PreprocessingConfig(Section):
    """From the files' grids to the grid the network sees."""

    orientation: str = "RAS"
    """World directions of the array axes i, j, k."""

    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """Target voxel edge lengths, in the axis order of ``orientation``."""

    crop: Literal["none", "nonzero", "mask"] = "none"
    """Discard what lies outside the bounding box of the mask, or of the voxels that are
    not zero in every channel."""

    channels: tuple[ChannelConfig, ...] = Field(min_length=1)
    """In the order of the data set's channels."""

    resample_channels: bool = False
    """Bring channels on another grid onto that of the first, instead of refusing."""


DEFAULT_NETWORK = "unet3d"
"""The network of a plan that names none."""


class NetworkConfig(Section):
    """Shape of the network; ``name`` decides which options there are."""

    name: str
    """Of the network, as in `foveal.network`."""

    @property
    def alignment(self) -> tuple[int, int, int]:
        """The patch must be divisible by this, as far as the options tell."""
        return 1, 1, 1


class UnknownNetworkConfig(NetworkConfig, extra="allow"):
    """Options of a network whose plugin was not given; for reading only."""


class UNet3dConfig(NetworkConfig):
    """U-Net whose kernels and strides may differ per axis."""

    name: str = "unet3d"
    """Of the network, as in `foveal.network`. A plugin's has options of its own."""

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128), min_length=1)
    """Channels per stage, finest first."""

    kernels: tuple[Triple, ...] = ((3, 3, 3),) * 4
    """Convolution kernel per stage, in voxels; odd."""

    strides: tuple[Triple, ...] = ((2, 2, 2),) * 3
    """Downsampling into each stage after the first."""

    convolutions: PositiveInt = 2
    """Convolutions per stage, on the way down and on the way up."""

    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation after every convolution."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after each stage, in training."""

    deep_supervision: bool = False
    """Also predict from the coarser stages of the way up while training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth and even kernels."""
        stages = len(self.features)
        if len(self.kernels) != stages or len(self.strides) != stages - 1:
            raise ValueError(
                f"network.features has {stages} stages; network.kernels has "
                f"{len(self.kernels)} entries (needs {stages}) and network.strides "
                f"{len(self.strides)} (needs {stages - 1})"
            )
        if any(size % 2 == 0 for kernel in self.kernels for size in kernel):
            raise ValueError(f"network.kernels {self.kernels} must be odd")
        return self

    @property
    def alignment(self) -> tuple[int, int, int]:
        """The patch must be divisible by this, per axis."""
        i, j, k = (
            math.prod(stride[axis] for stride in self.strides) for axis in range(3)
        )
        return i, j, k


class PatchesConfig(Section):
    """What the network sees at once."""

    size: Triple
    """In voxels of the preprocessed image."""

    batch_size: PositiveInt
    """Patches per step."""


class MirroringConfig(Section):
    """Which axes may be mirrored, and what that does to left and right."""

    axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    """Axes of the preprocessed image that augmentation may reverse."""

    sagittal_axis: Annotated[int, Field(ge=0, le=2)] = 0
    """The axis that runs from left to right."""

    left_right_pairs: tuple[tuple[str, str], ...] = ()
    """Structures that change places when the sagittal axis is mirrored."""


class FingerprintConfig(Section):
    """What was seen of the data set when the plan was made; for reading and warning."""

    num_cases: PositiveInt
    median_shape: tuple[float, float, float]
    """In voxels at the target spacing, after the crop."""

    spacing_mm_range: tuple[Range, Range, Range]
    """Smallest and largest spacing per axis."""

    intensity_ranges: tuple[Range, ...]
    """Per channel, the 0.5 and 99.5 percentiles of the foreground."""

    structure_volumes_ml: dict[str, Range]
    """Per structure, the smallest and largest volume where it is annotated."""

    orientations: tuple[str, ...]
    """Of the files as stored."""

    extent_mm_range: tuple[Range, Range, Range]
    """Smallest and largest extent per axis."""

    image_quantiles: tuple[tuple[Range, Range, Range], ...]
    """Per channel, over the cases the smallest and largest 5, 50 and 95 percentile of
    the whole image."""


class Plan(Section):
    """Everything that follows from the data and the machine; a person may edit it."""

    format_version: Literal[1] = 1
    """Of the file; 1 is the only one so far."""

    dataset_name: str
    """Of the data set that the plan was made from."""

    labels: LabelsConfig
    preprocessing: PreprocessingConfig
    patches: PatchesConfig
    network: SerializeAsAny[NetworkConfig]
    mirroring: MirroringConfig = MirroringConfig()
    fingerprint: FingerprintConfig | None = None

    networks: ClassVar[Mapping[str, type[NetworkConfig]]] = {"unet3d": UNet3dConfig}
    """Name to the section that the table ``network`` is read with."""

    other_networks: ClassVar[type[NetworkConfig]] = UnknownNetworkConfig
    """For all other names."""

    @field_validator("network", mode="before")
    @classmethod
    def network_of_its_name(cls, table: object) -> object:
        """Read the table with the section that its name stands for."""
        if not isinstance(table, dict):
            return table
        name = table.get("name", DEFAULT_NETWORK)
        known = isinstance(name, str) and name in cls.networks
        section = cls.networks[name] if known else cls.other_networks
        return section.model_validate(table)

    @model_validator(mode="after")
    def patch_fits_network(self) -> Self:
        """Refuse a patch that the network would have to crop."""
        size, alignment = self.patches.size, self.network.alignment
        if any(length % step for length, step in zip(size, alignment, strict=True)):
            fitting = tuple(
                step * math.ceil(length / step)
                for length, step in zip(size, alignment, strict=True)
            )
            raise ValueError(
                f"patches.size {size} must be divisible by {alignment}, the product "
                f"of the strides of network {self.network.name}; "
                f"next larger: {fitting}"
            )
        return self

    @model_validator(mode="after")
    def pairs_are_known(self) -> Self:
        """Refuse left/right pairs that are not among the structures."""
        named = {name for pair in self.mirroring.left_right_pairs for name in pair}
        unknown = sorted(named - self.labels.structures.keys())
        if unknown:
            raise ValueError(
                f"mirroring.left_right_pairs names {unknown}; "
                f"the structures are {list(self.labels.structures)}"
            )
        return self

    @model_validator(mode="after")
    def sides_can_change_places(self) -> Self:
        """Refuse mirroring left to right where a label has no mirror image."""
        if self.mirroring.sagittal_axis in self.mirroring.axes:
            self.labels.swapped_classes(self.mirroring.left_right_pairs)
        return self

    @property
    def swapped_classes(self) -> tuple[int, ...]:
        """Inside class that each becomes when left and right change places."""
        if self.mirroring.sagittal_axis not in self.mirroring.axes:
            return tuple(range(self.labels.num_classes))
        return self.labels.swapped_classes(self.mirroring.left_right_pairs)

    @property
    def swapped_structures(self) -> tuple[int, ...]:
        """Place of the structure that each becomes when left and right change."""
        names = list(self.labels.structures)
        partner = both_ways(self.mirroring.left_right_pairs)
        return tuple(names.index(partner.get(name, name)) for name in names)


# ------------------------------------------------------------------------ settings


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

    structure_weights: dict[str, PositiveFloat] = {}
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
    """``supervised``: labelled patches. Or one of a plugin."""


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
    plugins: PluginsConfig = PluginsConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    prediction: PredictionConfig = PredictionConfig()


# ------------------------------------------------------------------------- plugins


@dataclass(frozen=True)
class PartSections:
    """Every name that plan and settings may choose, with its options."""

    networks: Mapping[str, type[NetworkConfig]]
    losses: Collection[str]
    samplers: Collection[str]
    methods: Collection[str]
    plugins: Mapping[str, type[Section]]
    """Options of the losses, samplers and methods that plugins add."""


def network_section(name: str, options: type[Section]) -> type[NetworkConfig]:
    """Section of the plan's table ``network`` for a network with these options."""
    bases: Any = (options, NetworkConfig)
    return cast(
        type[NetworkConfig],
        create_model(options.__name__, __base__=bases, name=(str, name)),
    )


def plan_model(sections: PartSections) -> type[Plan]:
    """`Plan` that refuses networks it does not know."""
    name = (_one_of(sections.networks), ...)

    class KnownPlan(Plan):
        networks: ClassVar[Mapping[str, type[NetworkConfig]]] = sections.networks
        other_networks: ClassVar[type[NetworkConfig]] = create_model(
            "NetworkConfig", __base__=UnknownNetworkConfig, name=name
        )

    return KnownPlan


def settings_model(sections: PartSections) -> type[Settings]:
    """`Settings` that refuse names they do not know and hold plugins' defaults."""
    weights = set(sections.losses) - LossConfig.model_fields.keys()
    tables: dict[str, type[Section]] = {
        "sampling": _narrowed(
            SamplingConfig,
            {"sampler": (_one_of(sections.samplers), SamplingConfig().sampler)},
        ),
        "method": _narrowed(
            MethodConfig, {"name": (_one_of(sections.methods), MethodConfig().name)}
        ),
        "loss": _narrowed(
            LossConfig, dict.fromkeys(sorted(weights), (NonNegativeFloat, 0.0))
        ),
        "plugins": _narrowed(
            PluginsConfig,
            {name: (table, table()) for name, table in sections.plugins.items()},
        ),
    }
    return _narrowed(
        Settings, {name: (table, table()) for name, table in tables.items()}
    )


def _narrowed(section: type[Model], fields: Mapping[str, Any]) -> type[Model]:
    """The same section with some of its names declared, and no others."""
    declared: dict[str, Any] = dict(fields)
    return create_model(
        section.__name__,
        __base__=section,
        __cls_kwargs__={"extra": "forbid"},
        **declared,
    )


def _one_of(names: Collection[str]) -> Any:  # noqa: ANN401 - a type made of values
    """Text that is one of the names."""

    def checked(name: str) -> str:
        if name not in names:
            raise ValueError(
                f'"{name}" is none of {", ".join(names)}; another comes with '
                "--plugin FILE.py"
            )
        return name

    return Annotated[str, AfterValidator(checked)]
