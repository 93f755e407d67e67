"""Disk and memory that a data set will need, estimated before anything is written."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveal.geometry import reorientation
from foveal.planning.case_summary import CaseSummary
from foveal.planning.findings import Finding
from foveal.planning.fingerprint import ORIENTATION
from foveal.planning.memory import (
    BYTES_PER_GB,
    BYTES_PER_NUMBER,
    available_memory_bytes,
)
from foveal.planning.plan import CROP_SAVING, target_spacing

STORED_SHARE = 0.95
"""Of the bytes of voxels that do not have the commonest value, after compression, with
labels and lists of voxels; measured 0.9 in MR, less in CT, whose values repeat."""

READING_BYTES = 32
"""Per voxel beside the image itself: the file's content, a label map of floating
numbers and its check."""


@dataclass(frozen=True)
class Resources:
    """What preprocessing will need beside what there is."""

    store_bytes: float
    """Of all cases in the store, about."""

    free_disk_bytes: int
    """Where the store is."""

    largest_case: str | None
    """Needs most memory; ``None`` if no case can be read."""

    memory_bytes: float
    """To read and preprocess it, about."""

    available_memory_bytes: int


def needed_resources(
    summaries: Sequence[CaseSummary], num_channels: int, store: Path
) -> Resources:
    """Estimate what preprocessing the cases will need.

    Args:
        summaries: Of all cases; those that cannot be read are left out.
        num_channels: Of every case.
        store: Folder for preprocessed cases; need not exist yet.
    """
    sound = [summary for summary in summaries if summary.channels and summary.grid]
    stored_bytes, memory_bytes = 0.0, dict[str, float]()
    target_mm = _target_spacing_mm(sound)
    is_cropped = _is_cropped(sound)
    for summary in sound:
        if summary.grid is None or summary.kept_shape is None:
            continue
        shape = np.array(summary.kept_shape if is_cropped else summary.grid.shape)
        order = list(reorientation(summary.grid, ORIENTATION).permutation)
        spacing_mm = np.array(summary.grid.spacing_mm)[order]
        resampled = float(np.prod(np.maximum(1, shape[order] * spacing_mm / target_mm)))
        voxels = float(np.prod(summary.grid.shape))
        share = np.mean([channel.varied_share for channel in summary.channels.values()])
        # What a crop cuts off is of the commonest value, so the rest varies more.
        varied = min(float(share) * voxels / float(np.prod(shape)), 1.0)
        image_bytes = num_channels * BYTES_PER_NUMBER
        stored_bytes += STORED_SHARE * varied * image_bytes * resampled
        memory_bytes[summary.case.name] = voxels * image_bytes + max(
            voxels * READING_BYTES, resampled * (image_bytes + READING_BYTES / 2)
        )
    largest = max(memory_bytes, key=lambda name: memory_bytes[name], default=None)
    return Resources(
        store_bytes=stored_bytes,
        free_disk_bytes=shutil.disk_usage(_existing(store)).free,
        largest_case=largest,
        memory_bytes=0.0 if largest is None else memory_bytes[largest],
        available_memory_bytes=available_memory_bytes(),
    )


def shortages(resources: Resources) -> list[Finding]:
    """Warn where disk or memory will not do."""
    findings = []
    if resources.store_bytes > resources.free_disk_bytes:
        findings.append(
            Finding(
                "disk",
                "warning",
                f"the store will take about {in_gb(resources.store_bytes)}, and "
                f"{in_gb(resources.free_disk_bytes)} are free there",
                "preprocessing would stop when the disk is full, unless the store "
                "holds these cases already",
                "free some space, or keep the store on another disk (--store)",
            )
        )
    if resources.memory_bytes > resources.available_memory_bytes:
        findings.append(
            Finding(
                "memory",
                "warning",
                f"preprocessing {resources.largest_case} takes about "
                f"{in_gb(resources.memory_bytes)} of memory, and "
                f"{in_gb(resources.available_memory_bytes)} are available",
                "the machine would come to a halt or end the program",
                "close other programs, crop the scan or use a larger machine",
            )
        )
    return findings


def in_gb(count: float) -> str:
    """Bytes as people say them."""
    if count < BYTES_PER_GB / 10:
        return f"{count / 1e6:.3g} MB"
    return f"{count / BYTES_PER_GB:.3g} GB"


def _target_spacing_mm(summaries: Sequence[CaseSummary]) -> np.ndarray:
    """Spacing that a plan would choose, in the axis order of `ORIENTATION`."""
    labelled = [summary for summary in summaries if summary.structures] or summaries
    spacings, shapes = [], []
    for summary in labelled:
        if summary.grid is not None:
            turned = reorientation(summary.grid, ORIENTATION).apply_to_grid(
                summary.grid
            )
            spacings.append(turned.spacing_mm)
            shapes.append(turned.shape)
    if not spacings:
        return np.ones(3)
    spacing_mm, _ = target_spacing(spacings, shapes)
    return np.array(spacing_mm)


def _is_cropped(summaries: Sequence[CaseSummary]) -> bool:
    """Whether a plan would crop to masks or to what is not 0."""
    if not summaries:
        return False
    if all(summary.mask_shape is not None for summary in summaries):
        return True
    saved = [
        1 - np.prod(summary.kept_shape) / np.prod(summary.grid.shape)
        for summary in summaries
        if summary.grid is not None and summary.kept_shape is not None
    ]
    return float(np.median(saved)) > CROP_SAVING


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
