"""Logits of a whole volume from a network that sees patches; one predictor for all.

Validation, prediction and everything that needs a network's opinion on a case go
through `stream_logits`. It hands out finished rows along the first axis, so that no
more than one tile's thickness of logits is ever held, whatever the volume's length;
and of that only as much in memory as a budget allows.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, pairwise, product

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.errors import CaseError
from foveal.inference.bricks import BYTES_PER_NUMBER, Bricks, Cuts
from foveal.inference.memory import (
    MemoryBudget,
    in_memory_words,
    machine_budget,
    memory_bytes,
    taken_bytes,
    watched_peak,
)
from foveal.inference.numerics import Numerics, autocast, with_layout
from foveal.inference.tiling import AxisTiling, Tiles
from foveal.networks.interface import Network

PatchFunction = Callable[[Tensor], Tensor]
"""Maps ``(patch, channel, i, j, k)`` to logits ``(patch, class, ii, jj, kk)``."""

TileDraws = Callable[[int], AbstractContextManager[None]]
"""In what a tile is computed that draws at random, given its number in the volume."""

BLOCK_BYTES = 32 * 2**20
"""Of the rows handed out together, unless a single one is larger."""

BRICK_BYTES = 64 * 2**20
"""Of the largest brick where not all fit in memory, unless a row of it is larger.

