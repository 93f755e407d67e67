"""Logits of a whole volume from a network that sees patches; one predictor for all.

Validation, prediction and everything that needs a network's opinion on a case go
through `stream_logits`. It hands out finished rows along the first axis, so that no
more than one tile's thickness of logits is ever held, whatever the volume's length.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveal.inference.numerics import Numerics, autocast, with_layout
from foveal.inference.tiling import AxisTiling, Tiles
from foveal.networks.interface import Network

PatchFunction = Callable[[Tensor], Tensor]
"""Maps ``(patch, channel, i, j, k)`` to logits ``(patch, class, ii, jj, kk)``."""


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
        return logits.to(patches.device, torch.float32)

    return apply


def stream_logits(
    network: PatchFunction,
    image: Float[Tensor, "channel i j k"],
    tiles: Tiles,
    num_classes: int,
) -> Iterator[Float[Tensor, "class rows j k"]]:
    """Put the logits of a volume together from those of its tiles.

    Args:
        network: In evaluation mode. Gets batches on the image's device.
        image: Preprocessed. Beyond its borders the network sees 0.
        tiles: How the network wants volumes cut.
        num_classes: Including background.

    Yields:
        Consecutive rows, float32; together they cover the first axis once.
    """
    tilings = tiles.along_axes(image.shape[1:])
    inside_i, inside_j, inside_k = (
        slice(axis.skipped, axis.skipped + length)
        for axis, length in zip(tilings, image.shape[1:], strict=True)
    )
    padding = [side for axis in reversed(tilings) for side in axis.padding]
    image = F.pad(image, padding)
    skip, wanted = inside_i.start, inside_i.stop - inside_i.start
    for rows in _finished_rows(network, image, num_classes, tilings, tiles.batch_size):
        kept = rows[:, skip : skip + wanted]
        skip -= min(skip, rows.shape[1])
        wanted -= kept.shape[1]
        if kept.shape[1]:
            yield kept[:, :, inside_j, inside_k]


def _finished_rows(
    network: PatchFunction,
    image: Tensor,
    num_classes: int,
    tilings: Sequence[AxisTiling],
    batch_size: int,
) -> Iterator[Tensor]:
    """Rows of all that the tiles put out, as soon as no other tile adds to them."""
    along_i, along_j, along_k = tilings
    sums = image.new_zeros(
        num_classes,
        along_i.output_size,
        along_j.output_length,
        along_k.output_length,
    )
    ends = [*along_i.starts[1:], along_i.output_length]
    for n, (start, end) in enumerate(zip(along_i.starts, ends, strict=True)):
        slab = image[:, start : start + along_i.size]
        positions = list(
            product(range(len(along_j.starts)), range(len(along_k.starts)))
        )
        for first in range(0, len(positions), batch_size):
            batch = positions[first : first + batch_size]
            corners = [(along_j.starts[j], along_k.starts[k]) for j, k in batch]
            logits = network(
                torch.stack(
                    [
                        slab[:, :, j : j + along_j.size, k : k + along_k.size]
                        for j, k in corners
                    ]
                )
            )
            for tile, corner, patch in zip(batch, corners, logits, strict=True):
                weight = torch.einsum(
                    "i,j,k->ijk",
                    along_i.weights[n],
                    along_j.weights[tile[0]],
                    along_k.weights[tile[1]],
                ).to(sums.device)
                window = (
                    slice(corner[0], corner[0] + along_j.output_size),
                    slice(corner[1], corner[1] + along_k.output_size),
                )
                sums[:, :, *window] += patch.float() * weight
        finished = end - start
        yield sums[:, :finished].clone()
        # What overlaps with the next tiles moves to the front.
        sums = torch.cat(
            [sums[:, finished:], torch.zeros_like(sums[:, :finished])], dim=1
        )
