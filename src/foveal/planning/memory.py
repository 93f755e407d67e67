"""How much memory and arithmetic a training step takes, and how much there is.

The estimates count what PyTorch keeps for the backward pass of `unet3d` in
float32; bfloat16 takes about half. They are meant to be right within a third.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from foveal.errors import SettingsError

BYTES_PER_GB = 1e9
BYTES_PER_NUMBER = 4
"""float32, the widest precision that a run may choose."""

MEMORY_SHARE = 0.5
"""Of the memory found; the rest is for loading, augmentation and other programs."""

CPU_FLOPS_PER_THREAD = 60e9
"""Arithmetic of one step per thread: about 0.4 s on current cores."""

GPU_FLOPS = 12e12
"""Arithmetic of one step on a GPU: about half a second at 25 TFLOP/s."""

KEPT_PER_CONVOLUTION = 3
"""Outputs of the convolution, its norm and its activation. The activation works in
place; what it would take is about what the convolution library's own buffers take."""

COPIES_PER_PARAMETER = 4
"""Weight, gradient and AdamW's two moments."""

COPIES_OF_LOGITS = 10
"""Logits, log-softmax, probabilities, the one-hot reference in 64 bits, their products
and gradients; more classes showed this many with partial annotation."""

CGROUP_UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2^63."""


@dataclass(frozen=True)
class UNetShape:
    """What decides the cost of a U-Net, all per stage, finest first."""

    in_channels: int
    num_classes: int
    features: tuple[int, ...]
    kernels: tuple[tuple[int, int, int], ...]
    strides: tuple[tuple[int, int, int], ...]
    """Into each stage after the first."""

    convolutions: int = 2
    """Per stage, on the way down and on the way up."""

    @property
    def alignment(self) -> tuple[int, int, int]:
        """The patch must be divisible by this, per axis."""
        i, j, k = (
            math.prod(stride[axis] for stride in self.strides) for axis in range(3)
        )
        return i, j, k


@dataclass(frozen=True)
class _Convolution:
    """One convolution of the network, for counting."""

    in_channels: int
    out_channels: int
    taps: int
    """Input voxels that one output voxel reads."""

    voxels: int
    """Of its output, in one patch."""

    is_normalised: bool
    """Whether a norm and an activation follow."""


@dataclass(frozen=True)
class Budget:
    """What one training step may cost."""

    device: Literal["cpu", "gpu"]
    memory_bytes: float
    flops: float
    """Floating-point operations, forward and backward."""

    origin: str
    """Where the memory figure comes from, in words."""


def unet_training_bytes(
    network: UNetShape, patch_size: Sequence[int], batch_size: int
) -> float:
    """Memory of a training step, without the interpreter and its libraries.

    Counted: activations kept for the backward pass, concatenated skips, the loss, the
    gradients alive at the finest stage, and the weights with the optimiser's state.

    Args:
        network: Shape of the U-Net.
        patch_size: In voxels, divisible by the network's alignment.
        batch_size: Patches per step.

    Returns:
        Bytes in float32, an estimate (measured ratios: ``docs/planning.md``).
    """
    kept = 0
    parameters = 0
    for convolution in _convolutions(network, patch_size):
        if convolution.is_normalised:
            output = convolution.out_channels * convolution.voxels
            kept += KEPT_PER_CONVOLUTION * output
        parameters += (
            convolution.in_channels * convolution.out_channels * convolution.taps
        )
    voxels = _stage_voxels(network, patch_size)
    # Skip and upsampled features side by side, read by the decoder's convolutions.
    for features, count in zip(network.features[:-1], voxels[:-1], strict=True):
        kept += 2 * features * count
    kept += network.in_channels * voxels[0]
    kept += COPIES_OF_LOGITS * network.num_classes * voxels[0]
    # Backward starts where everything is still kept: the gradients of one
    # convolution's output, its norm and the concatenated input.
    kept += 4 * network.features[0] * voxels[0]
    return float(
        BYTES_PER_NUMBER * (batch_size * kept + COPIES_PER_PARAMETER * parameters)
    )


def unet_training_flops(
    network: UNetShape, patch_size: Sequence[int], batch_size: int
) -> float:
    """Floating-point operations of the convolutions of a training step.

    The backward pass counts twice the forward pass: one product for the gradient of
    the input and one for that of the weights.
    """
    forward = sum(
        2
        * convolution.taps
        * convolution.in_channels
        * convolution.out_channels
        * convolution.voxels
        for convolution in _convolutions(network, patch_size)
    )
    return 3.0 * batch_size * forward


def _convolutions(
    network: UNetShape, patch_size: Sequence[int]
) -> Iterator[_Convolution]:
    voxels = _stage_voxels(network, patch_size)
    stages = range(len(network.features))
    for stage in stages:
        taps = math.prod(network.kernels[stage])
        features = network.features[stage]
        below = network.features[stage - 1] if stage else network.in_channels
        inputs = [below]
        if stage < stages[-1]:
            # On the way up: the skip beside the upsampled features.
            inputs.append(2 * features)
            yield _Convolution(
                network.features[stage + 1],
                features,
                1,
                voxels[stage],
                is_normalised=False,
            )
        for first_input in inputs:
            for n in range(network.convolutions):
                yield _Convolution(
                    features if n else first_input,
                    features,
                    taps,
                    voxels[stage],
                    is_normalised=True,
                )
    yield _Convolution(
        network.features[0], network.num_classes, 1, voxels[0], is_normalised=False
    )


def _stage_voxels(network: UNetShape, patch_size: Sequence[int]) -> list[int]:
    """Voxels of one patch at every stage."""
    size = list(patch_size)
    voxels = [math.prod(size)]
    for stride in network.strides:
        size = [length // step for length, step in zip(size, stride, strict=True)]
        voxels.append(math.prod(size))
    return voxels


def training_budget(
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    *,
    memory_gb: float | None = None,
    threads: int,
) -> Budget:
    """What a training step may cost on this machine.

    Args:
        device: ``auto`` takes a CUDA GPU if there is one, else the CPU.
        memory_gb: Stated limit, used whole; without it, half of the memory found.
        threads: CPU threads; on a CPU they decide how much arithmetic is bearable.

    Raises:
        SettingsError: ``memory_gb`` or ``threads`` is not positive, or a GPU is asked
            for and absent.
    """
    if memory_gb is not None and memory_gb <= 0:
        raise SettingsError(f"memory of {memory_gb} GB must be above 0")
    if threads <= 0:
        raise SettingsError(f"{threads} threads; give at least 1")
    gpu_bytes = cuda_free_bytes() if device in ("auto", "cuda") else None
    if device == "cuda" and gpu_bytes is None:
        raise SettingsError(
            "no CUDA GPU that PyTorch can use; choose the device cpu or install a "
            "PyTorch build with CUDA"
        )
    is_gpu = device == "mps" or gpu_bytes is not None
    if memory_gb is not None:
        memory_bytes = memory_gb * BYTES_PER_GB
        origin = f"the {memory_gb:g} GB stated"
    else:
        found, place = (
            (gpu_bytes, "free on the GPU")
            if gpu_bytes is not None
            else (available_memory_bytes(), "of RAM available")
        )
        memory_bytes = MEMORY_SHARE * found
        origin = f"half of the {found / BYTES_PER_GB:.1f} GB {place}"
    return Budget(
        "gpu" if is_gpu else "cpu",
        memory_bytes,
        GPU_FLOPS if is_gpu else CPU_FLOPS_PER_THREAD * threads,
        origin,
    )


def available_memory_bytes() -> int:
    """RAM that can still be used: what the machine has free or a container allows."""
    available = int(psutil.virtual_memory().available)
    limit = cgroup_limit_bytes()
    return available if limit is None else min(available, limit)


def cgroup_limit_bytes(root: Path = Path("/")) -> int | None:
    """Memory limit that Linux sets this process, cgroup v1 or v2.

    Args:
        root: Of the file system.

    Returns:
        The smallest limit of the process's group and the groups around it; ``None``
        without a limit, and on other systems.
    """
    groups = root / "sys/fs/cgroup"
    limits = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", maxsplit=2)
        if controllers == "":
            folder, file = groups, "memory.max"
        elif "memory" in controllers.split(","):
            folder, file = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # A container may see its own group at the top instead of under its full name.
        inside = Path(group.lstrip("/"))
        for around in (inside, *inside.parents):
            limits += [
                int(text) for text in _lines(folder / around / file) if text.isdigit()
            ]
    limits = [limit for limit in limits if limit < CGROUP_UNLIMITED_BYTES]
    return min(limits, default=None)


def _lines(path: Path) -> list[str]:
    """Lines of a small file; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def cuda_free_bytes() -> int | None:
    """Free memory of the first CUDA GPU; ``None`` without one."""
    # Here, as it costs seconds and a plan for a CPU can do without.
    import torch

    if not torch.cuda.is_available():
        return None
    free, _ = torch.cuda.mem_get_info(0)
    return int(free)
