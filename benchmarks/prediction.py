"""Time and peak memory of `foveal predict` on one full-size CT with eight classes.

    python benchmarks/prediction.py --out work

The scan and the weights are made up: memory and time do not depend on what they hold;
the command runs in a process of its own; its largest resident size is printed.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import torch

from foveal import build, config
from foveal.engine.checkpoints import save_checkpoint

SHAPE = (512, 512, 200)
FILE_SPACING_MM = (0.8, 0.8, 2.0)
STRUCTURES = tuple(f"organ_{n}" for n in range(1, 8))


def main() -> None:
    """Make scan and run, predict, print seconds and gigabytes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--spacing-mm", type=float, nargs=3, default=(1.6, 1.6, 2.0), help="of the plan"
    )
    parser.add_argument("--precision", default="bfloat16")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    scan = arguments.out / "scan.nii.gz"
    if not scan.exists():
        write_scan(scan)
    run = arguments.out / "run"
    write_run(run, tuple(arguments.spacing_mm), arguments.precision)
    shutil.rmtree(arguments.out / "predictions", ignore_errors=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "foveal", "predict", str(run), str(scan)]
    process = psutil.Popen([*command, str(arguments.out / "predictions")])
    peak = 0
    while process.poll() is None:
        try:
            memory = process.memory_info()
        except psutil.Error:
            break
        peak = max(peak, getattr(memory, "peak_wset", memory.rss))
        time.sleep(0.02)
    if process.wait() != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    print(
        f"{SHAPE} voxels, {len(STRUCTURES) + 1} classes, plan at "
        f"{tuple(arguments.spacing_mm)} mm: {time.perf_counter() - start:.0f} s, "
        f"peak {peak / 1e9:.2f} GB"
    )


def write_scan(path: Path) -> None:
    """Noise with some structure, in HU."""
    generator = np.random.default_rng(0)
    coarse = generator.normal(0, 300, [length // 8 for length in SHAPE])
    image = np.kron(coarse, np.ones((8, 8, 8))).astype(np.int16)
    image += generator.integers(-20, 20, SHAPE, dtype=np.int16)
    nib.save(nib.Nifti1Image(image, np.diag([*FILE_SPACING_MM, 1.0])), path)


def write_run(run: Path, spacing_mm: tuple[float, ...], precision: str) -> None:
    """A run with fresh weights, as training would leave it."""
    plan = config.Plan.model_validate(
        {
            "dataset_name": "made up",
            "labels": {
                "names": STRUCTURES,
                "values": range(1, len(STRUCTURES) + 1),
            },
            "preprocessing": {
                "spacing_mm": spacing_mm,
                "channels": [
                    {
                        "name": "CT",
                        "normalisation": "ct",
                        "clip": (-1000, 1000),
                        "mean": 0,
                        "deviation": 300,
                    }
                ],
            },
            "patches": {"size": (96, 96, 64), "batch_size": 2},
            "network": {},
        }
    )
    settings = config.Settings.model_validate(
        {"training": {"precision": precision, "memory_layout": "channels_last"}}
    )
    run.mkdir(parents=True, exist_ok=True)
    (run / "plan.toml").write_text(config.to_toml(plan))
    (run / "settings.toml").write_text(config.to_toml(settings))
    torch.manual_seed(0)
    weights = build.planned_network(plan).state_dict()
    save_checkpoint(
        run / "checkpoints",
        "best",
        {f"predictor.{name}": tensor for name, tensor in weights.items()},
        {"step": 0},
    )


if __name__ == "__main__":
    main()