Above 32 MB, beyond which the C library gives freed memory back at once.
"""

USED_SHARE = 0.9
"""Of a budget; the rest is what lies idle between the arrays of a program."""

BATCH_SHARE = 0.25
"""Of the memory left that the logits of one batch may take; else batches shrink."""

ADVISED_SHARE = 1.05
"""Of the memory that a case was seen to need: another day it may be a little more."""

KEPT_BYTES = 128 * 2**20
"""Of logits kept for the next tile that holds nothing but the same value."""


def patch_function(
    network: Network, numerics: Numerics, device: torch.device
) -> PatchFunction:
    """How a network is applied to a batch of patches: layout, precision, device.

    Args:
        network: In evaluation mode, on ``device``, its weights laid out.
        numerics: Of the run, so that a prediction never depends on the day.
        device: Where batches are computed; logits come back to where they came from.
    """

    def apply(patches: Tensor) -> Tensor:
        laid_out = with_layout(patches.to(device), numerics.memory_layout)
        with torch.no_grad(), autocast(numerics, device.type):
            logits = network(laid_out).logits
        # In the network's precision, half of the bytes; sums are in float32.
        return logits.to(patches.device)

    return apply


def stream_logits(
    network: PatchFunction,
    image: Float[Tensor, "channel i j k"],
    tiles: Tiles,
    num_classes: int,
    *,
    wanted: Bool[Tensor, "i j k"] | None = None,
    memory: MemoryBudget | None = None,
    later_bytes: int = 0,
    draws: TileDraws | None = None,
    missing_channels: Mapping[int, float] | None = None,
) -> Iterator[Float[Tensor, "class rows j k"]]:
    """Put the logits of a volume together from those of its tiles.

    How much memory a tile takes is measured at the first one. If the sums of a tile's
    thickness do not fit in what is left, some of them wait in a temporary file; they
    are the same to the last bit.

    A tile that holds the same value everywhere (air that was clipped, nothing at all)
    is not computed again, but gets the logits of the last such tile.

    Args:
        network: In evaluation mode. Gets batches on the image's device.
        image: Preprocessed. Beyond its borders the network sees 0.
        tiles: How the network wants volumes cut.
        num_classes: Including background.
        wanted: Voxels whose logits matter. A tile that puts out none of them is not
            computed; logits of the others may miss tiles or be 0.
        memory: Of the process; unset: most of what the machine has free.
        later_bytes: What the caller needs at once to go on with a block.
        draws: Of a network that draws at random. Tiles are then computed one by one, as
            the draws of a batch would depend on who else is in it.
        missing_channels: Number of a channel to the value that it has everywhere,
            beyond the borders too.

    Yields:
        Consecutive rows, float32; together they cover the first axis once.

    Raises:
        CaseError: The budget is too small, or the disk for what does not fit in it.
    """
    shape = image.shape[1:]
    tilings = tiles.along_axes(shape)
    budget = memory or machine_budget()
    batch_size = 1
    if draws is None:
        batch_size = _affordable_batch(tiles.batch_size, tilings, num_classes, budget)
    tile = None
    while True:
        predicted = _predicted_tiles(
            network, image, tilings, batch_size, wanted, draws, missing_channels or {}
        )
        with watched_peak() as peak:
            tile = next(predicted, None)
        try:
            cuts, held_bytes = _cuts_that_fit(
                shape, tilings, num_classes, budget, peak.bytes, later_bytes
            )
        except CaseError:
            if batch_size == 1:
                raise
            # What the network needs for a batch is not known before; one by one may do.
            batch_size, tile = 1, None
        else:
            break
    count = rows_at_once(num_classes, shape[1:])
    with Bricks(num_classes, cuts, held_bytes, budget) as sums:
        row = 0
        while tile is not None:
            if tile.first[0] > row:
                yield from sums.finished(row, tile.first[0], count)
                row = tile.first[0]
            sums.add(tile.logits, tile.weights, tile.first)
            # Its logits must be gone when the network makes the next ones.
            tile = None
            tile = next(predicted, None)
        yield from sums.finished(row, shape[0], count)


def rows_at_once(num_classes: int, row_shape: Sequence[int]) -> int:
    """How many rows of logits or probabilities are handled together, at least one."""
    return max(1, BLOCK_BYTES // _logit_bytes(num_classes, row_shape))


@dataclass(frozen=True, eq=False)
class _PredictedTile:
    """What the network says of one tile."""

    first: tuple[int, int, int]
    """Voxel of the volume where it begins to put out; negative in the padding."""

    logits: Float[Tensor, "class ii jj kk"]
    weights: tuple[Tensor, ...]
    """Per axis."""


def _predicted_tiles(
    network: PatchFunction,
    image: Tensor,
    tilings: Sequence[AxisTiling],
    batch_size: int,
    wanted: Tensor | None,
    draws: TileDraws | None,
    missing_channels: Mapping[int, float],
) -> Iterator[_PredictedTile]:
    """Tiles in the order of their places, so that sums depend on no batch."""
    along_i, along_j, along_k = tilings
    uniform = _UniformTiles()
    waiting: list[_WaitingTile] = []
    num_unknown = 0
    for n, start in enumerate(along_i.starts):
        places = [
            (n, j, k)
            for j, k in product(range(len(along_j.starts)), range(len(along_k.starts)))
            if _is_wanted(wanted, tilings, (n, j, k))
        ]
        if not places:
            continue
        slab = _padded_slab(image, tilings, start, missing_channels)
        for place in places:
            j, k = along_j.starts[place[1]], along_k.starts[place[2]]
            patch = slab[:, :, j : j + along_j.size, k : k + along_k.size]
            known = uniform.logits(patch)
            if known is None:
                # A copy, as these rows go before a batch is full.
                waiting.append((place, patch.clone(), None))
                num_unknown += 1
            else:
                waiting.append((place, None, known))
            # Behind tiles to be computed, one that is known waits for its turn.
            if num_unknown in (0, batch_size):
                yield from _computed(network, tilings, waiting, uniform, draws)
                waiting, num_unknown = [], 0
    yield from _computed(network, tilings, waiting, uniform, draws)


_WaitingTile = tuple[tuple[int, int, int], Tensor | None, Tensor | None]
"""Place, and the patch to be computed or the logits that are known."""


def _computed(
    network: PatchFunction,
    tilings: Sequence[AxisTiling],
    waiting: Sequence[_WaitingTile],
    uniform: "_UniformTiles",
    draws: TileDraws | None,
) -> Iterator[_PredictedTile]:
    """Tiles in the order in which they wait, all that are unknown in one batch."""
    batch = [patch for _, patch, _ in waiting if patch is not None]
    answers: Iterator[Tensor] = iter(())
    if batch:
        drawing: AbstractContextManager[None] = nullcontext()
        if draws is not None:
            drawing = draws(_number(tilings, waiting[0][0]))
        with drawing:
            answers = iter(network(torch.stack(batch)))
    for place, patch, known in waiting:
        if known is not None:
            yield _predicted(tilings, place, known)
        elif patch is not None:
            logits = next(answers)
            uniform.keep(patch, logits)
            yield _predicted(tilings, place, logits)


def _number(tilings: Sequence[AxisTiling], place: tuple[int, int, int]) -> int:
    """Of a tile among all of the volume, whether they are computed or not."""
    _, along_j, along_k = tilings
    return (place[0] * len(along_j.starts) + place[1]) * len(along_k.starts) + place[2]


def _predicted(
    tilings: Sequence[AxisTiling], place: tuple[int, int, int], logits: Tensor
) -> _PredictedTile:
    i, j, k = (
        axis.starts[number] - axis.skipped
        for axis, number in zip(tilings, place, strict=True)
    )
    weights = tuple(
        axis.weights[number] for axis, number in zip(tilings, place, strict=True)
    )
    return _PredictedTile((i, j, k), logits, weights)


class _UniformTiles:
    """The logits of the last tile with one value per channel, for the next alike."""

    def __init__(self) -> None:
        self._values: Tensor | None = None
        self._logits: Tensor | None = None

    def logits(self, patch: Tensor) -> Tensor | None:
        """Of a patch like the one kept; otherwise nothing."""
        if self._values is None or not torch.equal(patch[:, 0, 0, 0], self._values):
            return None
        return self._logits if _is_uniform(patch) else None

    def keep(self, patch: Tensor, logits: Tensor) -> None:
        """Remember what was said of a patch, if it is uniform and the logits small."""
        if logits.nbytes <= KEPT_BYTES and _is_uniform(patch):
            self._values, self._logits = patch[:, 0, 0, 0].clone(), logits.clone()


def _is_uniform(patch: Tensor) -> bool:
    corner = patch[:, :1, :1, :1]
    # Most patches differ in a few voxels already.
    return bool(
        (patch[:, -1:, -1:, -1:] == corner).all() and (patch == corner).all().item()
    )


def _is_wanted(
    wanted: Tensor | None, tilings: Sequence[AxisTiling], place: tuple[int, int, int]
) -> bool:
    if wanted is None:
        return True
    window = []
    for axis, number in zip(tilings, place, strict=True):
        start = axis.starts[number] - axis.skipped
        window.append(slice(max(start, 0), start + axis.output_size))
    return bool(wanted[tuple(window)].any())


def _padded_slab(
    image: Tensor,
    tilings: Sequence[AxisTiling],
    start: int,
    missing_channels: Mapping[int, float],
) -> Tensor:
    """Rows that the tiles from ``start`` on take in, of the padded image."""
    along_i = tilings[0]
    first = start - along_i.padding[0]
    last = first + along_i.size
    rows = image[:, max(first, 0) : max(last, 0)]
    before = min(max(-first, 0), along_i.size)
    sides = [(before, along_i.size - before - rows.shape[1])]
    sides += [axis.padding for axis in tilings[1:]]
    if not any(chain.from_iterable(sides)):
        return rows
    padded = F.pad(rows, [length for side in reversed(sides) for length in side])
    for number, value in missing_channels.items():
        padded[number] = value
    return padded


def _affordable_batch(
    batch_size: int,
    tilings: Sequence[AxisTiling],
    num_classes: int,
    budget: MemoryBudget,
) -> int:
    """Tiles at once whose logits leave room for the rest, at least one."""
    tile_bytes = _logit_bytes(num_classes, [axis.output_size for axis in tilings])
    left = BATCH_SHARE * budget.left_bytes(taken_bytes())
    return max(1, min(batch_size, int(left // tile_bytes)))


def _cuts_that_fit(
    shape: Sequence[int],
    tilings: Sequence[AxisTiling],
    num_classes: int,
    budget: MemoryBudget,
    peak_bytes: int,
    later_bytes: int,
) -> tuple[Cuts, float]:
    """How the sums are cut, and how many bytes of them are held in memory.

    Raises:
        CaseError: Not even one brick fits.
    """
    begins, ends = zip(
        *(_begins_and_ends(axis, n) for axis, n in zip(tilings, shape, strict=True)),
        strict=True,
    )
    _, length_j, length_k = shape
    rows = sorted({*begins[0], shape[0]})
    # A brick reaches to where the next tile begins.
    thickness = max(
        min(cut for cut in rows if cut >= end) - begin
        for begin, end in zip(begins[0], ends[0], strict=True)
    )
    spare = USED_SHARE * budget.bytes_in_all - peak_bytes - later_bytes
    if _logit_bytes(num_classes, (thickness, length_j, length_k)) <= spare:
        return Cuts(tuple(rows), (0, length_j), (0, length_k)), math.inf
    along_j, along_k = (
        tuple(sorted({0, *begins[axis], *ends[axis], shape[axis]})) for axis in (1, 2)
    )
    widest = Cuts((0, 1), along_j, along_k).largest_part
    step = max(1, BRICK_BYTES // _logit_bytes(num_classes, (widest,)))
    cuts = Cuts(_no_longer_than(rows, step), along_j, along_k)
    # One that is added to, and what is added.
    least = 2 * _logit_bytes(num_classes, (cuts.largest_part,))
    if spare < least:
        advised = _advised_words(budget, peak_bytes, later_bytes + least)
        raise CaseError(
            f"a memory of {in_memory_words(budget.bytes_in_all)} is too little for it: "
            "the program, the weights, the image and the network at work on a patch "
            f"take {in_memory_words(peak_bytes)}, and with the rows on their way back "
            f"to its grid it needs {advised} at least; give that much (--memory)"
        )
    return cuts, spare - least / 2


def _advised_words(budget: MemoryBudget, peak_bytes: int, more_bytes: int) -> str:
    """A memory in which a case fits that was seen not to.

    Args:
        budget: That is too small.
        peak_bytes: That the process took with it.
        more_bytes: Needed besides.
    """
    if budget.has_sums_in_memory:
        peak_bytes -= budget.sums_bytes
    needed = ADVISED_SHARE * (peak_bytes + more_bytes) / USED_SHARE
    words = in_memory_words(math.ceil(needed))
    larger = replace(budget, bytes_in_all=memory_bytes(words))
    if larger.has_sums_in_memory:
        # So large a budget holds the sums, too.
        with_sums = needed + ADVISED_SHARE * budget.sums_bytes / USED_SHARE
        words = in_memory_words(math.ceil(with_sums))
    return words


def _begins_and_ends(axis: AxisTiling, length: int) -> tuple[list[int], list[int]]:
    """Of what each tile puts out, within an axis of this length."""
    begins = [max(start - axis.skipped, 0) for start in axis.starts]
    ends = [
        min(start - axis.skipped + axis.output_size, length) for start in axis.starts
    ]
    return begins, ends


def _no_longer_than(cuts: Sequence[int], step: int) -> tuple[int, ...]:
    """The same cuts and some between them, so that no part is longer."""
    between = [
        row for first, last in pairwise(cuts) for row in range(first, last, step)
    ]
    return (*between, cuts[-1])


def _logit_bytes(num_classes: int, shape: Sequence[int]) -> int:
    return BYTES_PER_NUMBER * num_classes * math.prod(shape)
