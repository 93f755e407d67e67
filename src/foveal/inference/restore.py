"""From the network's grid back to the case's own, a few rows at a time.

Everything streams along the first axis of the reoriented image, so a full-size CT with
many classes is never held as probabilities.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from foveal.geometry import Grid, reorientation
from foveal.preprocessing.resample import linear_taps

ROWS_AT_ONCE = 8
"""Rows of logits interpolated together; bounds the memory."""


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
        for part in block.split(ROWS_AT_ONCE, dim=1):
            part = _resampled_axis(part, 2, target_shape[1])
            part = _resampled_axis(part, 3, target_shape[2])
            held = part if held is None else torch.cat([held, part], dim=1)
            ready = next_row
            while ready < target_shape[0] and upper[ready] < first_held + held.shape[1]:
                ready += 1
            if ready > next_row:
                wanted = slice(next_row, ready)
                share = weight[wanted].reshape(1, -1, 1, 1)
                yield torch.lerp(
                    held[:, lower[wanted] - first_held],
                    held[:, upper[wanted] - first_held],
                    share,
                )
                next_row = ready
            if next_row < target_shape[0]:
                drop = min(int(lower[next_row]) - first_held, held.shape[1])
                held, first_held = held[:, drop:], first_held + drop


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
) -> Iterator[Float[Tensor, "class _ jj kk"]]:
    """Place probabilities of a crop in the whole image; outside is background.

    Args:
        rows: Consecutive blocks of the crop.
        window: Of the crop in the image.
        shape: Of the image.
        num_classes: Including background.

    Yields:
        Consecutive blocks that cover ``shape`` once.
    """

    def background(count: int) -> Tensor:
        block = torch.zeros(num_classes, count, shape[1], shape[2])
        block[0] = 1
        return block

    if all(
        axis.start == 0 and axis.stop == length
        for axis, length in zip(window, shape, strict=True)
    ):
        yield from rows
        return
    for start in range(0, window[0].start, ROWS_AT_ONCE):
        yield background(min(ROWS_AT_ONCE, window[0].start - start))
    for block in rows:
        whole = background(block.shape[1])
        whole[:, :, window[1], window[2]] = block
        yield whole
    for start in range(window[0].stop, shape[0], ROWS_AT_ONCE):
        yield background(min(ROWS_AT_ONCE, shape[0] - start))


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
            joined = torch.cat(held, dim=1)
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
    agreement = torch.zeros_like(probabilities)
    for classes in structures:
        members = list(classes)
        agreement[members] += 2 * probabilities[members].sum(dim=0) - 1
    # Classes that no structure tells apart agree alike; the more probable one is meant.
    is_best = agreement == agreement.amax(dim=0)
    return probabilities.masked_fill(~is_best, -1.0).argmax(dim=0)


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
