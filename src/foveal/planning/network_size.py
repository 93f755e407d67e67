"""Network, patch and batch: as large as a training step's budget allows.

Depth and kernels after nnU-Net (Isensee et al. 2021,
https://doi.org/10.1038/s41592-020-01008-z). They differ: the patch keeps the
proportions of the median case, and the arithmetic of a step is bounded as well as its
memory, so that a CPU makes many small steps instead of few large ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foveal.errors import SettingsError
from foveal.planning.memory import (
    BYTES_PER_GB,
    Budget,
    UNetShape,
    unet_training_bytes,
    unet_training_flops,
)

SAME_SCALE = 2.0
"""Axes whose spacings differ by no more than this factor are treated alike."""

SHORTEST_POOLED = 8
"""An axis is halved while it has at least this many voxels, so that 4 remain."""

SHORTEST_PATCH = 16
"""A patch is not shrunk below this on any axis that is as long."""

LEAST_BATCH = 2

SLICES_PER_VOLUME = 4
"""Times more patches of one slice to a step: they show less of a case than volumes."""


class _Design(NamedTuple):
    """Sizes that suit a kind of device."""

    first_features: int
    most_features: int
    most_stages: int
    largest_batch: int
    """On a CPU two patches cost twice as much as one, so that in the same time smaller
    batches give more updates: after one minute of the hippocampus benchmark, batches of
    2 are better than of 4. A GPU is not busy with two."""


_DESIGNS = {"cpu": _Design(16, 256, 5, 2), "gpu": _Design(32, 320, 6, 8)}


@dataclass(frozen=True)
class NetworkChoice:
    """What a training step works on and with."""

    network: UNetShape
    patch_size: tuple[int, int, int]
    """In voxels, divisible by the network's alignment."""

    batch_size: int
    reasons: tuple[str, ...]


def choose_network(
    median_shape: Sequence[float],
    spacing_mm: Sequence[float],
    *,
    in_channels: int,
    num_classes: int,
    budget: Budget,
    slice_axis: int | None = None,
    has_millimetres: bool = True,
) -> NetworkChoice:
    """U-Net, patch size and batch size that a step's budget allows.

    The patch has the proportions of the median case and is as large as two patches per
    step allow, at most the case itself; what is then left makes the batch larger.

    Args:
        median_shape: Of the preprocessed cases, in voxels.
        spacing_mm: Of the preprocessed cases, in axis order.
        in_channels: Of the image.
        num_classes: Including background.
        budget: Of one training step. A bound on its arithmetic that not even the
            smallest patch meets is ignored: slow is better than not at all.
        slice_axis: Along which every case has one slice; then the network is 2D.
        has_millimetres: Whether ``spacing_mm`` is known, for the reasons.

    Raises:
        SettingsError: Not even the smallest patch fits the memory.
    """
    limit = None
    for scale in np.linspace(1.0, 0.01, 100).tolist():
        network, patch_size = _candidate(
            scale, median_shape, spacing_mm, in_channels, num_classes, budget.device
        )
        exceeded = _exceeded(network, patch_size, LEAST_BATCH, budget)
        if exceeded is None:
            break
        limit = exceeded
    if exceeded == "memory":
        needed = unet_training_bytes(network, patch_size, LEAST_BATCH)
        raise SettingsError(
            f"a training step needs at least {needed / BYTES_PER_GB:.2g} GB; there are "
            f"{budget.memory_bytes / BYTES_PER_GB:.2g} GB ({budget.origin}). Free "
            "memory or state more"
        )
    batch_size = LEAST_BATCH
    largest_batch = _DESIGNS[budget.device].largest_batch
    if slice_axis is not None:
        largest_batch *= SLICES_PER_VOLUME
    while (
        batch_size < largest_batch
        and _exceeded(network, patch_size, batch_size + 1, budget) is None
    ):
        batch_size += 1
    reasons = (
        _patch_reason(
            patch_size, median_shape, spacing_mm if has_millimetres else None, limit
        ),
        _network_reason(network, budget, slice_axis),
        *_cost_reasons(network, patch_size, batch_size, budget),
    )
    return NetworkChoice(network, patch_size, batch_size, reasons)


def unet_stages(
    patch_size: Sequence[float], spacing_mm: Sequence[float], most_stages: int
) -> tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]]:
    """Kernels and strides of a U-Net that sees every axis at the same scale.

    An axis is halved while it is long enough and its spacing is within a factor of 2
    of the finest axis that can be halved; so a coarse axis waits until the others have
    caught up. Its kernel is 1 until then, and stays 3 afterwards.

    Args:
        patch_size: Wanted, in voxels.
        spacing_mm: Of the image, in axis order.
        most_stages: At least 1.

    Returns:
        Kernel per stage and stride into each stage after the first.
    """
    lengths = [float(length) for length in patch_size]
    spacing = [float(length) for length in spacing_mm]
    kernels = [_kernel(lengths, spacing, (1, 1, 1))]
    strides: list[tuple[int, int, int]] = []
    while len(kernels) < most_stages:
        long_enough = [axis for axis in range(3) if lengths[axis] >= SHORTEST_POOLED]
        if not long_enough:
            break
        finest = min(spacing[axis] for axis in long_enough)
        halved = [axis for axis in long_enough if spacing[axis] <= SAME_SCALE * finest]
        for axis in halved:
            lengths[axis] /= 2
            spacing[axis] *= 2
        i, j, k = (2 if axis in halved else 1 for axis in range(3))
        strides.append((i, j, k))
        kernels.append(_kernel(lengths, spacing, kernels[-1]))
    return tuple(kernels), tuple(strides)


