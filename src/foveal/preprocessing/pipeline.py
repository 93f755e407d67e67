"""A case as the network sees it, and the way back to the case's own grid.

Steps: reorient, crop, bring the intensities to a common scale, resample. Labels become
consecutive numbers of one byte.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foveal.case import Case
from foveal.errors import CaseError
from foveal.geometry import (
    Grid,
    Reorientation,
    cropped_grid,
    reorientation,
    resampled_grid,
)
from foveal.preprocessing.bias_field import without_bias_field
from foveal.preprocessing.crop import (
    Window,
    bounding_box,
    nonzero_voxels,
    whole_window,
)
from foveal.preprocessing.histogram_standardisation import case_landmarks
from foveal.preprocessing.intensity import IntensityRecipe, normalise
from foveal.preprocessing.labels import (
    classes_of_combinations,
    classes_shown,
    inside_label_map,
    without_unannotated,
)
from foveal.preprocessing.missing_channels import require_filling
from foveal.preprocessing.resample import (
    resample_channel,
    resample_label_map,
    resample_mask,
    resampled_shape,
)

NUMBERS_VERSION = 1
"""Raised when the same recipe gives other numbers than before."""


@dataclass(frozen=True)
class PreprocessingRecipe:
    """Everything that decides what becomes of a case; names as in the plan."""

    orientation: str
    """World directions of the array axes, for example ``"RAS"``."""

    spacing_mm: tuple[float, float, float]
    """Wanted, in the axis order of ``orientation``."""

    crop: Literal["none", "nonzero", "mask"]
    channels: tuple[IntensityRecipe, ...]

    label_values: tuple[int, ...]
    """Value of each label, in the order of inside classes from 1."""

    combinations: tuple[tuple[str, ...], ...]
    """Structures of each label, in the same order."""

    ignore_value: int | None = None
    """Label value whose voxels become `IGNORED`."""

    resample_channels: bool = False
    """Whether channels on another grid are brought onto that of the first."""

    missing_channel_value: float | None = None
    """What a channel that a case lacks is filled with, after normalisation; ``None``:
    such cases are refused."""

    @property
    def num_classes(self) -> int:
        """Labels and background."""
        return len(self.label_values) + 1

    @property
    def class_combinations(self) -> tuple[frozenset[str], ...]:
        """Structures of every inside class, background's none first."""
        return (frozenset(), *(frozenset(names) for names in self.combinations))

    @property
    def digest(self) -> str:
        """Differs if results may differ; names of channels do not matter."""
        content = asdict(self) | {"numbers_version": NUMBERS_VERSION}
        for channel in content["channels"]:
            del channel["name"]
        if self.missing_channel_value is None:
            # What was stored before there was this option is still right.
            del content["missing_channel_value"]
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Restoration:
    """How to bring what lies on the preprocessed grid back to the case's own."""

    original: Grid
    """Of the case as stored."""

    reorientation: Reorientation

    window: Window
    """Of the crop in the reoriented volume."""

    preprocessed_shape: tuple[int, int, int]
    """The crop's shape after resampling."""

    @property
    def cropped_shape(self) -> tuple[int, int, int]:
        """Voxels of the crop before resampling."""
        i, j, k = (axis.stop - axis.start for axis in self.window)
        return i, j, k

    @property
    def reoriented_shape(self) -> tuple[int, int, int]:
        """Voxels of the whole volume once reoriented."""
        i, j, k = (self.original.shape[axis] for axis in self.reorientation.permutation)
        return i, j, k


@dataclass(frozen=True, eq=False)
class PreprocessedCase:
    """A case on the grid and the scale that the network sees."""

    image: NDArray[np.float32]
    """``(channel, i, j, k)``."""

    label_map: NDArray[np.uint8] | None
    """Inside labels ``(i, j, k)``."""

    grid: Grid
    restoration: Restoration

    mask: NDArray[np.bool_] | None
    """``(i, j, k)``; may be empty where it was thinner than the voxels."""

    weight_map: NDArray[np.float32] | None
    """``(i, j, k)``, not negative, and not 0 everywhere."""

    missing_channels: Mapping[int, float] = field(default_factory=dict)
    """Number of a channel that the case lacks to the value that fills it, which also
    lies beyond its borders."""

    region: NDArray[np.bool_] | None = None
    """Voxels of the crop, before resampling, that may hold a structure: the mask, where
    the recipe crops to masks. ``None``: all may."""


