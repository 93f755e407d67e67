"""Hundreds of scans in one go: memory over the night, speed, a kill and a resume.

    python benchmarks/night.py --out work

200 made-up scans and a small network with fresh weights: memory and time do not depend
on what they hold. Each prediction is a process of its own; its resident memory is read
when its record reaches 20, 100 and 200 cases. One run reads, computes and writes one
after the other, as without the overlap. The last one is killed half way and resumed,
and must leave the same files.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
from made_up_ct import write_run, write_scan

from foveal.inference.record import RECORD_FILE

NUM_CASES = 200
SHAPE = (96, 96, 64)
FILE_SPACING_MM = (1.0, 1.0, 1.0)
PLAN_SPACING_MM = (2.0, 2.0, 2.0)
MARKS = (20, 100, 200)

ONE_BY_ONE = """
import sys
from foveal.commands import predict

def in_turn(items, read, compute, write):
    for item in items:
        yield write(compute(read(item)))

predict.overlapped = in_turn
predict.predict(*sys.argv[1:4], threads=int(sys.argv[4]))
"""


def main() -> None:
    """Make scans and model, predict thrice, print memory and seconds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    out, threads = arguments.out, str(arguments.threads)
    scans, run = out / "scans", out / "run"
    write_scans(scans)
    write_run(
        run,
        structures=("a", "b", "c"),
        spacing_mm=PLAN_SPACING_MM,
        patch_size=(32, 32, 32),
        network={
            "features": (4, 8),
            "kernels": ((3, 3, 3),) * 2,
            "strides": ((2, 2, 2),),
        },
        precision="float32",
        memory_layout="contiguous",
    )
    for name in ("overlapped", "in_turn", "killed"):
        shutil.rmtree(out / name, ignore_errors=True)
    foveal = [sys.executable, "-m", "foveal", "predict", str(run), str(scans)]
    one_by_one = [sys.executable, "-c", ONE_BY_ONE, str(run), str(scans)]
    options = ["--threads", threads, "--resume"]
    watch(out / "overlapped", foveal, options)
    watch(out / "in_turn", one_by_one, [threads])
    watch(out / "killed", foveal, options, kill_at=NUM_CASES // 2)
    watch(out / "killed", foveal, options)
    for name in ("in_turn", "killed"):
        require_equal(out / "overlapped", out / name)
    print("all three left the same files, and no others")


def watch(
    folder: Path, command: list[str], options: list[str], kill_at: int | None = None
) -> None:
    """Predict into a folder and print what memory it took and how fast it was."""
    record = folder / RECORD_FILE
    before = lines_of(record)
    process = psutil.Popen(
        [*command, str(folder), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    memory: dict[int, float] = {}
    started, first = None, before
    while process.poll() is None:
        lines = lines_of(record)
        if started is None and lines > before:
            started, first = time.perf_counter(), lines
        for mark in MARKS:
            if mark not in memory and lines >= mark > before:
                memory[mark] = process.memory_info().rss / 1e6
        if kill_at is not None and lines >= kill_at:
            process.kill()
            break
        time.sleep(0.01)
    status = process.wait()
    if kill_at is None and status != 0:
        raise subprocess.CalledProcessError(status, command)
    last = lines_of(record)
    if started is None:
        raise RuntimeError(f"no case was predicted into {folder}")
    each = (time.perf_counter() - started) / max(last - first, 1)
    sizes = ", ".join(f"{size:.0f} MB at {mark}" for mark, size in memory.items())
    print(
        f"{folder.name}, lines {before + 1} to {last}: {each:.3f} s per case; "
        f"resident {sizes}",
        flush=True,
    )


def lines_of(record: Path) -> int:
    """Cases recorded so far."""
    return record.read_bytes().count(b"\n") if record.exists() else 0


def require_equal(expected: Path, found: Path) -> None:
    """Stop if two folders hold other files; the records differ in times."""
    names = sorted(path.name for path in expected.iterdir())
    if names != sorted(path.name for path in found.iterdir()):
        raise RuntimeError(f"{found} holds other files than {expected}")
    volumes = [name for name in names if name != RECORD_FILE]
    same, *different = filecmp.cmpfiles(expected, found, volumes, shallow=False)
    if len(same) != NUM_CASES:
        raise RuntimeError(f"{found} differs from {expected}: {different}")


def write_scans(folder: Path) -> None:
    """Noise with some structure, in HU."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(NUM_CASES):
        path = folder / f"scan_{number:03d}.nii.gz"
        if not path.exists():
            write_scan(path, SHAPE, FILE_SPACING_MM, seed=number)


if __name__ == "__main__":
    main()
