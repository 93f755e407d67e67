"""What is wrong or odd about one case by itself.

A case is an error exactly where `foveal.io.cases.read_case` or planning refuses it: the
same functions check, but here every problem is listed instead of the first.
"""

import hashlib
import itertools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.case import CaseFiles, Dataset, Volume
from foveal.errors import CaseError
from foveal.geometry import reorientation, same_grid
from foveal.io.cases import require_finite, require_intensities, voxel_weights
from foveal.io.label_maps import grid_difference, require_same_grid
from foveal.io.volumes import read_channels, read_volume
from foveal.planning.case_summary import CaseSummary, ChannelSummary
from foveal.planning.fingerprint import AIR_HU, ORIENTATION, body_extent
from foveal.planning.reference_audit import check_reference

LARGEST_OUTSIDE_FRACTION = 0.01
"""Of the voxels of structures; a mask that was fitted well may miss a few."""

VOXELS_LOOKED_AT = 20_000
"""Drawn from a channel to learn its intensities."""

USUAL_PERCENTILES = (5, 50, 95)

DIGEST_BYTES = 16


def audit_case(
    case: CaseFiles, dataset: Dataset, *, resample_channels: bool
) -> CaseSummary:
    """Read every file of a case and check it by itself."""
    summary = CaseSummary(case)
    _check_channels(summary, dataset.channel_names, resample_channels=resample_channels)
    label_map = check_reference(summary, dataset) if case.is_labelled else None
    if case.mask is not None:
        # Of separate masks the numbers are places of combinations, none is ignored.
        ignored = None if case.structure_files else dataset.ignore_value
        _check_mask(summary, case.mask, label_map, ignored)
    if case.weight_map is not None:
        _check_weight_map(summary, case.weight_map)
    return summary


# ------------------------------------------------------------------------- the image


def _check_channels(
    summary: CaseSummary, channel_names: Sequence[str], *, resample_channels: bool
) -> None:
    channels = summary.case.channels
    if summary.case.num_channels != len(channel_names):
        summary.error(
            "number of channels",
            f"the case has {summary.case.num_channels} channel(s), the data set "
            f"{len(channel_names)}: {', '.join(channel_names)}",
            "a network needs every channel of every case",
            "add the missing channel files or take the case out of the data set",
        )
    elif summary.case.missing_channels:
        missing = [channel_names[n] for n in summary.case.missing_channels]
        summary.warning(
            "missing channel",
            f"the case lacks the channel(s) {', '.join(missing)}",
            "it is refused, unless the plan's preprocessing.missing_channel_value says "
            "what they are filled with",
            "add the files, or fill what is missing: "
            "--missing-channel-value -4 in foveal plan, "
            "--set preprocessing.missing_channel_value=-4 in foveal train",
        )
    numbers = iter(summary.case.numbered_channels)
    constants: dict[int, float | None] = {}
    for _, group in itertools.groupby(channels, key=lambda channel: channel.path):
        in_one_file = list(group)
        in_this_file = list(itertools.islice(numbers, len(in_one_file)))
        try:
            volumes = list(read_channels(in_one_file))
        except CaseError as error:
            summary.refused("unreadable image", error)
            continue
        for number, volume in zip(in_this_file, volumes, strict=True):
            is_sound = _check_channel(
                summary,
                f"channel {number}",
                volume,
                resample_channels=resample_channels,
            )
            constants[number] = _constant(volume.array)
            if is_sound and constants[number] is None:
                summary.channels[number] = _channel_summary(volume.array)
            if is_sound and summary.body is None:
                summary.body = _body(summary, number, volume)
    _check_constants(summary, constants)


def _check_channel(
    summary: CaseSummary, name: str, volume: Volume, *, resample_channels: bool
) -> bool:
    """Whether the intensities can be looked at further."""
    summary.grid = summary.grid or volume.grid
    if not resample_channels and not same_grid(summary.grid, volume.grid):
        summary.error(
            "channels on different grids",
            grid_difference("the first channel", summary.grid, name, volume.grid),
            "the case cannot be used as it is",
            "resample the channels onto the first, or let Foveal do so: "
            "--resample-channels here and in foveal plan, "
            "--set preprocessing.resample_channels=true in foveal train",
        )
        return False
    try:
        require_intensities(volume)
    except CaseError as error:
        summary.refused("picture with a palette", error)
        return False
    try:
        require_finite(name, volume.array)
    except CaseError as error:
        summary.refused("voxels that are no numbers", error)
        return False
    return True