def preprocess_case(
    case: Case,
    recipe: PreprocessingRecipe,
    *,
    annotated: Sequence[str] | None = None,
) -> PreprocessedCase:
    """Bring a case to the grid and scale of a recipe.

    Statistics of the case are taken under its mask; without one, from the voxels that
    are not zero in some channel if the recipe crops to them, else from all.

    Args:
        case: As read.
        recipe: What to do.
        annotated: Structures contoured in the case; ``None``: all. The label map says
            nothing of the others, see `classes_shown`.

    Channels that the case lacks have no part in anything; they are filled at last.

    Raises:
        CaseError: The case lacks channels or the mask that the recipe needs, holds an
            unknown label, is empty, has intensities that cannot be normalised, or a
            weight map that is 0 wherever it is kept.
    """
    try:
        return _preprocess(case, recipe, annotated)
    except CaseError as error:
        raise CaseError(f"case {case.name}: {error}") from error


def landmarks_of_case(
    case: Case,
    recipe: PreprocessingRecipe,
    percentiles: Mapping[int, Sequence[float]],
) -> dict[int, tuple[float, ...]]:
    """What landmarks are learned from, see `case_landmarks`, of some channels.

    Taken where `preprocess_case` takes statistics, after the bias field is corrected.

    Args:
        case: As read.
        recipe: Its landmarks and normalisations have no part.
        percentiles: Number of a channel to its percentiles.

    Returns:
        Number of a channel to its landmarks; a channel that the case lacks is left out.

    Raises:
        CaseError: As of `preprocess_case`, or a channel has no landmarks.
    """
    try:
        image, inside, _, _ = _cropped(case, recipe)
        return {
            number: _landmarks_of_channel(
                image[number], inside, recipe.channels[number], wanted
            )
            for number, wanted in percentiles.items()
            if number not in case.missing_channels
        }
    except CaseError as error:
        raise CaseError(f"case {case.name}: {error}") from error


def _landmarks_of_channel(
    channel: NDArray[np.float32],
    inside: NDArray[np.bool_] | None,
    recipe: IntensityRecipe,
    percentiles: Sequence[float],
) -> tuple[float, ...]:
    with _naming_channel(recipe.name):
        channel = np.ascontiguousarray(channel)
        if recipe.bias_field is not None:
            channel = without_bias_field(channel, inside, recipe.bias_field)
        return case_landmarks(channel, inside, percentiles)


@contextmanager
def _naming_channel(name: str) -> Iterator[None]:
    """Say in every error which channel it is about."""
    try:
        yield
    except CaseError as error:
        raise CaseError(f'channel "{name}": {error}') from error


def _preprocess(
    case: Case, recipe: PreprocessingRecipe, annotated: Sequence[str] | None
) -> PreprocessedCase:
    image, inside, change, window = _cropped(case, recipe)
    grid = cropped_grid(change.apply_to_grid(case.grid), window)
    shape = resampled_shape(grid.shape, grid.spacing_mm, recipe.spacing_mm)
    mask = None if case.mask is None else change.apply(case.mask)[window]
    missing = dict.fromkeys(case.missing_channels, recipe.missing_channel_value or 0.0)
    return PreprocessedCase(
        image=_preprocessed_image(image, inside, recipe.channels, missing, shape),
        missing_channels=missing,
        label_map=_preprocessed_label_map(case, recipe, annotated, window, shape),
        grid=grid if shape == grid.shape else resampled_grid(grid, shape),
        restoration=Restoration(case.grid, change, window, shape),
        mask=None if mask is None else resample_mask(mask, shape),
        weight_map=None
        if case.weight_map is None
        else _preprocessed_weight_map(change.apply(case.weight_map), window, shape),
        region=mask if recipe.crop == "mask" else None,
    )


