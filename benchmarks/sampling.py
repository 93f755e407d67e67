"""Patches per second from the store, and what a patch costs in a large volume.

Run from the project's root: ``python benchmarks/sampling.py``. Real scans are read from
``FOVEAL_DATA`` (default ``../shared/data``); sets that are absent are skipped with a
line that says so. Files come from the operating system's cache, as in training after
the first epoch.
"""

import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from foveal.commands.plan import usable_threads
from foveal.commands.preprocess import preprocess
from foveal.geometry import Grid
from foveal.store.store import Store, StoredCase

DATA = Path(
    os.environ.get(
        "FOVEAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"
    )
)
PATCH_LENGTHS = (64, 128)
SECONDS_PER_MEASUREMENT = 2.0


def main() -> None:
    """Print one table for the real sets and one for the made-up volumes."""
    print(f"{platform.processor() or platform.machine()}, {usable_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        print("\nset           voxels of the first  patch  threads  patches/s  MB/s")
        for name in ("hippocampus", "headneck_ct", "brats"):
            if not (DATA / name).is_dir():
                print(f"{name}: skipped, no folder {DATA / name}; set FOVEAL_DATA")
                continue
            source = _brats_table(Path(folder)) if name == "brats" else DATA / name
            _measure_set(name, preprocess(source, store=Path(folder) / "store"))
        _compare_volumes(Path(folder) / "made_up")


def _measure_set(name: str, cases: Sequence[StoredCase]) -> None:
    for length in PATCH_LENGTHS:
        for threads in sorted({1, usable_threads()}):
            speed = patches_per_second(cases, length, threads)
            patch = [min(length, along) for along in cases[0].shape]
            bytes_per_patch = 5 * cases[0].num_channels * np.prod(patch)
            print(
                f"{name:12}  {cases[0].shape!s:19}  {length:5}  {threads:7}  "
                f"{speed:9.0f}  {speed * bytes_per_patch / 1e6:.0f}"
            )


def patches_per_second(cases: Sequence[StoredCase], length: int, threads: int) -> float:
    """Read image and label map of patches anywhere, as loader threads do."""
    counts = [0] * threads
    end = time.perf_counter() + SECONDS_PER_MEASUREMENT

    def read(thread: int) -> None:
        generator = np.random.default_rng(thread)
        while time.perf_counter() < end:
            case = cases[generator.integers(len(cases))]
            _read_patch(case, length, generator)
            counts[thread] += 1

    start = time.perf_counter()
    workers = [threading.Thread(target=read, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)


def _compare_volumes(folder: Path) -> None:
    """The same patch from a small and a large volume, in turn."""
    cases = [_made_up_case(Store(folder), length) for length in (128, 512)]
    generator = np.random.default_rng(0)
    milliseconds: dict[int, list[float]] = {0: [], 1: []}
    for repetition in range(400):
        n = repetition % 2
        seconds = _timed(lambda case=cases[n]: _read_patch(case, 64, generator))
        milliseconds[n].append(1000 * seconds)
    small, large = (float(np.median(times)) for times in milliseconds.values())
    print(
        f"\na 64^3 patch from 128^3: {small:.2f} ms, from 512^3: {large:.2f} ms, "
        f"ratio {large / small:.2f} (medians)"
    )


def _made_up_case(store: Store, length: int) -> StoredCase:
    """Noise as in a CT of whole numbers, with a label in every eighth of the volume."""
    generator = np.random.default_rng(length)
    shape = (length, length, length)
    image = generator.normal(scale=20, size=shape).round().astype(np.float32)
    label_map = np.zeros(shape, np.uint8)
    label_map[:: length // 8] = 1
    key = f"made-up-{length}"
    store.write(
        key,
        image[np.newaxis],
        label_map,
        Grid(shape, np.eye(4)),
        num_classes=2,
        annotated=None,
    )
    return store.open(key, name=key, patient=key)


def _read_patch(case: StoredCase, length: int, generator: np.random.Generator) -> None:
    window = []
    for along in case.shape:
        start = int(generator.integers(max(along - length, 0) + 1))
        window.append(slice(start, min(start + length, along)))
    case.read_image(window)
    case.read_label_map(window)


def _timed(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _brats_table(folder: Path) -> Path:
    lines = [
        'channel_names = ["FLAIR", "T1c"]',
        "labels = { necrosis = 1, oedema = 2, solid = 3, enhancing = 4 }",
    ]
    for case in sorted(path for path in (DATA / "brats").iterdir() if path.is_dir()):
        lines += [
            "[[cases]]",
            f"case = '{case.name}'",
            f"channels = ['{case / 'flair.nii.gz'}', '{case / 't1c.nii.gz'}']",
            f"label_map = '{case / 'label.nii.gz'}'",
            f"mask = '{case / 'brainmask.nii.gz'}'",
        ]
    table = folder / "brats.toml"
    table.write_text("\n".join(lines), encoding="utf-8")
    return table


if __name__ == "__main__":
    main()
