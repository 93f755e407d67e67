"""U-Net, DeepMedic and the dual path network, trained for the same time.

    python benchmarks/networks.py --out results --budget 300 --picture networks.png

On hippocampi (40 of 200 cases are the test) and on head and neck CT (12 of 60), fixed
by a hash of their names. Printed: parameters, seconds per step, peak memory of training
and mean Dice of the test cases; and a picture of the last. Finished trainings are
kept; the same command goes on.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from trainings import (
    held_out_table,
    num_parameters,
    tested,
    trained_alike,
    training_parser,
)

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
    parser = training_parser(__doc__, budget=300)
    parser.add_argument("--picture", type=Path, default=Path("networks.png"))
    arguments = parser.parse_args()
    print("| data | network | parameters | steps | s/step | peak GB | Dice |")
    print("|---|---|---|---|---|---|---|")
    figure, every_axes = plt.subplots(1, len(DATA), figsize=(9, 3.5), squeeze=False)
    for data, axes in zip(DATA, every_axes[0], strict=True):
        table = held_out_table(data, DATA[data], arguments.out)
        for name, options in NETWORKS.items():
            run, record = trained_alike(
                arguments, table, f"{data}_{name.split()[0]}", options
            )
            measured = tested(run, table)
            dice = fmean(measured.mean(one, "dice") for one in measured.structures)
            print(
                f"| {data} | {name} | {num_parameters(run):,} | "
                f"{record['steps']:.0f} | {record['seconds_per_step']:.2f} | "
                f"{record['peak_gb']:.2f} | {dice:.4f} |",
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


if __name__ == "__main__":
    main()
