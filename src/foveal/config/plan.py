"""What follows from the data: grids, intensities, network, patch and batch size."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from foveal.config.networks.registry import NETWORK_SECTIONS
from foveal.config.networks.section import (
    DEFAULT_NETWORK,
    NetworkConfig,
    UnknownNetworkConfig,
)
from foveal.config.sections import Factors, Range, Section, Triple

MOST_LABELS = 254
"""One byte holds these, background and ignored voxels."""

NORMALISATION_OF_OPTION = {
    "clip": "ct",
    "mean": "ct",
    "deviation": "ct",
    "percentiles": "percentiles",
    "cutoffs": "zscore",
}
"""Options of a channel that one normalisation has."""

STANDARD_PERCENTILES = (1.0, *(10.0 * tenth for tenth in range(1, 10)), 99.0)
"""Whose landmarks are learned: deciles, and cut-offs beyond which are outliers."""

LEARN = "learn"
"""In place of landmarks: learn them when a run begins."""

Percentile = Annotated[float, Field(ge=0.0, le=100.0)]
Percentiles = Annotated[tuple[Percentile, ...], Field(min_length=2)]


def _increasing(pair: Range) -> Range:
    _require_increasing("percentiles", pair)
    return pair


PercentileRange = Annotated[tuple[Percentile, Percentile], AfterValidator(_increasing)]


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

    background_value: int = 0
    """Value of background in the user's label maps."""

    regions: dict[str, tuple[str, ...]] = Field({})
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
        taken = [*{0, self.background_value}, *self.values]
        if self.ignore_value is not None:
            taken.append(self.ignore_value)
        if len(set(taken)) != len(taken) or len(set(self.names)) != len(self.names):
            raise ValueError(
                "labels: every label needs its own name and value, "
                "different from 0, labels.background_value and labels.ignore_value"
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


class BiasFieldConfig(Section):
    """How N4 fits the bias field of an MR channel; ``{}`` takes the defaults."""

    shrink_factor: PositiveInt = 4
    """Look at every so many voxels along each axis, of which at least 20 are left; the
    field is interpolated between them."""

    iterations: tuple[PositiveInt, ...] = Field((50, 50, 50, 50), min_length=1)
    """At most so many at each level, each twice as fine as the one before."""


class LandmarksConfig(Section):
    """Landmarks that were learned: where percentiles of a case are brought to."""

    percentiles: Percentiles
    """The outer two are the cut-offs."""

    values: tuple[float, ...] = Field(min_length=2)
    """One per percentile, on a scale from 0 to 100."""

    num_cases: PositiveInt
    """Training cases that they were learned from."""

    @model_validator(mode="after")
    def both_increase(self) -> Self:
        """Refuse lines that would fold intensities over."""
        if len(self.percentiles) != len(self.values):
            raise ValueError(
                f"there are {len(self.percentiles)} percentiles and "
                f"{len(self.values)} values; give one value per percentile"
            )
        _require_increasing("percentiles", self.percentiles)
        _require_increasing("values", self.values)
        return self


class CutoffsConfig(Section):
    """Voxels that have no part in mean and deviation, as in DeepMedic."""

    percentiles: PercentileRange | None = None
    """Leave out up to the one and from the other, such as [5, 95]."""

    deviations: Factors | None = None
    """Leave out what is further below and above the mean than so many standard
    deviations, such as [3, 3]."""

    below_mean: bool = False
    """Leave out what is not brighter than the mean of the whole channel, as air is."""

    @model_validator(mode="after")
    def leaves_something_out(self) -> Self:
        """Refuse a table that changes nothing."""
        if (self.percentiles, self.deviations, self.below_mean) == (None, None, False):
            raise ValueError("set percentiles, deviations or below_mean of cutoffs")
        return self


class ChannelConfig(Section):
    """How the intensities of one channel are brought to a common scale.

    Bias field first, then landmarks, then normalisation.
    """

    name: str

    normalisation: Literal[
        "ct", "zscore", "robust_zscore", "percentiles", "unit", "none"
    ]
    """``ct``: clip, then subtract and divide by constants. All others are per case and
    under the mask. ``zscore``: mean and deviation; ``robust_zscore``: median and
    interquartile range; ``percentiles``: clip to two percentiles, then scale to 0 to 1;
    ``unit``: smallest and largest value become 0 and 1. ``none``: as they are."""

    clip: Range | None = None
    """For ``ct``: lowest and highest value kept (HU)."""

    mean: float | None = None
    """For ``ct``: data set mean of the clipped foreground."""

    deviation: PositiveFloat | None = None
    """For ``ct``: data set standard deviation of the clipped foreground."""

    percentiles: PercentileRange | None = None
    """For ``percentiles``: those clipped to; unset: 2 and 98."""

    cutoffs: CutoffsConfig | None = None
    """For ``zscore``: which voxels have no part in mean and deviation."""

    bias_field: BiasFieldConfig | None = None
    """Correct the bias field with N4; unset: it stays."""

    landmarks: str | LandmarksConfig | None = None
    """Standardise the histogram (Nyul and Udupa): ``"learn"`` from the training cases
    when a run begins, or the path of a run's ``landmarks.json``. A run's own plan has
    the numbers. Unset: it stays."""

    landmark_percentiles: Percentiles | None = None
    """For ``landmarks``; the outer two are the cut-offs. Unset: 1, 10, 20, … 90, 99."""

    @field_validator("landmarks", mode="before")
    @classmethod
    def landmarks_are_one_of_three(cls, value: object) -> object:
        """Say what is wrong with the one that is meant, and not with the others."""
        if isinstance(value, dict):
            return LandmarksConfig.model_validate(value)
        if value is None or isinstance(value, LandmarksConfig) or _is_text(value):
            return value
        raise ValueError(
            'give "learn", the path of a landmarks.json, or a table with percentiles, '
            f"values and num_cases, not {value!r}"
        )

    @model_validator(mode="after")
    def ct_has_constants(self) -> Self:
        """Refuse a CT channel without its data set constants."""
        constants = (self.clip, self.mean, self.deviation)
        if self.normalisation == "ct" and any(value is None for value in constants):
            raise ValueError(
                f'channel "{self.name}": normalisation "ct" needs clip, mean and '
                'deviation; run "foveal plan" to find them'
            )
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError(
                f'channel "{self.name}": clip {list(self.clip)} must not fall'
            )
        return self

    @model_validator(mode="after")
    def options_are_used(self) -> Self:
        """Refuse what is set and would change nothing."""
        for option, normalisation in NORMALISATION_OF_OPTION.items():
            if (
                getattr(self, option) is not None
                and self.normalisation != normalisation
            ):
                raise ValueError(
                    f'channel "{self.name}": {option} is for normalisation '
                    f'"{normalisation}" and not used by "{self.normalisation}"; leave '
                    "it out, or choose that"
                )
        if self.landmark_percentiles is None:
            return self
        if self.landmarks is None:
            raise ValueError(
                f'channel "{self.name}": landmark_percentiles is for landmarks, which '
                'is not set; set landmarks = "learn", or leave it out'
            )
        _require_increasing("landmark_percentiles", self.landmark_percentiles)
        return self

    @model_validator(mode="after")
    def landmarks_are_of_the_percentiles(self) -> Self:
        """Refuse landmarks of other percentiles than those asked for."""
        if isinstance(self.landmarks, LandmarksConfig):
            wanted = self.landmark_percentiles or STANDARD_PERCENTILES
            if self.landmarks.percentiles != wanted:
                raise ValueError(
                    f'channel "{self.name}": the landmarks are of percentiles '
                    f"{list(self.landmarks.percentiles)}, but {list(wanted)} are "
                    "asked for; set landmark_percentiles to those of the landmarks, "
                    "or learn others"
                )
        return self


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _require_increasing(name: str, numbers: Sequence[float]) -> None:
    for before, after in itertools.pairwise(numbers):
        # Not-a-number is refused too.
        if not before < after:
            raise ValueError(
                f"{name} must increase from one to the next, but {before:g} is "
                f"followed by {after:g}"
            )


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

    missing_channel_value: float | None = None
    """Fill a channel that a case lacks (an empty cell of a table) with this after
    normalisation, such as -4, which is far below what is there. Unset: such cases are
    refused."""


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

    are_pictures: bool = False
    """The cases are pictures: every mm above is a pixel, and nothing is left or right
    of a patient."""


class CrfRnnConfig(Section):
    """A fully connected CRF as the last layer of the network, trained with it."""

    iterations: PositiveInt = 5
    """Of mean-field inference in training; the paper's."""

    prediction_iterations: PositiveInt = 10
    """The same in validation and prediction; the paper's."""

    smoothness_mm: PositiveFloat = 3.0
    """Deviation of the smoothness kernel, in mm (pixels of pictures)."""

    appearance_mm: PositiveFloat = 20.0
    """Deviation of the appearance kernel in space, in mm (pixels of pictures)."""

    appearance_deviations: tuple[PositiveFloat, ...] = Field((0.5,), min_length=1)
    """One per channel, or one for all: how unlike two voxels' intensities may be, in
    standard deviations of the channel in the patch."""

    # The paper's 3 and 5 make voxels agree whatever an unsure network says, and a small
    # structure is gone at the first step. From 2 together on, two classes of an
    # undecided network fall to one side by themselves: the slope of
    # w * (2 * sigmoid(z) - 1) at 0 is w / 2.
    smoothness_weight: PositiveFloat = 1.0
    """At the beginning; learned for each class."""

    appearance_weight: PositiveFloat = 1.0
    """At the beginning; learned for each class."""

    normalisation: Literal["symmetric", "before", "after", "none"] = "symmetric"
    """Of the kernels' messages."""


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

    crf_rnn: CrfRnnConfig | None = None
    """Unset: the network has no CRF inside."""

    mirroring: MirroringConfig = MirroringConfig()
    fingerprint: FingerprintConfig | None = None

    networks: ClassVar[Mapping[str, type[NetworkConfig]]] = NETWORK_SECTIONS
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
    def crf_knows_every_channel(self) -> Self:
        """Refuse another number of deviations than of channels."""
        channels = len(self.preprocessing.channels)
        if self.crf_rnn and len(self.crf_rnn.appearance_deviations) not in (
            1,
            channels,
        ):
            raise ValueError(
                "crf_rnn.appearance_deviations has "
                f"{len(self.crf_rnn.appearance_deviations)} values and the image "
                f"{channels} channels; give one per channel, or one for all"
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
