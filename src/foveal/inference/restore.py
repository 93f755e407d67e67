"""From the network's grid back to the case's own, a few rows at a time.

Everything streams along the first axis of the reoriented image, so a full-size CT with
many classes is never held as probabilities.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from foveal.geometry import Grid, reorientation
from foveal.inference.bricks import BYTES_PER_NUMBER
from foveal.inference.predict import BLOCK_BYTES, rows_at_once
from foveal.preprocessing.resample import linear_taps

BLOCKS_AT_ONCE = 8
"""Of probabilities in memory on the way from logits to classes: interpolated along each
axis, held for the next row, after softmax, uncropped, and what decides the class."""


ROUNDING = 2e-6
"""By which sums of probabilities may differ that are meant to be equal."""


def resampled_rows(
    rows: Iterator[Float[Tensor, "class _ j k"]],
    shape: Sequence[int],
    target_shape: Sequence[int],
) -> Iterator[Float[Tensor, "class _ jj kk"]]:
    """Interpolate streamed rows linearly to another number of voxels, same extent.

    Args:
        rows: Consecutive blocks that cover ``shape`` once.
        shape: Voxels that the blocks have together.
        target_shape: Voxels wanted.

    Yields:
        Consecutive blocks that cover ``target_shape`` once.
    """
    if tuple(shape) == tuple(target_shape):
        yield from rows
        return
    lower, upper, weight = linear_taps(shape[0], target_shape[0])
    held: Tensor | None = None
    first_held = next_row = 0
    for block in rows:
        count = rows_at_once(len(block), _larger_row(shape, target_shape))
        for part in block.split(count, dim=1):
            part = _resampled_axis(part, 2, target_shape[1])
            part = _resampled_axis(part, 3, target_shape[2])
            held = part if held is None else torch.cat([held, part], dim=1)
            ready = next_row
            while ready < target_shape[0] and upper[ready] < first_held + held.shape[1]:
                ready += 1
            while next_row < ready:
                wanted = slice(next_row, min(next_row + count, ready))
                share = weight[wanted].reshape(1, -1, 1, 1)
                yield torch.lerp(
                    held[:, lower[wanted] - first_held],
                    held[:, upper[wanted] - first_held],
                    share,
                )
                next_row = wanted.stop
            if next_row < target_shape[0]:
                drop = min(int(lower[next_row]) - first_held, held.shape[1])
                held, first_held = held[:, drop:], first_held + drop


def memory_of_blocks(
    num_classes: int, shape: Sequence[int], target_shape: Sequence[int]
) -> int:
    """Bytes of the blocks that are in memory between logits and classes, about.

    Args:
        num_classes: Including background.
        shape: Of the volume whose rows come.
        target_shape: Of the volume whose rows are made of them.
    """
    row = BYTES_PER_NUMBER * num_classes * math.prod(_larger_row(shape, target_shape))
    return BLOCKS_AT_ONCE * max(row, min(BLOCK_BYTES, row * target_shape[0]))


def _larger_row(shape: Sequence[int], target_shape: Sequence[int]) -> Sequence[int]:
    return max(shape[1:], target_shape[1:], key=math.prod)


def _resampled_axis(block: Tensor, axis: int, length: int) -> Tensor:
    if block.shape[axis] == length:
        return block
    lower, upper, weight = linear_taps(block.shape[axis], length)
    shape = [1] * block.ndim
    shape[axis] = length
    return torch.lerp(
        block.index_select(axis, lower),
        block.index_select(axis, upper),
        weight.reshape(shape),
    )


def uncropped_rows(
    rows: Iterator[Float[Tensor, "class _ j k"]],
    window: Sequence[slice],
    shape: Sequence[int],
    num_classes: int,
    *,
    inside: NDArray[np.bool_] | None = None,
) -> Iterator[Float[Tensor, "class _ jj kk"]]:
    """Place probabilities of a crop in the whole image; outside is background.

    Args:
        rows: Consecutive blocks of the crop.
        window: Of the crop in the image.
        shape: Of the image.
        num_classes: Including background.
        inside: ``(i, j, k)`` of the crop; voxels that are not true are background, too.

    Yields:
        Consecutive blocks that cover ``shape`` once.
    """
    at_once = rows_at_once(num_classes, shape[1:])

    def background(count: int) -> Tensor:
        block = torch.zeros(num_classes, count, shape[1], shape[2])
        block[0] = 1
        return block

    if inside is not None:
        rows = _background_outside(rows, inside)
    if all(
        axis.start == 0 and axis.stop == length
        for axis, length in zip(window, shape, strict=True)
    ):
        yield from rows
        return
    for start in range(0, window[0].start, at_once):
        yield background(min(at_once, window[0].start - start))
    for block in rows:
        whole = background(block.shape[1])
        whole[:, :, window[1], window[2]] = block
        yield whole
    for start in range(window[0].stop, shape[0], at_once):
        yield background(min(at_once, shape[0] - start))


def _background_outside(
    rows: Iterator[Float[Tensor, "class _ j k"]], inside: NDArray[np.bool_]
) -> Iterator[Float[Tensor, "class _ j k"]]:
    """Probabilities that are 1 for background wherever ``(i, j, k)`` is not true."""
    first = 0
    for block in rows:
        outside = torch.from_numpy(~inside[first : first + block.shape[1]])
        first += block.shape[1]
        block = block.masked_fill(outside, 0.0)
        block[0].masked_fill_(outside, 1.0)
        yield block


def voxels_behind(
    inside: NDArray[np.bool_], shape: Sequence[int]
) -> Bool[Tensor, "i j k"]:
    """Voxels that `resampled_rows` looks at to make those that are true.

    Args:
        inside: ``(ii, jj, kk)``, of the rows that are made.
        shape: Of the volume whose rows they are made of.
    """
    behind = torch.from_numpy(np.ascontiguousarray(inside))
    for axis, length in enumerate(shape):
        if behind.shape[axis] == length:
            continue
        lower, upper, _ = linear_taps(length, behind.shape[axis])
        size = [*behind.shape]
        size[axis] = length
        looked_at = torch.zeros(size, dtype=torch.int32)
        for taps in (lower, upper):
            looked_at.index_add_(axis, taps, behind.int())
        behind = looked_at > 0
    return behind


def in_equal_blocks(
    rows: Iterator[Float[Tensor, "class _ j k"]], count: int
) -> Iterator[Float[Tensor, "class _ j k"]]:
    """Cut or join blocks so that all but the last have ``count`` rows."""
    held: list[Tensor] = []
    number = 0
    for block in rows:
        held.append(block)
        number += block.shape[1]
        if number >= count:
            joined = held[0] if len(held) == 1 else torch.cat(held, dim=1)
            whole = number // count * count
            yield from joined[:, :whole].split(count, dim=1)
            held, number = [joined[:, whole:]], number - whole
    if number:
        yield torch.cat(held, dim=1)


def label_map_of(
    classes: NDArray[np.integer],
    grid: Grid,
    orientation: str,
    label_values: Sequence[int],
    *,
    background_value: int = 0,
) -> NDArray[np.integer]:
    """Label map of inside classes, in stored order, with the user's values.

    Args:
        classes: On the grid brought to ``orientation``.
        grid: Of the case as stored.
        orientation: Of the classes.
        label_values: The user's value of each label.
        background_value: The user's value of background.

    Returns:
        ``(i, j, k)``, in the smallest integer type that holds the values.
    """
    values = np.array([background_value, *label_values])
    turn = reorientation(grid, orientation)
    return values.astype(smallest_type(values))[turn.undo(classes)]


def decided_classes(
    probabilities: Float[Tensor, "class i j k"], structures: Sequence[Sequence[int]]
) -> Int64[Tensor, "i j k"]:
    """Inside class of every voxel.

    Where every structure is one class: the most probable class. Where structures are
    unions of classes: the class that agrees with most structures, each of which is
    there if its probability, the sum over its classes, is above one half. So a voxel
    that is organ or lesion, but surely one of them, is not lost to background.

    Args:
        probabilities: Of the classes, background first.
        structures: Inside classes that each structure includes.
    """
    if all(len(classes) == 1 for classes in structures):
        return probabilities.argmax(dim=0)
    # A half, but for the rounding of sums, is not above one half.
    agreement = torch.zeros_like(probabilities)
    for classes in structures:
        members = list(classes)
        agreement[members] += 2 * probabilities[members].sum(dim=0) - 1
    # Classes that no structure tells apart agree alike; the more probable one is meant.
    is_best = agreement >= agreement.amax(dim=0) - ROUNDING
    possible = probabilities.masked_fill(~is_best, -1.0)
    # The first of the maxima, so background before others.
    return (possible >= possible.amax(dim=0) - ROUNDING).byte().argmax(dim=0)


def structure_probabilities(
    probabilities: Float[Tensor, "class i j k"], structures: Sequence[Sequence[int]]
) -> Float[Tensor, "structure i j k"]:
    """Probability of every structure: the sum over the classes that it includes."""
    return torch.stack(
        [probabilities[list(classes)].sum(dim=0) for classes in structures]
    )


def smallest_type(values: NDArray[np.integer]) -> type[np.integer]:
    """Narrowest usual number type that holds some label values."""
    for kind in (np.uint8, np.int16, np.uint16):
        limits = np.iinfo(kind)
        if limits.min <= values.min() and values.max() <= limits.max:
            return kind
    return np.int32
