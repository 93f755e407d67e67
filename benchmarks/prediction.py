"""Time and peak memory of `foveal predict` on one full-size CT with eight classes.

    python benchmarks/prediction.py --out work

The scan and the weights are made up: memory and time do not depend on what they hold;
the command runs in a process of its own; its largest resident size is printed.
"""

import argparse
import shutil
from pathlib import Path

from made_up_ct import write_run, write_scan
from trainings import measured

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
        write_scan(scan, SHAPE, FILE_SPACING_MM, seed=0)
    run = arguments.out / "run"
    write_run(
        run,
        structures=STRUCTURES,
        spacing_mm=arguments.spacing_mm,
        patch_size=(96, 96, 64),
        network={},
        precision=arguments.precision,
        memory_layout="channels_last",
    )
    shutil.rmtree(arguments.out / "predictions", ignore_errors=True)
    seconds, peak_gb = measured(["predict", run, scan, arguments.out / "predictions"])
    print(
        f"{SHAPE} voxels, {len(STRUCTURES) + 1} classes, plan at "
        f"{tuple(arguments.spacing_mm)} mm: {seconds:.0f} s, "
        f"peak {peak_gb:.2f} GB"
    )


if __name__ == "__main__":
    main()