def _check_constants(
    summary: CaseSummary, constants: Mapping[int, float | None]
) -> None:
    """Note channels of one value; ``None`` stands for a channel of several."""
    remedy = "export the image again or take the case out of the data set"
    if constants and all(value == 0 for value in constants.values()):
        summary.warning(
            "blank image",
            "the image is 0 everywhere",
            "nothing can be learned from it, and a plan that crops to what is not 0 "
            "would stop at it",
            remedy,
        )
        return
    for number, value in constants.items():
        if value is not None:
            summary.warning(
                "constant channel",
                f"channel {number} is {value:g} everywhere",
                "nothing can be learned from it",
                remedy,
            )


def _constant(array: NDArray[Any]) -> float | None:
    """The value that every voxel has; ``None`` if they differ."""
    first = array.flat[0]
    return float(first) if (array == first).all() else None


def _channel_summary(array: NDArray[Any]) -> ChannelSummary:
    """Look at a channel that is finite and not constant."""
    # The transpose of a stored array is contiguous, so that nothing is copied.
    voxels = np.ascontiguousarray(array.T, np.float32)
    generator = np.random.default_rng(0)
    drawn = voxels.reshape(-1)[generator.integers(voxels.size, size=VOXELS_LOOKED_AT)]
    # A checksum sees every voxel in a fraction of the time that a hash of all takes;
    # with a hash of some, two images do not share both by chance.
    digest = hashlib.blake2b(drawn.tobytes(), digest_size=DIGEST_BYTES)
    digest.update(repr((array.shape, zlib.crc32(voxels.data))).encode())
    values, counts = np.unique(drawn, return_counts=True)
    varied = drawn[drawn != values[counts.argmax()]]
    low, middle, high = np.percentile(
        varied if varied.size else drawn, USUAL_PERCENTILES
    ).tolist()
    lowest = float(voxels.min())
    is_hu_like = lowest < AIR_HU and bool((drawn == np.rint(drawn)).all())
    return ChannelSummary(
        digest=digest.digest(),
        percentiles=(low, middle, high),
        lowest=lowest,
        is_hu_like=is_hu_like,
        varied_share=varied.size / VOXELS_LOOKED_AT,
        nonzero_box=_box(array != 0),
    )


def _body(summary: CaseSummary, number: int, volume: Volume) -> tuple[int, int]:
    channel = summary.channels.get(number)
    ras = reorientation(volume.grid, ORIENTATION).apply(volume.array)
    return body_extent(ras, None, is_hu_like=channel is not None and channel.is_hu_like)


def _box(inside: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Smallest box that holds every true voxel, of which there is at least one."""
    axes = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(inside.any(axis=others))
        axes.append(slice(int(places[0]), int(places[-1]) + 1))
    i, j, k = axes
    return i, j, k


# -------------------------------------------------------------------------- the mask


def _check_mask(
    summary: CaseSummary,
    path: Path,
    label_map: NDArray[np.int32] | None,
    ignore_value: int | None,
) -> None:
    try:
        stored = read_volume(path)
    except CaseError as error:
        summary.refused("unreadable mask", error)
        return
    try:
        if summary.grid is not None:
            require_same_grid("image", summary.grid, "mask", stored.grid)
    except CaseError as error:
        summary.refused("mask on another grid", error)
        return
    inside = stored.array > 0.5
    if not inside.any():
        summary.error(
            "empty mask",
            "the mask is empty: no voxel is above 0.5",
            "nothing of the image would be left",
            "make the mask again or leave it out",
        )
        return
    i, j, k = (axis.stop - axis.start for axis in _box(inside))
    summary.mask_shape = i, j, k
    if label_map is None or label_map.shape != inside.shape:
        return
    structures = label_map != 0
    if ignore_value is not None:
        structures &= label_map != ignore_value
    num_voxels = np.count_nonzero(structures)
    num_outside = np.count_nonzero(structures & ~inside)
    if num_outside > LARGEST_OUTSIDE_FRACTION * num_voxels:
        summary.warning(
            "structures outside the mask",
            f"{num_outside} of {num_voxels} voxels of structures are outside the mask",
            "what the mask cuts off is neither learned nor found",
            "look at the mask: it may be too small, inverted or of another case",
        )


# -------------------------------------------------------------------- the weight map


def _check_weight_map(summary: CaseSummary, path: Path) -> None:
    try:
        stored = read_volume(path)
    except CaseError as error:
        summary.refused("unreadable weight map", error)
        return
    try:
        if summary.grid is not None:
            require_same_grid("image", summary.grid, "weight map", stored.grid)
    except CaseError as error:
        summary.refused("weight map on another grid", error)
        return
    try:
        voxel_weights(stored)
    except CaseError as error:
        summary.refused("no weights", error)
