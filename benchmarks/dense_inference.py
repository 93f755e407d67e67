"""Four ways to classify every voxel with a network that has strides, side by side.

Run from the project's root: ``python benchmarks/dense_inference.py``. Two small chains
after VGG with made-up weights, on a made-up picture and volume. All ways compute the
same; the largest difference from the atrous network is printed. Seconds are those of
the processor, on one thread, so that other programs matter little.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from foveal.inference.atrous import atrous
from foveal.inference.chains import Chain
from foveal.inference.fast_scanning import fast_scanning
from foveal.inference.patch_by_patch import patch_by_patch
from foveal.inference.shift_and_stitch import shift_and_stitch

SEED = 0
TURNS = 5

SIZES = {
    "picture": (2, (16, 32, 64), 64),
    "volume": (3, (8, 16), 16),
}
"""Axes, features between poolings, predictions along each axis."""


def main() -> None:
    """Print one table per chain."""
    torch.set_num_threads(1)
    for name, (axes, features, length) in SIZES.items():
        torch.manual_seed(SEED)
        layers = vgg_like(axes, features).eval()
        chain = Chain(layers)
        shape = [length + field - 1 for field in chain.receptive_field]
        image = torch.randn(1, 1, *shape)
        print(
            f"\n{name}: {length}^{axes} predictions, stride {chain.stride[0]}, "
            f"receptive field {chain.receptive_field[0]}\n"
            "way               CPU s    GFLOP  difference"
        )
        compare(layers, image)


def vgg_like(axes: int, features: tuple[int, ...]) -> nn.Sequential:
    """Two convolutions and a pooling, repeated; then what was fully connected."""
    convolution = (nn.Conv2d, nn.Conv3d)[axes - 2]
    pooling = (nn.MaxPool2d, nn.MaxPool3d)[axes - 2]
    layers = nn.Sequential()
    channels = 1
    for wanted in features:
        for _ in range(2):
            layers.extend([convolution(channels, wanted, 3), nn.ReLU()])
            channels = wanted
        layers.append(pooling(2))
    layers.extend([convolution(channels, 2 * channels, 4), nn.ReLU()])
    layers.append(convolution(2 * channels, 2, 1))
    return layers


def compare(layers: nn.Sequential, image: Tensor) -> None:
    """The ways in turn, so that other programs disturb all of them alike."""
    dense = atrous(layers)
    ways: dict[str, Callable[[], Tensor]] = {
        "atrous": lambda: torch.inference_mode()(dense)(image),
        "fast scanning": lambda: fast_scanning(layers, image),
        "shift-and-stitch": lambda: shift_and_stitch(layers, image),
        "patch by patch": lambda: patch_by_patch(layers, image),
    }
    results, operations = {}, {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS):
        for name, way in ways.items():
            # It takes longer than all other turns together.
            if name == "patch by patch" and turn > 0:
                continue
            with FlopCounterMode(display=False) as counter:
                start = time.process_time()
                results[name] = way()
                seconds[name].append(time.process_time() - start)
            operations[name] = counter.get_total_flops()
    for name, result in results.items():
        difference = float((result - results["atrous"]).abs().max())
        print(
            f"{name:16}  {min(seconds[name]):7.3f}  {operations[name] / 1e9:5.1f}  "
            f"{difference:.0e}"
        )


if __name__ == "__main__":
    main()
