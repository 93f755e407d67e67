"""What the labelled cases of a data set are like: all that a plan is made from."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveal.case import Case, CaseFiles
from foveal.errors import CaseError
from foveal.geometry import reorientation
from foveal.in_threads import for_each
from foveal.io.cases import read_case
from foveal.io.pictures import is_picture

ORIENTATION = "RAS"
"""Of every preprocessed image: i to the right, j to the front, k to the top."""

SAGITTAL_AXIS = 0
"""The axis of `ORIENTATION` that runs from left to right."""

INTENSITIES_PER_CASE = 10_000
"""Foreground voxels drawn per case, so that large cases do not outweigh small ones."""

INTENSITIES_IN_ALL = 4_000_000
"""Of many cases fewer are drawn from each, so that memory does not grow with them."""

AIR_HU = -500.0
"""CT values below are air; no other modality reaches them as a rule."""

BODY_TAIL_FRACTION = 0.01
"""Share of the body's voxels cut from either end when its width is measured: a table or
noise beside the body is no part of it."""

QUANTILES = (0.05, 0.5, 0.95)
"""Of the whole image: its dark end, middle and bright end, past single voxels."""

VOXELS_LOOKED_AT = 200_000
"""Spread evenly; quantiles of so many are right to a small part of a percent."""

Quantiles = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class CaseFingerprint:
    """One labelled case in numbers; shapes and spacings are in `ORIENTATION`."""

    name: str
    stored_orientation: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    nonzero_shape: tuple[int, int, int]
    """Of the box around the voxels that are not zero in every channel."""

    mask_shape: tuple[int, int, int] | None
    """Of the box around the mask; ``None`` without a mask."""

    intensities: NDArray[np.float32]
    """Drawn from the annotated foreground, ``(channel, drawn)``; nothing is drawn where
    there is no foreground. Of a missing channel they mean nothing."""

    image_quantiles: tuple[Quantiles, ...]
    """Per channel, see `image_quantiles`."""

    is_hu_like: tuple[bool, ...]
    """Per channel: whole numbers that reach below `AIR_HU`."""

    structure_volumes_ml: dict[str, float]
    """Of every annotated structure; 0 where it is absent."""

    structure_offsets: dict[str, float]
    """Signed distance of the centroid of every present structure from the body's
    midplane, in body widths, negative to the patient's left."""

    combinations: frozenset[frozenset[str]]
    """Structures that lie over one another somewhere, and those that lie alone."""

    is_annotated_in_full: bool
    """Whether every structure was contoured."""

    missing_channels: tuple[int, ...] = ()
    """Numbers of channels that the case lacks."""

    is_picture: bool = False
    """Its voxels are pixels, of no size and in nobody's body."""


