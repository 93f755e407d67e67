"""U-Net, DeepMedic and the dual path network, trained for the same time.

    python benchmarks/networks.py --out results --budget 300 --picture networks.png

On hippocampi (40 of 200 cases are the test) and on head and neck CT (12 of 60), fixed
by a hash of their names. Printed: parameters, seconds per step, peak memory of training
and mean Dice of the test cases; and a picture of the last. Finished trainings are
kept; the same command goes on.
"""

import argparse
import hashlib
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from trainings import data_folder, tested, trained, write_table

import foveal

mpl.use("Agg")

DATA = {"hippocampus": 40, "headneck_ct": 12}
"""Data set to the number of test cases."""

NETWORKS: dict[str, dict[str, Any]] = {
    "U-Net (planned)": {},
    "DeepMedic": {"network.name": "deepmedic-thesis"},
    "dual path": {"network.name": "dual-path", "patches.batch_size": 2},
}
"""Name to options; everything else is the plan's or a default. All training cases are
trained on: validation would cost every network another share of its time."""


def main() -> None:
    """Train every network on every data set, test, print a table, draw the scores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=300, help="seconds each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path, default=Path("networks.png"))
    arguments = parser.parse_args()
    print("| data | network | parameters | steps | s/step | peak GB | Dice |")
    print("|---|---|---|---|---|---|---|")
    figure, every_axes = plt.subplots(1, len(DATA), figsize=(9, 3.5), squeeze=False)
    for data, axes in zip(DATA, every_axes[0], strict=True):
        table = held_out_table(data, arguments.out)
        for name, options in NETWORKS.items():
            run = arguments.out / f"{data}_{name.split()[0]}_{arguments.seed}"
            record = trained(
                table,
                run,
                arguments.budget,
                {
                    "store": (arguments.out / "store").as_posix(),
                    "training.seed": arguments.seed,
                    "training.threads": arguments.threads,
                    "splits.folds": 1,
                    **options,
                },
            )
            network = foveal.load_model(run).models[0].network
            parameters = sum(weights.numel() for weights in network.parameters())
            measured = tested(run, table)
            dice = fmean(measured.mean(one, "dice") for one in measured.structures)
            print(
                f"| {data} | {name} | {parameters:,} | {record['steps']:.0f} | "
                f"{record['seconds_per_step']:.2f} | {record['peak_gb']:.2f} | "
                f"{dice:.4f} |",
                flush=True,
            )
            axes.bar(name, dice)
            axes.annotate(
                f"{dice:.3f}\n{record['steps']:.0f} steps",
                (name, dice + 0.02),
                ha="center",
                va="bottom",
            )
        axes.set_title(data)
        axes.set_ylim(0, 1.1)
        axes.set_ylabel(f"test Dice after {arguments.budget:.0f} s")
    figure.tight_layout()
    figure.savefig(arguments.picture, dpi=120)


def held_out_table(data: str, out: Path) -> Path:
    """A table of a data set in which some cases, fixed by their names, are the test."""
    folder = data_folder(data)
    names = [case.name for case in foveal.read_dataset(folder).labelled]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return write_table(out / f"{data}.toml", folder, names[: DATA[data]])


if __name__ == "__main__":
    main()
