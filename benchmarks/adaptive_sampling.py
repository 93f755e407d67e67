"""What adaptive sampling costs: patches per second, and steps per second of training.

`patches`: patches of 64^3 drawn and read from made-up volumes of growing size whose
error maps are mostly small, beside TorchIO's WeightedSampler and MONAI's
RandWeightedCropd, which get the same law as a weight map. Each is one process with one
thread; they take turns, so that a machine that slows down slows all. All read files
that the operating system has cached: Foveal its store and error maps, the others
uncompressed arrays, the fastest there are. In further rows the others keep image, label
map and weight map of every case in memory. They have environments of their own:

    python -m venv torchio && torchio/bin/pip install "torchio==1.2.*"
    python -m venv monai && monai/bin/pip install "monai==1.6.*"
    python benchmarks/adaptive_sampling.py --part patches --out work \
        --torchio-python torchio/bin/python --monai-python monai/bin/python

`training`: the same training with and without isample, where a tenth of the time goes
into error maps, in turn:

    python benchmarks/adaptive_sampling.py --part training --out work

What was measured is kept in the folder; the same command goes on from there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

LENGTHS = (128, 256, 384)
NUM_VOLUMES = 2
PATCH = 64
EPSILON = 0.01

OURS = ("direct", "loop")
OTHERS = ("torchio", "torchio-in-memory", "monai", "monai-in-memory")

Volume = Mapping[str, np.ndarray]
"""Image, label map and weights, each with a channel axis."""

TRAININGS: dict[str, dict[str, Any]] = {
    "hippocampus": {"patches.size": [32, 48, 32], "training.steps": 400},
    "headneck_ct": {"patches.size": [48, 48, 48], "training.steps": 800},
}
"""Steps enough for several refreshes, of which a volume of 128^3 voxels needs more."""


def main() -> None:
    """Measure one of the two parts, or one of those who take turns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=["patches", "training"], default="patches")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--torchio-python", type=Path)
    parser.add_argument("--monai-python", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--data", nargs="+", choices=TRAININGS, default=[*TRAININGS])
    parser.add_argument("--steps", type=int, help="of training; unset: as each needs")
    parser.add_argument("--threads", type=int, default=2, help="of training")
    parser.add_argument("--inner", choices=[*OURS, *OTHERS])
    parser.add_argument("--length", type=int)
    arguments = parser.parse_args()
    if arguments.inner:
        if arguments.inner in OURS:
            found = time_foveal(arguments)
        elif arguments.inner.startswith("torchio"):
            found = time_torchio(arguments)
        else:
            found = time_monai(arguments)
        print("RESULT " + json.dumps(found))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.part == "patches":
        compare_patches(arguments)
    else:
        compare_trainings(arguments)


class Record:
    """What was measured before and need not be again, one line of a file each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._found = {
            row["name"]: row["found"]
            for row in (json.loads(line) for line in lines if line.endswith("}"))
        }

    def of(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Measure, unless that is done."""
        if name not in self._found:
            self._found[name] = measure()
            with self._path.open("a") as file:
                file.write(json.dumps({"name": name, "found": self._found[name]}))
                file.write("\n")
            print(f"{name}: {self._found[name]}", flush=True)
        return self._found[name]


# ------------------------------------------------------------------------- patches


def compare_patches(arguments: argparse.Namespace) -> None:
    """Patches per second of all, and their ratios to ours."""
    pythons = {name: Path(sys.executable) for name in OURS}
    for name in OTHERS:
        torchio = name.startswith("torchio")
        python = arguments.torchio_python if torchio else arguments.monai_python
        if python:
            pythons[name] = python
    record = Record(arguments.out / "patches.jsonl")
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for length in arguments.lengths:
        write_volumes(arguments.out, length)
    for turn in range(arguments.turns):
        for length in arguments.lengths:
            for name, python in pythons.items():
                measured = record.of(
                    f"turn {turn}, {length}^3, {name}, {arguments.seconds:g} s",
                    lambda name=name, python=python, length=length: run_inner(
                        name, python, length, arguments
                    ),
                )
                found.setdefault((name, length), []).append(measured)
    for measure, words in (
        ("per_second", "patches per second"),
        ("per_processor_second", "patches per second of the processor"),
    ):
        print_speeds(found, arguments.lengths, list(pythons), measure, words)
    cells = [
        f"{1000 * median(row['seconds_per_map'] for row in found['direct', n]):.0f} ms"
        for n in arguments.lengths
    ]
    print(f"\nonce per new map, direct: {', '.join(cells)}")


def print_speeds(
    found: Mapping[tuple[str, int], Sequence[Mapping[str, float]]],
    lengths: Sequence[int],
    names: Sequence[str],
    measure: str,
    words: str,
) -> None:
    """A table of medians, and how many times as fast the direct draw is."""

    def speeds(name: str, length: int) -> list[float]:
        return [row[measure] for row in found[name, length]]

    print(f"\n| {words} | {' | '.join(f'{n}^3' for n in lengths)} |")
    print("|---" * (len(lengths) + 1) + "|")
    for name in names:
        cells = [f"{median(speeds(name, length)):.3g}" for length in lengths]
        print(f"| {name} | {' | '.join(cells)} |")
    for name in [other for other in names if other not in OURS]:
        # Turn by turn, as the machine may be slower in one than in another.
        cells = [
            f"{median(np.divide(speeds('direct', n), speeds(name, n))):.1f}"
            for n in lengths
        ]
        print(f"| direct, times {name} | {' | '.join(cells)} |")


def run_inner(
    name: str, python: Path, length: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure one in a fresh process with one thread."""
    answer = subprocess.run(
        [
            *(str(python), __file__, "--inner", name, "--length", str(length)),
            *("--out", str(arguments.out), "--seconds", str(arguments.seconds)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = answer.stdout.splitlines()
    line = next(line for line in lines if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def write_volumes(out: Path, length: int) -> None:
    """Volumes, label maps, error maps and the weights that say the same, once."""
    for number in range(NUM_VOLUMES):
        folder = volume_folder(out, length, number)
        if (folder / "weights.npy").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng([length, number])
        image, label_map, error = made_up(length, generator)
        np.save(folder / "image.npy", image)
        np.save(folder / "label_map.npy", label_map)
        np.save(folder / "error.npy", error)
        # Last: where it is, all is.
        np.save(folder / "weights.npy", class_equal_weights(label_map, error))


def volume_folder(out: Path, length: int, number: int) -> Path:
    """Where a made-up volume lies."""
    return out / "volumes" / f"{length}_{number}"


def made_up(
    length: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise as in a CT of whole numbers, balls, and errors as after some training.

    Two balls fill 0.3 % of the volume. Errors are large at their surfaces and in a
    thousandth of the other voxels, and below 1 % elsewhere.
    """
    shape = (length,) * 3
    image = generator.normal(scale=20, size=shape).round().astype(np.float32)
    radius = length * (0.003 / 2 / (4 / 3 * np.pi)) ** (1 / 3)
    label_map = np.zeros(shape, np.uint8)
    error = generator.integers(0, 3, shape, np.uint8)
    error[generator.random(shape, np.float32) < 0.001] = 200
    axes = np.ogrid[:length, :length, :length]
    for label in (1, 2):
        centre = generator.uniform(0.3 * length, 0.7 * length, 3)
        squares = [
            ((axis - middle) ** 2).astype(np.float32)
            for axis, middle in zip(axes, centre, strict=True)
        ]
        distance = np.sqrt(squares[0] + squares[1] + squares[2])
        label_map[distance < radius] = label
        surface = np.abs(distance - radius) < 1.5
        error[surface] = generator.integers(20, 256, np.count_nonzero(surface))
    return image, label_map, error


def class_equal_weights(label_map: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Weight of every voxel under isample with background and structures alike."""
    accepted = np.minimum(error / np.float32(255) + np.float32(EPSILON), 1)
    counts = np.bincount(label_map.ravel(), minlength=3)
    # A mean weight of 1, so that sums of single precision lose little.
    chance = (label_map.size / (3 * counts)).astype(np.float32)
    return accepted * chance[label_map]


def timed(draw: Callable[[int], object], seconds: float) -> dict[str, float]:
    """Draws per second, and per second of the processor, after some to warm up.

    With one thread the two are the same, but for other programs on the machine.
    """
    for number in range(NUM_VOLUMES):
        draw(number)
    start, processor_start, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        draw(count)
        count += 1
    return {
        "per_second": count / (time.perf_counter() - start),
        "per_processor_second": count / (time.process_time() - processor_start),
    }


def volumes(arguments: argparse.Namespace) -> Callable[[int], Volume]:
    """The volumes one after the other, from files or from memory."""

    def read(number: int) -> Volume:
        folder = volume_folder(arguments.out, arguments.length, number % NUM_VOLUMES)
        names = ("image", "label_map", "weights")
        return {name: np.load(folder / f"{name}.npy")[np.newaxis] for name in names}

    if not arguments.inner.endswith("in-memory"):
        return read
    kept = [read(number) for number in range(NUM_VOLUMES)]
    return lambda number: kept[number % NUM_VOLUMES]


def time_torchio(arguments: argparse.Namespace) -> dict[str, float]:
    """One patch of one volume after the other."""
    import torch
    import torchio

    torch.set_num_threads(1)
    volume_of = volumes(arguments)
    sampler = torchio.WeightedSampler(PATCH, "weights")

    def draw(count: int) -> None:
        volume = {name: torch.from_numpy(v) for name, v in volume_of(count).items()}
        subject = torchio.Subject(
            image=torchio.ScalarImage(tensor=volume["image"]),
            label_map=torchio.LabelMap(tensor=volume["label_map"]),
            weights=torchio.Image(tensor=volume["weights"], type=torchio.SAMPLING_MAP),
        )
        patch = next(iter(sampler(subject, 1)))
        for name in ("image", "label_map"):
            require_patch(patch[name].data.contiguous().shape)

    return timed(draw, arguments.seconds)


def time_monai(arguments: argparse.Namespace) -> dict[str, float]:
    """One patch of one volume after the other."""
    import torch
    from monai.transforms import RandWeightedCropd

    torch.set_num_threads(1)
    volume_of = volumes(arguments)
    crop = RandWeightedCropd(["image", "label_map"], "weights", (PATCH,) * 3)
    crop.set_random_state(0)

    def draw(count: int) -> None:
        volume = {name: torch.from_numpy(v) for name, v in volume_of(count).items()}
        (patch,) = crop(volume)
        for name in ("image", "label_map"):
            # A part of a volume is no patch of a batch until it is copied.
            require_patch(patch[name].contiguous().shape)

    return timed(draw, arguments.seconds)


def require_patch(shape: Sequence[int]) -> None:
    """Refuse a speed of something else."""
    if tuple(shape) != (1, PATCH, PATCH, PATCH):
        raise AssertionError(f"a patch of {tuple(shape)} was drawn")


def time_foveal(arguments: argparse.Namespace) -> dict[str, float]:
    """One patch of all volumes, from files."""
    from functools import partial

    import torch

    from foveal.engine.error_maps import ErrorMapFolder
    from foveal.inference.errors import CaseErrors
    from foveal.sampling.adaptive import AdaptiveSampler
    from foveal.sampling.laws import class_equal
    from foveal.sampling.samplers import BaseSampler

    torch.set_num_threads(1)
    cases = stored_volumes(arguments)
    maps = ErrorMapFolder(
        arguments.out / f"error_maps_{arguments.length}",
        {case.name: case for case in cases},
    )
    for number, case in enumerate(cases):
        if maps.newest(case.name) is None:
            folder = volume_folder(arguments.out, arguments.length, number)
            maps.write(case.name, 1, CaseErrors(np.load(folder / "error.npy"), 0.5, {}))
        maps.use(case.name, 1)
    sampler = AdaptiveSampler(
        BaseSampler(partial(class_equal, structures=((1,), (2,)))),
        maps,
        epsilon=EPSILON,
        mode="loop" if arguments.inner == "loop" else "direct",
    )
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> None:  # noqa: ARG001 - which case, the sampler draws
        found = sampler.draw(cases, (PATCH,) * 3, generator)
        window = [slice(corner, corner + PATCH) for corner in found.corner]
        case = cases[found.case_index]
        case.read_image(window)
        case.read_label_map(window)

    start = time.perf_counter()
    draw(0)
    # The first draw sums the maps of all volumes up.
    first = (time.perf_counter() - start) / NUM_VOLUMES
    return {**timed(draw, arguments.seconds), "seconds_per_map": first}


def stored_volumes(arguments: argparse.Namespace) -> Sequence[Any]:
    """The volumes as cases of a store, written once."""
    from foveal.geometry import Grid
    from foveal.store.store import Store

    store = Store(arguments.out / "store")
    cases = []
    for number in range(NUM_VOLUMES):
        folder = volume_folder(arguments.out, arguments.length, number)
        key = folder.name
        if not store.contains(key):
            image = np.load(folder / "image.npy")
            store.write(
                key,
                image[np.newaxis],
                np.load(folder / "label_map.npy"),
                Grid(image.shape, np.eye(4)),
                num_classes=3,
                annotated=None,
            )
        cases.append(store.open(key, name=key, patient=key))
    return cases


# ------------------------------------------------------------------------ training


def compare_trainings(arguments: argparse.Namespace) -> None:
    """Steps per second with and without isample, and their ratio."""
    record = Record(arguments.out / "trainings.jsonl")
    speeds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for turn in range(arguments.turns):
        for data in arguments.data:
            # The other way round in every other turn, should the machine change.
            arms = ["without", "isample"][:: -1 if turn % 2 else 1]
            for arm in arms:
                found = record.of(
                    f"turn {turn}, {data}, {arm}, {arguments.steps or 'usual'} steps",
                    lambda data=data, arm=arm: train(data, arm, arguments),
                )
                speeds.setdefault((data, arm), []).append(found)
    print(
        "\n| data | steps/s without | with isample | ratio, turn by turn | refreshes |"
    )
    print("|---|---|---|---|---|")
    for data in arguments.data:
        without, adaptive = (
            [found["per_second"] for found in speeds[data, arm]]
            for arm in ("without", "isample")
        )
        ratios = np.divide(adaptive, without)
        refreshes = fmean(found["refreshes"] for found in speeds[data, "isample"])
        print(
            f"| {data} | {median(without):.2f} | {median(adaptive):.2f} | "
            f"**{median(ratios):.3f}** ({', '.join(f'{r:.3f}' for r in ratios)}) | "
            f"{refreshes:.0f} |"
        )


def train(data: str, arm: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Train in a process of its own; steps by the seconds that they and maps took."""
    import tempfile

    from trainings import data_folder, trained

    from foveal.engine.log import read_log

    options = {
        **TRAININGS[data],
        "store": (arguments.out / "store").resolve().as_posix(),
        "network.features": [16, 32, 64],
        "network.kernels": [[3, 3, 3]] * 3,
        "network.strides": [[2, 2, 2]] * 2,
        "patches.batch_size": 2,
        "sampling.sampler": "class_equal",
        "training.threads": arguments.threads,
        "training.precision": "bfloat16",
        "training.memory_layout": "channels_last",
        # No validation: only steps are compared.
        "splits.folds": 1,
    }
    if arguments.steps:
        options["training.steps"] = arguments.steps
    if arm == "isample":
        options |= {"sampling.adaptive": True, "error_maps.refresh_fraction": 0.1}
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        run = Path(folder) / "run"
        trained(data_folder(data), run, None, options)
        rows = read_log(run / "log.jsonl")
    steps = [row for row in rows if row["kind"] == "step"]
    refreshes = [row for row in rows if row["kind"] == "refresh"]
    # The first steps warm up.
    warm = [row for row in steps if row["step"] >= len(steps) // 20]
    seconds = sum(row["seconds"] + row["waited_seconds"] for row in warm)
    paused = sum(row["seconds"] for row in refreshes)
    return {
        "per_second": len(warm) / (seconds + paused),
        "refreshes": len(refreshes),
        "paused_fraction": paused / (seconds + paused),
        "waiting_fraction": sum(row["waited_seconds"] for row in warm)
        / (seconds + paused),
    }


if __name__ == "__main__":
    main()
