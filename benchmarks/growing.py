"""Memory and time of commands as the number of cases grows.

Run from the project's root: ``python benchmarks/growing.py``. The cases are made up and
small, so what a command keeps of every case stands out from what it needs for the one
that it works on. Each command runs in a process of its own, whose largest memory the
system reports. Linux and macOS only.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from made_up_cases import SMALLEST_RUN, write_balls

LENGTH = 24
"""Voxels per axis."""

SMALL = (
    *SMALLEST_RUN,
    "training.validate_every_steps=20",
)


class Cost(NamedTuple):
    """Of one process."""

    seconds: float
    peak_mb: float


def main() -> None:
    """Print one row per command and number of cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--out", type=Path, help="folder that is kept")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="foveal-growing-"))
    print("cases | command | seconds | ms per case | peak MB")
    print("---|---|---|---|---")
    for num_cases in arguments.cases:
        place = out / str(num_cases)
        dataset = write_balls(place / "dataset", num_cases, LENGTH)
        for name, words in commands(dataset, place).items():
            cost = measured(words)
            print(
                f"{num_cases} | {name} | {cost.seconds:.1f} | "
                f"{1000 * cost.seconds / num_cases:.0f} | {cost.peak_mb:.0f}",
                flush=True,
            )
    if arguments.out is None:
        shutil.rmtree(out)


def commands(dataset: Path, place: Path) -> dict[str, list[str]]:
    """Name to words behind ``foveal``, in the order in which they need each other."""
    plan, store, run = (str(place / name) for name in ("plan.toml", "store", "run"))
    options = [word for option in SMALL for word in ("--set", option)]
    return {
        "plan": ["plan", str(dataset), "-o", plan, "--threads", "2"],
        "preprocess": [
            *("preprocess", str(dataset), "--plan", plan, "--store", store),
            *("--threads", "2"),
        ],
        "train, 20 steps": [
            *("train", str(dataset), "--out", run, "--plan", plan, "--steps", "20"),
            *(*options, "--set", f"store={store}"),
        ],
    }


def measured(words: Sequence[str]) -> Cost:
    """Run a command, which must end well."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "foveal", *words], stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"foveal {' '.join(words)} failed:\n{said.read()}")
    # Linux counts kilobytes, macOS bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return Cost(time.perf_counter() - start, usage.ru_maxrss / unit)


if __name__ == "__main__":
    main()
