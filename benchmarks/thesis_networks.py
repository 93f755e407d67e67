"""Table 3.1 and Figure 3.7 of the DeepMedic thesis in small, on four brain tumours.

    python benchmarks/thesis_networks.py --out results --part networks --budget 300
    python benchmarks/thesis_networks.py --out results --part segments --budget 180

`networks`: the shallow baseline, the deep one with and without batch norm and He's
initialisation, the one with more parameters, and DeepMedic, each trained for the same
time. `segments`: the shallow baseline trained on single voxels drawn uniformly or
equally from tumour and background, and on segments of growing size whose batches have
about as many input voxels. Three patients train, the fourth is tested; the numbers are
of its whole tumour. Finished trainings are kept; the same command goes on.
"""

from typing import Any

from deepmedic import brats_table
from trainings import num_parameters, tested, trained_alike, training_parser

NETWORKS: dict[str, dict[str, Any]] = {
    "Shallow": {"network.name": "deepmedic-shallow"},
    "Shallow+": {
        "network.name": "deepmedic-shallow",
        "network.norm": "batch",
        "network.initialisation": "he",
    },
    "Deep": {
        "network.name": "deepmedic-deep",
        "network.norm": "none",
        "network.initialisation": "normal",
    },
    "Deep+": {"network.name": "deepmedic-deep"},
    "BigDeep+": {"network.name": "deepmedic-bigdeep"},
    "DeepMedic": {"network.name": "deepmedic-thesis"},
}
"""Name in the thesis to options."""

SEGMENTS = {"P-uni": 17, "P-eq": 17, "S-19": 19, "S-25": 25, "S-29": 29}
"""Name in the thesis to side length of what the network takes in, in voxels."""

VOXELS_PER_BATCH = 10 * 25**3


def main() -> None:
    """Train every configuration of a part, test, print a table."""
    parser = training_parser(__doc__, budget=300)
    parser.add_argument("--part", choices=["networks", "segments"], required=True)
    arguments = parser.parse_args()
    table = brats_table(arguments.out / "brats.toml")
    chosen = NETWORKS if arguments.part == "networks" else segment_options()
    print(
        "| name | parameters | steps | s/step | peak GB | Dice | sensitivity | "
        "precision |\n|---|---|---|---|---|---|---|---|"
    )
    for name, options in chosen.items():
        run, record = trained_alike(
            arguments,
            table,
            f"{arguments.part}_{name}",
            {**recipe_options(), **options},
        )
        measured = tested(run, table)
        scores = [
            f"{measured.mean('whole', metric):.3f}"
            for metric in ("dice", "sensitivity", "precision")
        ]
        print(
            f"| {name} | {num_parameters(run):,} | {record['steps']:.0f} | "
            f"{record['seconds_per_step']:.2f} | {record['peak_gb']:.2f} | "
            f"{' | '.join(scores)} |",
            flush=True,
        )


def recipe_options() -> dict[str, Any]:
    """How the thesis trains, as far as minutes allow."""
    return {
        "loss.dice": 0.0,
        "optimiser.name": "rmsprop",
        "optimiser.l1": 1e-6,
        "optimiser.l2": 1e-4,
        "patches.batch_size": 10,
    }


def segment_options() -> dict[str, dict[str, Any]]:
    """The shallow network with batches of about as many input voxels."""
    return {
        name: {
            "network.name": "deepmedic-shallow",
            "network.norm": "batch",
            "network.initialisation": "he",
            "patches.size": [length] * 3,
            "patches.batch_size": round(VOXELS_PER_BATCH / length**3),
            "sampling.sampler": "uniform" if name == "P-uni" else "class_balanced",
        }
        for name, length in SEGMENTS.items()
    }


if __name__ == "__main__":
    main()
