"""What the dense CRF costs: a brain tumour patient, and volumes of growing size.

Run from the project's root: ``python benchmarks/crf.py --data ../shared/data``. Each
row is measured in a process of its own, so that its peak of memory is its own, several
times, of which the fastest counts. The kernels are the example of DeepMedic's authors:
smoothness 3 mm with weight 3; appearance 17 x 12 x 10 mm and 0.109 and 0.085 standard
deviations with weight 5; five iterations. The probabilities are made up: what matters
is their number. All is included but the reading of the files.

The volumes of growing size are cut from one made-up picture of blobs with noise, one
channel and no mask, so that every voxel takes part.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor

from foveal.crf.mean_field import DenseCrf, refined_probabilities

GREY_PER_DEVIATION = 255 / 6.2
"""The authors map -3.1 ... 3.1 standard deviations to 0 ... 255."""

BRATS = DenseCrf(
    smoothness_mm=(3.0, 3.0, 3.0),
    smoothness_weight=3.0,
    appearance_mm=(17.0, 12.0, 10.0),
    appearance_deviations=(4.5 / GREY_PER_DEVIATION, 3.5 / GREY_PER_DEVIATION),
    appearance_weight=5.0,
    iterations=5,
)
GROWING = DenseCrf(appearance_deviations=(0.2,))

SHAPES = ((64, 64, 64), (128, 128, 128), (256, 256, 100), (512, 512, 200))

BYTES_PER_GB = 1e9


def main() -> None:
    """Print a row per problem; with ``--row``, measure that one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", type=int, help="the first so many rows")
    parser.add_argument("--row", type=int)
    options = parser.parse_args()
    if options.row is not None:
        sys.stdout.write(json.dumps(measured(options)))
        return
    print("| volume | voxels | best s | CPU s | CPU s per million | peak GB |")
    print("|---|---|---|---|---|---|")
    for row in range(1 + len(SHAPES))[: options.only]:
        command = [sys.executable, __file__, "--row", str(row)]
        for name in ("data", "threads", "turns"):
            command += [f"--{name}", str(getattr(options, name))]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(answer.stdout)
        print(
            f"| {found['name']} | {found['voxels']:,} | {found['seconds']:.1f} "
            f"| {found['cpu_seconds']:.1f} "
            f"| {found['cpu_seconds'] / found['voxels'] * 1e6:.2f} "
            f"| {found['peak_gb']:.1f} |",
            flush=True,
        )


def measured(options: argparse.Namespace) -> dict[str, float | str]:
    """Seconds and memory of one row."""
    torch.set_num_threads(options.threads)
    if options.row == 0:
        name, crf = "brats, two channels", BRATS
        image, mask = brats_patient(options.data / "brats")
    else:
        shape = SHAPES[options.row - 1]
        name, crf = " x ".join(map(str, shape)), GROWING
        image, mask = blobs(shape), torch.ones(shape, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    foreground = torch.rand(mask.shape, generator=generator)
    probabilities = torch.stack([1 - foreground, foreground])
    del foreground
    walls, cpus = [], []
    for _ in range(options.turns):
        begin = time.perf_counter(), time.process_time()
        refined_probabilities(probabilities, image, (1.0, 1.0, 1.0), crf, mask=mask)
        walls.append(time.perf_counter() - begin[0])
        cpus.append(time.process_time() - begin[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "name": name,
        "voxels": int(mask.sum()),
        "seconds": min(walls),
        "cpu_seconds": min(cpus),
        "peak_gb": peak / BYTES_PER_GB,
    }


def brats_patient(folder: Path) -> tuple[Tensor, Tensor]:
    """FLAIR and T1c of the first patient, and the mask of the brain."""
    patient = min(path for path in folder.iterdir() if path.is_dir())

    def volume(name: str) -> Tensor:
        file = nibabel.load(patient / f"{name}.nii.gz")
        return torch.from_numpy(file.get_fdata(dtype=np.float32))

    # The mask is stored as 0.99999997.
    return torch.stack([volume("flair"), volume("t1c")]), volume("brainmask") > 0.5


def blobs(shape: tuple[int, int, int]) -> Tensor:
    """One channel of smooth structures some 20 voxels wide, and noise."""
    i, j, k = (torch.arange(length) / 10 for length in shape)
    image = torch.sin(i)[:, None, None] * torch.sin(j)[:, None] * torch.sin(k)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return (image + noise.mul_(0.1))[None]


if __name__ == "__main__":
    main()