def _cropped(
    case: Case, recipe: PreprocessingRecipe
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, Reorientation, Window]:
    """Channels of the crop, its voxels to take statistics from, and the way there."""
    if len(case.image) != len(recipe.channels):
        names = ", ".join(channel.name for channel in recipe.channels)
        raise CaseError(
            f"it has {len(case.image)} channel(s), the plan needs "
            f"{len(recipe.channels)} ({names}); give them in this order"
        )
    require_filling(
        case.missing_channels,
        [channel.name for channel in recipe.channels],
        recipe.missing_channel_value,
    )
    change = reorientation(case.grid, recipe.orientation)
    image = change.apply(case.image)
    mask = None if case.mask is None else change.apply(case.mask)
    inside, window = _inside_and_window(image, mask, recipe.crop)
    if inside is not None and not inside.any():
        raise CaseError(
            "its mask holds no voxel of the image; correct the mask or leave it out"
        )
    return image[:, *window], inside, change, window


def _inside_and_window(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_] | None,
    crop: Literal["none", "nonzero", "mask"],
) -> tuple[NDArray[np.bool_] | None, Window]:
    """Voxels of the crop to take statistics from (``None``: all), and the crop."""
    match crop:
        case "none":
            return mask, whole_window(image.shape[1:])
        case "nonzero":
            nonzero = nonzero_voxels(image)
            window = bounding_box(nonzero)
            return (nonzero if mask is None else mask)[window], window
        case "mask":
            if mask is None:
                raise CaseError(
                    "it has no mask, but the plan crops to masks; add one, or set "
                    'preprocessing.crop of the plan to "nonzero" or "none"'
                )
            window = bounding_box(mask)
            return mask[window], window


def _preprocessed_image(
    image: NDArray[np.float32],
    inside: NDArray[np.bool_] | None,
    recipes: tuple[IntensityRecipe, ...],
    missing: Mapping[int, float],
    shape: tuple[int, int, int],
) -> NDArray[np.float32]:
    result = np.empty((len(recipes), *shape), np.float32)
    for number, (channel, recipe, preprocessed) in enumerate(
        zip(image, recipes, result, strict=True)
    ):
        if number in missing:
            preprocessed[...] = missing[number]
            continue
        with _naming_channel(recipe.name):
            normalised = normalise(np.ascontiguousarray(channel), recipe, inside)
        if not np.isfinite(normalised).all():
            raise CaseError(
                f'channel "{recipe.name}" has values from {channel.min():g} to '
                f'{channel.max():g}, which "{recipe.normalisation}" cannot bring to a '
                "finite scale; correct the image or choose another normalisation"
            )
        preprocessed[...] = resample_channel(normalised, shape)
    return result


def reference_classes(
    case: Case, recipe: PreprocessingRecipe, annotated: Sequence[str] | None = None
) -> NDArray[np.uint8] | None:
    """Inside classes of a case's reference, reoriented, neither cropped nor resampled.

    Args:
        case: As read.
        recipe: What its label map means.
        annotated: Structures contoured in the case; ``None``: all.

    Returns:
        ``(i, j, k)``, 255 where the class is not known; ``None`` without a reference.

    Raises:
        CaseError: The label map holds an unknown label.
    """
    if case.label_map is None:
        return None
    combinations = recipe.class_combinations
    if case.combinations is None:
        class_of = {0: 0} | {
            value: number for number, value in enumerate(recipe.label_values, start=1)
        }
        ignore_value = recipe.ignore_value
    else:
        class_of = classes_of_combinations(case.combinations, combinations, annotated)
        ignore_value = None
    change = reorientation(case.grid, recipe.orientation)
    numbered = inside_label_map(change.apply(case.label_map), class_of, ignore_value)
    return without_unannotated(numbered, classes_shown(combinations, annotated))


def _preprocessed_label_map(
    case: Case,
    recipe: PreprocessingRecipe,
    annotated: Sequence[str] | None,
    window: Window,
    shape: tuple[int, int, int],
) -> NDArray[np.uint8] | None:
    numbered = reference_classes(case, recipe, annotated)
    if numbered is None:
        return None
    return resample_label_map(np.ascontiguousarray(numbered[window]), shape)


def _preprocessed_weight_map(
    weight_map: NDArray[np.float32], window: Window, shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Weights of the crop, from those of the reoriented volume."""
    resampled = resample_channel(np.ascontiguousarray(weight_map[window]), shape)
    if not resampled.any():
        raise CaseError(
            "its weight map is 0 in all that cropping and resampling leave; give some "
            "voxels there a weight, or leave the weight map out"
        )
    return resampled