def _kernel(
    lengths: Sequence[float], spacing_mm: Sequence[float], above: Sequence[int]
) -> tuple[int, int, int]:
    """Kernel of a stage; ``above`` is that of the next finer one."""
    axes = list(zip(lengths, spacing_mm, above, strict=True))
    # An axis of one voxel has no scale of its own.
    finest = min((step for length, step, _ in axes if length > 1), default=math.inf)
    i, j, k = (
        3 if size == 3 or (length > 1 and step <= SAME_SCALE * finest) else 1
        for length, step, size in axes
    )
    return i, j, k


def _candidate(
    scale: float,
    median_shape: Sequence[float],
    spacing_mm: Sequence[float],
    in_channels: int,
    num_classes: int,
    device: str,
) -> tuple[UNetShape, tuple[int, int, int]]:
    """Network and patch for a share of the median case's lengths."""
    design = _DESIGNS[device]
    wanted = [
        max(scale * length, min(length, SHORTEST_PATCH)) for length in median_shape
    ]
    kernels, strides = unet_stages(wanted, spacing_mm, design.most_stages)
    features = tuple(
        min(design.first_features * 2**stage, design.most_features)
        for stage in range(len(kernels))
    )
    network = UNetShape(in_channels, num_classes, features, kernels, strides)
    # The nearest multiple, not the next larger: voxels beyond the case cost time and
    # teach nothing (hippocampus, one minute: Dice 0.851 instead of 0.844).
    i, j, k = (
        step * max(1, math.ceil(length / step - 0.5))
        for length, step in zip(wanted, network.alignment, strict=True)
    )
    return network, (i, j, k)


def _exceeded(
    network: UNetShape, patch_size: Sequence[int], batch_size: int, budget: Budget
) -> str | None:
    """Which part of the budget a step exceeds; ``None`` if it fits."""
    if unet_training_bytes(network, patch_size, batch_size) > budget.memory_bytes:
        return "memory"
    if unet_training_flops(network, patch_size, batch_size) > budget.flops:
        return "arithmetic"
    return None


def _patch_reason(
    patch_size: Sequence[int],
    median_shape: Sequence[float],
    spacing_mm: Sequence[float] | None,
    limit: str | None,
) -> str:
    text = f"Patch: {times(patch_size)} "
    if spacing_mm is None:
        text += "pixels; "
    else:
        extent_mm = np.multiply(patch_size, spacing_mm).tolist()
        text += f"voxels ({times(extent_mm)} mm); "
    if limit is None:
        return f"{text}nearest to the median case of {times(median_shape)}"
    covered = math.prod(
        min(1.0, length / whole)
        for length, whole in zip(patch_size, median_shape, strict=True)
    )
    return (
        f"{text}{100 * covered:.0f} % of the median case of {times(median_shape)}, in "
        f"its proportions; {LEAST_BATCH} larger ones would exceed the {limit} that a "
        "step may take"
    )


def _network_reason(network: UNetShape, budget: Budget, slice_axis: int | None) -> str:
    thin = [
        str(axis)
        for axis in range(3)
        if network.kernels[0][axis] == 1 and axis != slice_axis
    ]
    name = "unet3d" if slice_axis is None else "unet2d, as every case is one slice,"
    return (
        f"Network: {name} with {', '.join(map(str, network.features))} features, a "
        f"width for a {budget.device.upper()}; halved {times(network.alignment)}-fold, "
        f"as long as at least {SHORTEST_POOLED // 2} voxels remain"
        + (
            f"; axis {', '.join(thin)} is coarse or flat: no convolution along it "
            "until the others have become as coarse"
            if thin
            else ""
        )
    )


def _cost_reasons(
    network: UNetShape, patch_size: Sequence[int], batch_size: int, budget: Budget
) -> tuple[str, str]:
    work = unet_training_flops(network, patch_size, batch_size)
    needed = unet_training_bytes(network, patch_size, batch_size)
    batch = (
        f"Batch: {batch_size} patches per step, {work / 1e9:.0f} GFLOP; "
        f"{budget.flops / 1e9:.0f} keep a step below about half a second"
    )
    memory = (
        f"Memory: about {needed / BYTES_PER_GB:.2g} GB per training step, of "
        f"{budget.memory_bytes / BYTES_PER_GB:.2g} GB ({budget.origin})"
    )
    return batch, memory


def times(lengths: Sequence[float]) -> str:
    """Lengths in words: ``40 x 56 x 40``."""
    return " x ".join(f"{length:.4g}" for length in lengths)
