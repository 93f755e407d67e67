"""From fingerprints to a plan: each rule returns its choice and the reason in words.

Rules after nnU-Net (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z,
and its version 2). They differ: CT is recognised by its values too, volumes are cropped
only where it pays, and left and right are looked at.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from foveal.config.networks.unet import UNet2dConfig, UNet3dConfig, UNetConfig
from foveal.config.plan import (
    MOST_LABELS,
    ChannelConfig,
    FingerprintConfig,
    LabelsConfig,
    MirroringConfig,
    PatchesConfig,
    Plan,
    PreprocessingConfig,
)
from foveal.config.sections import Range
from foveal.errors import DatasetError
from foveal.io import pictures
from foveal.planning.fingerprint import ORIENTATION, SAGITTAL_AXIS, CaseFingerprint
from foveal.planning.left_right import (
    Mirroring,
    SidePositions,
    choose_mirroring,
    mirroring_of_pictures,
)
from foveal.planning.memory import Budget, UNetShape
from foveal.planning.network_size import choose_network, times

ANISOTROPY = 3.0
"""An axis is coarse if its spacing exceeds the others' by this factor and its length
falls below theirs by as much."""

COARSE_AXIS_PERCENTILE = 10
"""Of the cases' spacing, taken on a coarse axis."""

CROP_SAVING = 0.25
"""Least median share of voxels that a crop to non-zero voxels must save."""

FOREGROUND_PERCENTILES = (0.5, 99.5)

PICTURES_REASON = (
    "Grid: the pixels as they are, axis 0 to the right and axis 1 down; they have "
    "neither a size nor a patient's axes, and count as 1 mm where a unit is needed"
)

_CT_WORDS = {"ct", "cta", "ncct", "cect", "cbct", "ldct", "hu"}
_OTHER_WORDS = {
    *("mr", "mri", "t1", "t1c", "t1w", "t1ce", "t1gd", "t2", "t2w", "flair", "dwi"),
    *("adc", "swi", "pd", "dce", "pet", "suv", "us", "ultrasound"),
}


def make_plan(
    fingerprints: Sequence[CaseFingerprint],
    *,
    dataset_name: str,
    channel_names: Sequence[str],
    labels: LabelsConfig,
    budget: Budget,
    resample_channels: bool = False,
    missing_channel_value: float | None = None,
) -> tuple[Plan, list[str]]:
    """Choose grids, intensities, network, patch and batch.

    Args:
        fingerprints: Of the labelled cases, at least one.
        dataset_name: Repeated in the plan.
        channel_names: In the order of the cases' channels.
        labels: See `choose_labels`.
        budget: What a training step may cost.
        resample_channels: Repeated in the plan.
        missing_channel_value: Likewise.

    Returns:
        The plan and one line in plain words per decision or warning.

    Raises:
        DatasetError: There is no labelled case, or no foreground in any.
        SettingsError: Not even the smallest patch fits the budget.
    """
    are_pictures = all(case.is_picture for case in fingerprints)
    if not fingerprints:
        raise DatasetError(
            "no case has a label map; a plan needs some. Name the label maps in the "
            "data set"
        )
    spacing_mm, spacing_reason = target_spacing(
        [case.spacing_mm for case in fingerprints],
        [case.shape for case in fingerprints],
    )
    crop, crop_reason = choose_crop(fingerprints)
    channels, channel_reasons = _channels(fingerprints, channel_names)
    median_shape = _median_shape(fingerprints, spacing_mm, crop)
    chosen = choose_network(
        median_shape,
        spacing_mm,
        in_channels=len(channels),
        num_classes=labels.num_classes,
        budget=budget,
        slice_axis=slice_axis(fingerprints),
        has_millimetres=not are_pictures,
    )
    mirroring = choose_mirroring(
        tuple(labels.structures), _side_positions(fingerprints)
    )
    if are_pictures:
        mirroring = mirroring_of_pictures(mirroring)
    axes, mirror_reasons = _possible_mirroring(mirroring, labels)
    plan = Plan(
        dataset_name=dataset_name,
        labels=labels,
        preprocessing=PreprocessingConfig(
            orientation=pictures.ORIENTATION if are_pictures else ORIENTATION,
            spacing_mm=spacing_mm,
            crop=crop,
            channels=channels,
            resample_channels=resample_channels,
            missing_channel_value=missing_channel_value,
        ),
        patches=PatchesConfig(size=chosen.patch_size, batch_size=chosen.batch_size),
        network=_network_section(chosen.network, slice_axis(fingerprints)),
        mirroring=MirroringConfig(
            axes=axes,
            sagittal_axis=SAGITTAL_AXIS,
            left_right_pairs=mirroring.left_right_pairs,
        ),
        fingerprint=_summary(fingerprints, labels, median_shape),
    )
    reasons = [
        (
            f"Data: labelled cases {len(fingerprints)}, channels "
            f"{', '.join(channel_names)}, structures {', '.join(labels.structures)}"
        ),
        *(
            [PICTURES_REASON]
            if are_pictures
            else [_orientation_reason(fingerprints), spacing_reason]
        ),
        crop_reason,
        *channel_reasons,
        *chosen.reasons,
        *mirroring.reasons,
        *mirror_reasons,
        *_absent_structures(fingerprints, labels),
    ]
    return plan, reasons


