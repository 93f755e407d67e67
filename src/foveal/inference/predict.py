"""Logits of a whole volume from a network that sees patches; one predictor for all.

Validation, prediction and everything that needs a network's opinion on a case go
through `stream_logits`. It hands out finished rows along the first axis, so that no
more than one patch's thickness of logits is ever held, whatever the volume's length.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveal.inference.numerics import Numerics, autocast, with_layout
from foveal.inference.tiling import AxisTiling, padding_to, tile_axis
from foveal.networks.interface import Network

PatchFunction = Callable[[Tensor], Tensor]
"""Maps ``(patch, channel, i, j, k)`` to logits ``(patch, class, i, j, k)``."""


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
    patch_size: Sequence[int],
    num_classes: int,
    *,
    overlap_fraction: float,
    batch_size: int,
) -> Iterator[Float[Tensor, "class rows j k"]]:
    """Average the logits of overlapping patches, trusting their centres most.

    Args:
        network: Same-padded; in evaluation mode. Gets batches on the image's device.
        image: Preprocessed. An axis shorter than the patch is zero-padded and the
            result cropped back.
        patch_size: In voxels.
        num_classes: Including background.
        overlap_fraction: Least part of a patch shared with the next, in [0, 1).
        batch_size: Patches given to the network at once.

    Yields:
        Consecutive rows, float32; together they cover the first axis once.
    """
    shape = image.shape[1:]
    padding = padding_to(shape, patch_size)
    image = F.pad(image, [side for pair in reversed(padding) for side in pair])
    tilings = [
        tile_axis(length, size, overlap_fraction)
        for length, size in zip(image.shape[1:], patch_size, strict=True)
    ]
    inner_j, inner_k = (
        slice(before, before + length)
        for (before, _), length in zip(padding[1:], shape[1:], strict=True)
    )
    skip, wanted = padding[0][0], shape[0]
    for rows in _finished_rows(
        network, image, patch_size, num_classes, tilings, batch_size
    ):
        kept = rows[:, skip : skip + wanted]
        skip -= min(skip, rows.shape[1])
        wanted -= kept.shape[1]
        if kept.shape[1]:
            yield kept[:, :, inner_j, inner_k]


def _finished_rows(
    network: PatchFunction,
    image: Tensor,
    patch_size: Sequence[int],
    num_classes: int,
    tilings: Sequence[AxisTiling],
    batch_size: int,
) -> Iterator[Tensor]:
    along_i, along_j, along_k = tilings
    thickness = patch_size[0]
    sums = image.new_zeros(num_classes, thickness, *image.shape[2:])
    ends = [*along_i.starts[1:], image.shape[1]]
    for n, (start, end) in enumerate(zip(along_i.starts, ends, strict=True)):
        slab = image[:, start : start + thickness]
        positions = list(
            product(range(len(along_j.starts)), range(len(along_k.starts)))
        )
        for first in range(0, len(positions), batch_size):
            batch = positions[first : first + batch_size]
            windows = [
                (
                    slice(along_j.starts[j], along_j.starts[j] + patch_size[1]),
                    slice(along_k.starts[k], along_k.starts[k] + patch_size[2]),
                )
                for j, k in batch
            ]
            logits = network(
                torch.stack([slab[:, :, window[0], window[1]] for window in windows])
            )
            for (j, k), window, patch in zip(batch, windows, logits, strict=True):
                weight = torch.einsum(
                    "i,j,k->ijk",
                    along_i.weights[n],
                    along_j.weights[j],
                    along_k.weights[k],
                ).to(sums.device)
                sums[:, :, window[0], window[1]] += patch.float() * weight
        finished = end - start
        yield sums[:, :finished].clone()
        # What overlaps with the next windows moves to the front.
        sums = torch.cat(
            [sums[:, finished:], torch.zeros_like(sums[:, :finished])], dim=1
        )