def fingerprint_cases(
    cases: Sequence[CaseFiles],
    structures: Mapping[str, Sequence[int]],
    *,
    ignore_value: int | None,
    threads: int,
    resample_channels: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> tuple[CaseFingerprint, ...]:
    """Read labelled cases and look at each.

    Args:
        cases: With label maps.
        structures: Name to label values, see `Dataset.structures`.
        ignore_value: Label value that says nothing about the voxel.
        resample_channels: See `read_case`.
        threads: Cases read at once; each is held in memory meanwhile.
        on_progress: Told cases done, cases in all and the name of the last.

    Returns:
        In the order of ``cases``.

    Raises:
        CaseError: A case cannot be read or holds a label that is not listed.
    """
    drawn = min(INTENSITIES_PER_CASE, INTENSITIES_IN_ALL // max(len(cases), 1))

    def look(files: CaseFiles) -> CaseFingerprint:
        return case_fingerprint(
            read_case(files, resample_channels=resample_channels),
            structures,
            annotated=files.annotated,
            ignore_value=ignore_value,
            intensities_drawn=drawn,
        )

    return tuple(
        for_each(
            look,
            cases,
            threads=threads,
            name=lambda files: files.name,
            on_progress=on_progress,
        )
    )


def case_fingerprint(
    case: Case,
    structures: Mapping[str, Sequence[int]],
    *,
    annotated: Sequence[str] | None = None,
    ignore_value: int | None = None,
    intensities_drawn: int = INTENSITIES_PER_CASE,
) -> CaseFingerprint:
    """Measure one labelled case.

    Args:
        case: In stored order.
        structures: Name to label values, see `Dataset.structures`.
        annotated: Structures contoured in this case; ``None``: all.
        ignore_value: Label value that says nothing about the voxel.
        intensities_drawn: Foreground voxels to draw, at most.

    Raises:
        CaseError: The case has no label map, or one with values that are not listed.
    """
    if case.label_map is None:
        raise CaseError(f"case {case.name} has no label map to plan from")
    change = reorientation(case.grid, ORIENTATION)
    grid = change.apply_to_grid(case.grid)
    image = change.apply(case.image)
    label_map = np.ascontiguousarray(change.apply(case.label_map))
    mask = None if case.mask is None else change.apply(case.mask)
    is_hu_like = tuple(_is_hu_like(channel) for channel in case.image)

    voxels = np.flatnonzero(label_map)
    values, value_of_voxel = np.unique(label_map.flat[voxels], return_inverse=True)
    meaning = case.meaning(structures)
    _refuse_unknown_labels(case.name, values, [*meaning, ignore_value])
    looked_at = tuple(structures if annotated is None else annotated)
    combinations = [
        meaning.get(int(value), frozenset()) & set(looked_at) for value in values
    ]
    first = next(n for n in range(len(image)) if n not in case.missing_channels)
    left, right = body_extent(image[first], mask, is_hu_like=is_hu_like[first])
    sagittal_index = np.unravel_index(voxels, label_map.shape)[SAGITTAL_AXIS]
    counts = np.bincount(value_of_voxel, minlength=len(values))
    sums = np.bincount(value_of_voxel, sagittal_index, minlength=len(values))
    places = {
        name: [n for n, names in enumerate(combinations) if name in names]
        for name in looked_at
    }
    is_foreground = np.array([bool(names) for names in combinations], dtype=bool)
    return CaseFingerprint(
        name=case.name,
        stored_orientation=case.grid.orientation,
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        nonzero_shape=_box_shape(np.any(image != 0, axis=0)),
        mask_shape=None if mask is None else _box_shape(mask),
        intensities=_drawn_intensities(
            image,
            voxels[is_foreground[value_of_voxel]],
            case.name,
            most=intensities_drawn,
        ),
        image_quantiles=image_quantiles(case.image),
        is_hu_like=is_hu_like,
        structure_volumes_ml={
            name: grid.voxel_volume_ml * int(counts[found].sum())
            for name, found in places.items()
        },
        structure_offsets={
            name: float(
                (sums[found].sum() / counts[found].sum() - (left + right) / 2)
                / (right - left + 1)
            )
            for name, found in places.items()
            if found
        },
        combinations=frozenset(combinations) - {frozenset()},
        is_annotated_in_full=annotated is None,
        missing_channels=case.missing_channels,
        is_picture=case.path is not None and is_picture(case.path),
    )


def body_extent(
    channel: NDArray[np.float32], mask: NDArray[np.bool_] | None, *, is_hu_like: bool
) -> tuple[int, int]:
    """First and last index of the body along the sagittal axis.

    The body is the mask; without one what is not air in CT and what is brighter than
    the mean in other images.

    Args:
        channel: ``(i, j, k)`` in `ORIENTATION`.
        mask: Of the body, on the same grid.
        is_hu_like: Whether ``channel`` holds CT values.

    Returns:
        The whole axis where nothing counts as body.
    """
    if mask is None:
        mask = channel > (AIR_HU if is_hu_like else channel.mean())
    across = tuple(axis for axis in range(3) if axis != SAGITTAL_AXIS)
    share = np.cumsum(np.count_nonzero(mask, axis=across), dtype=np.float64)
    if share[-1] == 0:
        return 0, len(share) - 1
    share /= share[-1]
    first = int(np.searchsorted(share, BODY_TAIL_FRACTION, side="right"))
    last = int(np.searchsorted(share, 1 - BODY_TAIL_FRACTION))
    return first, last


def image_quantiles(image: NDArray[np.float32]) -> tuple[Quantiles, ...]:
    """The `QUANTILES` of each channel of an image, background and all.

    Args:
        image: ``(channel, i, j, k)``; of a large one, every so many voxels are taken.
    """
    apart = max(1, int((image[0].size / VOXELS_LOOKED_AT) ** (1 / 3)))
    sample = image[:, ::apart, ::apart, ::apart].reshape(len(image), -1)
    rows = np.quantile(sample, QUANTILES, axis=1).T.tolist()
    return tuple((low, middle, high) for low, middle, high in rows)


def _is_hu_like(channel: NDArray[np.float32]) -> bool:
    return bool(channel.min() < AIR_HU and np.array_equal(channel, np.rint(channel)))


def _refuse_unknown_labels(
    name: str, values: NDArray[np.integer], known: Sequence[int | None]
) -> None:
    unknown = [int(value) for value in values if int(value) not in known]
    if unknown:
        listed = [value for value in known if value is not None]
        raise CaseError(
            f"case {name}: the label map holds {unknown[:10]}; the data set lists "
            f"{listed}. Name the labels in the data set or correct the label map"
        )


def _box_shape(inside: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Shape of the box around the true voxels; of the whole array if there are none."""
    lengths = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        indices = np.flatnonzero(inside.any(axis=others))
        lengths.append(
            int(indices[-1] - indices[0] + 1) if len(indices) else inside.shape[axis]
        )
    i, j, k = lengths
    return i, j, k


def _drawn_intensities(
    image: NDArray[np.float32], foreground: NDArray[np.intp], name: str, *, most: int
) -> NDArray[np.float32]:
    """Draw foreground voxels with replacement, the same at every run for a name."""
    if len(foreground) > most:
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        foreground = foreground[generator.integers(len(foreground), size=most)]
    places = np.unravel_index(foreground, image.shape[1:])
    return np.stack([channel[places] for channel in image])
