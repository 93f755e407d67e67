"""Precision and memory layout: chosen once by timing, then fixed for the run.

Which is fastest depends on the processor: with AVX512-BF16, bfloat16 and channels-last
are 2 to 4 times faster than float32, without it bfloat16 is slower.
"""

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "float16"]
MemoryLayout = Literal["contiguous", "channels_last"]

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the number of axes of an image batch, or of a convolution's weights."""

TIMED_ROUNDS = 2
"""Steps per candidate that count."""


class Numerics(NamedTuple):
    """How numbers are held while a network runs."""

    precision: Precision
    memory_layout: MemoryLayout


def candidates(
    device_type: str, precision: str = "auto", memory_layout: str = "auto"
) -> list[Numerics]:
    """What may be tried on a kind of device, given what the user has fixed."""
    precisions: list[Precision] = ["bfloat16", "float32"]
    if device_type == "cuda":
        precisions = ["bfloat16", "float16", "float32"]
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            precisions.remove("bfloat16")
    layouts: list[MemoryLayout] = ["channels_last", "contiguous"]
    if device_type == "mps":
        precisions, layouts = ["float32"], ["contiguous"]
    if precision != "auto":
        precisions = [precision]  # type: ignore[list-item]
    if memory_layout != "auto":
        layouts = [memory_layout]  # type: ignore[list-item]
    return [Numerics(*pair) for pair in itertools.product(precisions, layouts)]


def fastest(
    choices: list[Numerics], run_step: Callable[[Numerics], None], device_type: str
) -> tuple[Numerics, dict[Numerics, float]]:
    """Time steps of every candidate in turn and compare their fastest ones.

    In turn, so that a machine that is busy for a moment slows all of them; the first
    round warms up and is not counted.

    Args:
        choices: One alone is taken without timing.
        run_step: Runs one whole training step on throw-away copies.
        device_type: Its queue is waited for.

    Returns:
        The fastest, and the seconds of each that was timed.
    """
    if len(choices) == 1:
        return choices[0], {}
    seconds = dict.fromkeys(choices, math.inf)
    for round_number in range(1 + TIMED_ROUNDS):
        for choice in choices:
            _wait_for(device_type)
            start = time.perf_counter()
            run_step(choice)
            _wait_for(device_type)
            if round_number > 0:
                elapsed = time.perf_counter() - start
                seconds[choice] = min(seconds[choice], elapsed)
    return min(seconds, key=lambda choice: seconds[choice]), seconds


def _wait_for(device_type: str) -> None:
    if device_type == "cuda":
        torch.cuda.synchronize()


def autocast(
    numerics: Numerics, device_type: str
) -> contextlib.AbstractContextManager[Any]:
    """Context in which a network runs at the chosen precision."""
    if numerics.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device_type, dtype=getattr(torch, numerics.precision))


def apply_layout(module: nn.Module, memory_layout: MemoryLayout) -> None:
    """Bring the weights of 2D and 3D convolutions to the chosen layout, in place."""
    for parameter in module.parameters():
        if parameter.ndim in CHANNELS_LAST:
            parameter.data = parameter.data.contiguous(
                memory_format=_memory_format(memory_layout, parameter.ndim)
            )


def with_layout(image: Tensor, memory_layout: MemoryLayout) -> Tensor:
    """A batch `(patch, channel, i, j, k)` in the chosen layout."""
    # One channel is contiguous in both layouts, and PyTorch would then leave it so.
    if image.shape[1] == 1 and memory_layout == "channels_last":
        _, _, i, j, k = image.shape
        # The strides below are those of rows; a view may have others.
        rows = image.contiguous()
        return rows.as_strided(image.shape, (i * j * k, 1, j * k, k, 1))
    return image.contiguous(memory_format=_memory_format(memory_layout, image.ndim))


def _memory_format(memory_layout: MemoryLayout, ndim: int) -> torch.memory_format:
    if memory_layout == "channels_last":
        return CHANNELS_LAST[ndim]
    return torch.contiguous_format
