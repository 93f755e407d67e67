"""DeepMedic of the thesis on brain tumours: memory, whole-volume speed, accuracy.

Four patients (BRATS, FLAIR and T1c); three are trained on, the fourth is tested.

    python benchmarks/deepmedic.py --out results --budget 1200

Printed: the peak of convolution on this machine; the memory of training with batches of
10 segments of 25^3 (the thesis: 3 GB); seconds and memory of `foveal predict` for the
fourth patient's 240 x 240 x 155 voxels (the thesis: 5 to 10 minutes on a CPU), with the
share of the machine's peak; and Dice of the fourth patient's regions. A training that
was cut off goes on with the same command.
"""

import argparse
import math
import shutil
import time
from pathlib import Path

import torch
from trainings import data_folder, measured, tested, trained

import foveal
from foveal.case import CaseFiles
from foveal.settings_files import read_plan, read_settings

LABELS = {"necrosis": 1, "edema": 2, "non-enhancing": 3, "enhancing": 4}
REGIONS = {"whole": [1, 2, 3, 4], "core": [1, 3, 4], "enhancing": [4]}
TEST = "brats_2013_pat0006_1"


def main() -> None:
    """Train, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=1200, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="options", action="append", default=[])
    arguments = parser.parse_args()
    table = brats_table(arguments.out / "brats.toml")
    run = arguments.out / f"run_{arguments.budget:.0f}_{arguments.seed}"
    recipe = Path(__file__).resolve().parents[1] / "recipes" / "deepmedic_minutes.toml"
    settings = arguments.out / "deepmedic.toml"
    settings.write_text(
        "\n".join(
            f'dataset = "{table.name}"' if line.startswith("dataset") else line
            for line in recipe.read_text(encoding="utf-8").splitlines()
            # The length is an argument here.
            if not line.startswith("budget_seconds")
        )
    )
    record = trained(
        settings,
        run,
        arguments.budget,
        [
            f"training.seed={arguments.seed}",
            f'store="{(arguments.out / "store").as_posix()}"',
            *arguments.options,
        ],
    )
    print_thesis_batch(table, arguments.out)
    plan = read_plan(run / "plan.toml")
    print(
        f"training: batches of {plan.patches.batch_size} patches of "
        f"{plan.patches.size}: {record['steps']:.0f} steps of "
        f"{record['seconds_per_step']:.2f} s, peak {record['peak_gb']:.2f} GB",
        flush=True,
    )
    cases = foveal.read_dataset(table).cases
    image = next(case for case in cases if case.name == TEST)
    single = write_single(arguments.out / "single.toml", image)
    shutil.rmtree(arguments.out / "timed", ignore_errors=True)
    seconds, peak_gb = measured(["predict", run, single, arguments.out / "timed"])
    print(f"predict: {seconds:.1f} s, peak {peak_gb:.2f} GB", flush=True)
    print_share_of_peak(run)
    evaluation = tested(run, table)
    for name in evaluation.structures:
        print(f"Dice {name}: {evaluation.mean(name, 'dice'):.4f}")


def print_thesis_batch(table: Path, out: Path) -> None:
    """Time and memory of the thesis's batches: 10 segments of 25^3."""
    record = trained(
        table,
        out / "thesis_batch",
        60,
        {
            "network.name": "deepmedic-thesis",
            "patches.size": [55] * 3,
            "patches.batch_size": 10,
            "splits.folds": 1,
            "store": (out / "store").as_posix(),
        },
    )
    print(
        f"batches of 10 segments of 25^3 (patches of 55^3): "
        f"{record['seconds_per_step']:.2f} s/step, peak {record['peak_gb']:.2f} GB",
        flush=True,
    )


def brats_table(path: Path) -> Path:
    """The four patients with names for their labels and regions."""
    folder = data_folder("brats")
    lines = ['name = "BRATS"', 'channel_names = ["FLAIR", "T1c"]', "[labels]"]
    lines += [f"{name} = {value}" for name, value in LABELS.items()]
    lines += ["[regions]"]
    lines += [f"{name} = {values}" for name, values in REGIONS.items()]
    for case in sorted(folder.iterdir()):
        if not case.is_dir():
            continue
        root = case.resolve().as_posix()
        lines += [
            "[[cases]]",
            f'case = "{case.name}"',
            f'channels = ["{root}/flair.nii.gz", "{root}/t1c.nii.gz"]',
            f'label_map = "{root}/label.nii.gz"',
            f'mask = "{root}/brainmask.nii.gz"',
            f'split = "{"test" if case.name == TEST else "train"}"',
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_single(path: Path, case: CaseFiles) -> Path:
    """A table of the one case, to be predicted from its files."""
    channels = ", ".join(f'"{channel.path.as_posix()}"' for channel in case.channels)
    path.write_text(
        f'channel_names = ["FLAIR", "T1c"]\n[[cases]]\ncase = "{case.name}"\n'
        f'channels = [{channels}]\nmask = "{case.mask.as_posix()}"\n'
    )
    return path


def print_share_of_peak(run: Path) -> None:
    """How fast the network works on one tile, and how fast this machine convolves."""
    settings, _ = read_settings(run / "settings.toml")
    network = foveal.load_model(run).models[0].network.eval()
    precision = getattr(torch, settings.training.precision)
    layout = (
        torch.channels_last_3d
        if settings.training.memory_layout == "channels_last"
        else torch.contiguous_format
    )
    length = network.fitting_shape((46 + 78,) * 3)[0]
    image = torch.randn(1, 2, *(length,) * 3).contiguous(memory_format=layout)
    flops = convolution_flops(network, image)
    with torch.no_grad(), torch.autocast("cpu", precision, precision != torch.float32):
        seconds = fastest(lambda: network(image))
        many = torch.nn.Conv3d(64, 64, 3).to(memory_format=layout)
        tile = torch.randn(1, 64, 66, 66, 66).contiguous(memory_format=layout)
        peak = 2 * 27 * 64 * 64 * 64**3 / fastest(lambda: many(tile))
    print(
        f"one tile of {length}^3 ({settings.training.precision}, "
        f"{settings.training.memory_layout}): {seconds:.2f} s, "
        f"{flops / 1e9:.0f} GFLOP, {flops / seconds / 1e9:.0f} GFLOP/s, "
        f"{flops / seconds / peak:.0%} of the {peak / 1e9:.0f} GFLOP/s that a "
        "convolution of 64 by 64 channels reaches here"
    )


def fastest(call: object, rounds: int = 5) -> float:
    """Seconds of the fastest of a few calls, after one that warms up."""
    seconds = math.inf
    for number in range(1 + rounds):
        start = time.perf_counter()
        call()
        if number:
            seconds = min(seconds, time.perf_counter() - start)
    return seconds


def convolution_flops(network: torch.nn.Module, image: torch.Tensor) -> float:
    """Floating-point operations of the convolutions of one forward pass."""
    total = 0.0

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * layer.weight[0].numel() * output.numel()

    hooks = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if isinstance(layer, torch.nn.Conv3d)
    ]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return total


if __name__ == "__main__":
    main()