# ---------------------------------------------------------------------- the network


def slice_axis(fingerprints: Sequence[CaseFingerprint]) -> int | None:
    """Axis along which every case has one slice, so that a network is 2D; or none."""
    flat = [axis for axis in range(3) if all(c.shape[axis] == 1 for c in fingerprints)]
    return max(flat, default=None)


def _network_section(network: UNetShape, slice_axis: int | None) -> UNetConfig:
    """The network as the plan writes it; a 2D one without the axis of one slice."""
    options = {
        "features": network.features,
        "convolutions": network.convolutions,
    }
    if slice_axis is None:
        return UNet3dConfig(kernels=network.kernels, strides=network.strides, **options)

    def in_plane(
        triples: Sequence[tuple[int, int, int]],
    ) -> tuple[tuple[int, ...], ...]:
        return tuple(
            triple[:slice_axis] + triple[slice_axis + 1 :] for triple in triples
        )

    return UNet2dConfig(
        kernels=in_plane(network.kernels),
        strides=in_plane(network.strides),
        **options,
    )


# ------------------------------------------------------------------------- the grid


def target_spacing(
    spacings_mm: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]
) -> tuple[tuple[float, float, float], str]:
    """Spacing that every case is resampled to, and why.

    The median on every axis. Where one axis is coarse (three times the spacing of the
    others and a third of their length) the 10th percentile is taken on it, never finer
    than the others: the median would blur the better half of the scans.

    Args:
        spacings_mm: Per case, in axis order.
        shapes: Per case, in voxels.

    References:
        nnU-Net's ``determine_fullres_target_spacing``.
    """
    spacings = np.asarray(spacings_mm, dtype=np.float64)
    target = np.median(spacings, axis=0)
    lengths = np.median(np.asarray(shapes, dtype=np.float64), axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    is_coarse = target[coarse] > ANISOTROPY * max(target[others]) and lengths[
        coarse
    ] * ANISOTROPY < min(lengths[others])
    if is_coarse:
        fine = np.percentile(spacings[:, coarse], COARSE_AXIS_PERCENTILE)
        target[coarse] = max(fine, max(target[others]))
    i, j, k = (_rounded(float(length)) for length in target)
    text = f"Spacing: {times((i, j, k))} mm"
    if np.allclose(spacings, target, rtol=1e-3):
        return (i, j, k), f"{text}, which all cases have"
    text += ", the median of the cases"
    if is_coarse:
        text += (
            f"; axis {coarse} is coarse, so its "
            f"{COARSE_AXIS_PERCENTILE}th percentile keeps the detail of the finer scans"
        )
    ranges = [
        f"{low:.4g}-{high:.4g}"
        for low, high in zip(spacings.min(axis=0), spacings.max(axis=0), strict=True)
    ]
    return (i, j, k), f"{text} (they range over {' x '.join(ranges)} mm)"


def choose_crop(
    fingerprints: Sequence[CaseFingerprint],
) -> tuple[Literal["none", "nonzero", "mask"], str]:
    """What lies outside the body and can be discarded, and why."""
    if all(case.mask_shape is not None for case in fingerprints):
        return "mask", "Crop: to the mask, which every case has"
    saved = float(
        np.median(
            [
                1 - math.prod(case.nonzero_shape) / math.prod(case.shape)
                for case in fingerprints
            ]
        )
    )
    text = f"the box of the non-zero voxels saves {100 * saved:.0f} % of the voxels"
    if saved > CROP_SAVING:
        return "nonzero", f"Crop: {text} in the median case"
    return "none", f"Crop: none; {text} only"


def _median_shape(
    fingerprints: Sequence[CaseFingerprint],
    spacing_mm: Sequence[float],
    crop: Literal["none", "nonzero", "mask"],
) -> tuple[float, float, float]:
    """Median size after crop and resampling, in voxels."""
    kept = {
        "none": [case.shape for case in fingerprints],
        "nonzero": [case.nonzero_shape for case in fingerprints],
        "mask": [case.mask_shape for case in fingerprints],
    }[crop]
    own_spacings = np.array([case.spacing_mm for case in fingerprints])
    lengths = np.maximum(1, np.rint(np.array(kept) * own_spacings / spacing_mm))
    i, j, k = np.median(lengths, axis=0).tolist()
    return i, j, k


def _orientation_reason(fingerprints: Sequence[CaseFingerprint]) -> str:
    stored = sorted({case.stored_orientation for case in fingerprints})
    return (
        f"Orientation: axes run to the patient's right, front and top ({ORIENTATION}), "
        "so that anatomy points the same way in every case; stored as "
        + ", ".join(stored)
    )


# ------------------------------------------------------------------- the intensities


def _channels(
    fingerprints: Sequence[CaseFingerprint], names: Sequence[str]
) -> tuple[tuple[ChannelConfig, ...], list[str]]:
    if not any(case.intensities.size for case in fingerprints):
        raise DatasetError(
            "no label map has a voxel of a listed structure; check the label values"
        )
    chosen = []
    reasons = []
    for number, name in enumerate(names):
        having = _having_channel(fingerprints, number)
        channel, reason = choose_normalisation(
            name,
            _foreground_intensities(having, number, name),
            hu_like_share=float(np.mean([case.is_hu_like[number] for case in having])),
        )
        chosen.append(channel)
        reasons.append(reason)
        if len(having) < len(fingerprints):
            reasons.append(
                f"Missing: {len(fingerprints) - len(having)} of {len(fingerprints)} "
                f"cases lack {name}, which is filled with a constant there"
            )
    return tuple(chosen), reasons


def _having_channel(
    fingerprints: Sequence[CaseFingerprint], number: int
) -> list[CaseFingerprint]:
    """Cases that do not lack a channel."""
    return [case for case in fingerprints if number not in case.missing_channels]


def _foreground_intensities(
    having: Sequence[CaseFingerprint], number: int, name: str
) -> np.ndarray:
    """Drawn from the structures of all cases that have a channel, 1-D.

    Raises:
        DatasetError: There are none.
    """
    intensities = [case.intensities[number] for case in having]
    if not any(values.size for values in intensities):
        raise DatasetError(
            f"channel {name} is missing in every labelled case that has a structure; "
            "add it to some of them, or take the channel out of the data set"
        )
    return np.concatenate(intensities)


def choose_normalisation(
    name: str, foreground: np.ndarray, *, hu_like_share: float
) -> tuple[ChannelConfig, str]:
    """How one channel's intensities are brought to a common scale, and why.

    CT numbers mean the same in every scan, so they share constants of the data set;
    other intensities are arbitrary and scaled case by case.

    Args:
        name: Of the channel; decides where it says CT or another modality.
        foreground: Intensities drawn from the structures of all cases, 1-D.
        hu_like_share: Of the cases, whose values look like CT numbers.
    """
    words = {word.lower() for word in re.split(r"[^A-Za-z0-9]+", name)}
    is_named_ct = bool(words & _CT_WORDS)
    looks_like_ct = hu_like_share > 0.5 and not words & _OTHER_WORDS
    low, high = np.percentile(foreground, FOREGROUND_PERCENTILES).tolist()
    clipped = np.clip(foreground.astype(np.float64), low, high)
    deviation = float(clipped.std())
    if not (is_named_ct or looks_like_ct) or deviation == 0:
        return ChannelConfig(name=name, normalisation="robust_zscore"), (
            f"Normalisation: {name}: each case by its own median and interquartile "
            "range, as its intensities have no common scale"
        )
    channel = ChannelConfig(
        name=name,
        normalisation="ct",
        clip=(_rounded(low), _rounded(high)),
        mean=_rounded(float(clipped.mean())),
        deviation=_rounded(deviation),
    )
    evidence = "its name" if is_named_ct else "whole numbers below -500"
    return channel, (
        f"Normalisation: {name}: CT by {evidence}; clipped to {low:.4g} to {high:.4g} "
        "(99 % of the structures' voxels), then the data set's mean "
        f"{clipped.mean():.4g} and deviation {deviation:.4g}"
    )


# ------------------------------------------------------------------- the structures


def choose_labels(
    fingerprints: Sequence[CaseFingerprint],
    *,
    label_values: Mapping[str, int],
    regions: Mapping[str, Sequence[int]],
    ignore_value: int | None,
    has_structure_files: bool,
    background_value: int = 0,
) -> tuple[LabelsConfig, list[str]]:
    """Disjoint labels for what is segmented, and why.

    Label maps bring their labels. Where every structure has a mask of its own, each
    combination of structures that lies over one another somewhere becomes a label, and
    the structures are regions of these.

    Args:
        fingerprints: Of the labelled cases.
        label_values: Label to value on disk.
        regions: Region to label values; see `Dataset.regions`.
        ignore_value: Label value without meaning.
        has_structure_files: Whether references are one mask per structure.
        background_value: Of the label maps.
    """
    if not has_structure_files:
        _require_few(len(label_values), "the data set lists")
        name_of = {value: name for name, value in label_values.items()}
        return LabelsConfig(
            names=tuple(label_values),
            values=tuple(label_values.values()),
            ignore_value=ignore_value,
            background_value=background_value,
            regions={
                region: tuple(name_of[value] for value in values)
                for region, values in regions.items()
            },
        ), []
    known = _known_combinations(fingerprints)
    overlaps = sorted(
        (names for names in known if len(names) > 1),
        key=lambda names: (len(names), sorted(names)),
    )
    covered = frozenset[str]().union(*overlaps)
    singles = [
        name
        for name in label_values
        if frozenset({name}) in known or name not in covered
    ]
    order = {name: place for place, name in enumerate(label_values)}
    named = {
        "+".join(sorted(names, key=order.__getitem__)): names for names in overlaps
    }
    _require_few(len(singles) + len(named), "the masks make, with their overlaps,")
    first_free = max(label_values.values()) + 1
    labels = LabelsConfig(
        names=(*singles, *named),
        values=(
            *(label_values[name] for name in singles),
            *range(first_free, first_free + len(named)),
        ),
        regions={
            name: (
                *([name] if name in singles else []),
                *(label for label, names in named.items() if name in names),
            )
            for name in label_values
        }
        if named
        else {},
        separate_masks=True,
    )
    if not named:
        return labels, ["Labels: one mask per structure; no two of them overlap"]
    return labels, [
        (
            "Labels: one mask per structure; they overlap, so inside there is a label "
            f"for every combination: {', '.join(labels.names)}. The probability of a "
            "structure is the sum over its labels"
        )
    ]


def _require_few(num_labels: int, who: str) -> None:
    if num_labels > MOST_LABELS:
        raise DatasetError(
            f"{who} {num_labels} labels, but at most {MOST_LABELS} fit one byte per "
            "voxel; leave structures out, or mend masks that should not overlap "
            "(foveal check lists overlaps of a few voxels)"
        )


def _known_combinations(
    fingerprints: Sequence[CaseFingerprint],
) -> set[frozenset[str]]:
    """Combinations of structures that need a label of their own.

    Where some structures were not annotated, a combination may be the visible part of
    one that is known from other cases; then it needs none.
    """
    known = {
        names
        for case in fingerprints
        if case.is_annotated_in_full
        for names in case.combinations
    }
    for case in fingerprints:
        looked_at = frozenset(case.structure_volumes_ml)
        visible = {names & looked_at for names in known}
        known |= case.combinations - visible
    return known


def _possible_mirroring(
    mirroring: Mirroring, labels: LabelsConfig
) -> tuple[tuple[int, ...], list[str]]:
    """Axes without the sagittal one if a combination has no mirror image, and why."""
    if SAGITTAL_AXIS not in mirroring.axes:
        return mirroring.axes, []
    try:
        labels.swapped_classes(mirroring.left_right_pairs)
    except ValueError as error:
        others = tuple(axis for axis in mirroring.axes if axis != SAGITTAL_AXIS)
        return others, [f"Mirroring: off after all, as {error}"]
    return mirroring.axes, []


def _side_positions(fingerprints: Sequence[CaseFingerprint]) -> list[SidePositions]:
    return [
        SidePositions(case.structure_offsets, case.structure_volumes_ml)
        for case in fingerprints
    ]


def _absent_structures(
    fingerprints: Sequence[CaseFingerprint], labels: LabelsConfig
) -> list[str]:
    present = {name for case in fingerprints for name in case.structure_offsets}
    return [
        f"Warning: {name} occurs in no case and cannot be learnt"
        for name in labels.structures
        if name not in present
    ]


def _summary(
    fingerprints: Sequence[CaseFingerprint],
    labels: LabelsConfig,
    median_shape: tuple[float, float, float],
) -> FingerprintConfig:
    channels = range(len(fingerprints[0].image_quantiles))
    percentiles = [
        np.percentile(
            np.concatenate(
                [case.intensities[n] for case in _having_channel(fingerprints, n)]
            ),
            FOREGROUND_PERCENTILES,
        ).tolist()
        for n in channels
    ]
    volumes: dict[str, tuple[float, float]] = {}
    for name in labels.structures:
        measured = [
            case.structure_volumes_ml[name]
            for case in fingerprints
            if name in case.structure_volumes_ml
        ]
        if measured:
            volumes[name] = _rounded(min(measured)), _rounded(max(measured))
    return FingerprintConfig(
        num_cases=len(fingerprints),
        median_shape=median_shape,
        spacing_mm_range=_ranges([case.spacing_mm for case in fingerprints]),
        intensity_ranges=tuple(
            (_rounded(low), _rounded(high)) for low, high in percentiles
        ),
        structure_volumes_ml=volumes,
        orientations=tuple(sorted({case.stored_orientation for case in fingerprints})),
        extent_mm_range=_ranges(
            [np.multiply(case.shape, case.spacing_mm).tolist() for case in fingerprints]
        ),
        image_quantiles=tuple(
            _ranges(
                [case.image_quantiles[n] for case in _having_channel(fingerprints, n)]
            )
            for n in channels
        ),
        are_pictures=all(case.is_picture for case in fingerprints),
    )


def _ranges(triples: Sequence[Sequence[float]]) -> tuple[Range, Range, Range]:
    """Smallest and largest of the first, second and third numbers."""
    first, second, third = (
        (_rounded(float(min(values))), _rounded(float(max(values))))
        for values in zip(*triples, strict=True)
    )
    return first, second, third


def _rounded(value: float) -> float:
    """Six digits: more than the data warrant, and readable in a file."""
    return float(f"{value:.6g}")
