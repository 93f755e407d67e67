"""Members, ensembles and the CRF as in the thesis's tables 3.3 and 4.2, in small.

    python benchmarks/ensembles.py --part members --out results
    python benchmarks/ensembles.py --part crf --out results
    python benchmarks/ensembles.py --part brats --out results

Kamnitsas 2019, "Efficient and Robust Deep Learning for Medical Image Segmentation"
(Imperial College London), on networks that train for a minute or two. `members`: five
unlike networks on hippocampi (table 4.2), and ensembles of the first 2, 3, 4 and 5 of
them, by mean probabilities; the order is fixed beforehand. 40 of 200 cases are the test
and 20 validation, by a hash of their names. `crf`: a network of three seeds, single and
together, without and with the CRF (table 3.3), on the same cases. `brats`: the same
for four patients with brain tumours, of whom each is the test once, the next is
validation and two train. Parameters of the CRF are chosen on validation cases as the
network of the first seed predicts them, and serve all seeds and the ensemble. `dropout`
only trains: the U-Net with dropout that `uncertainty.py` looks at.

Told are means over test cases and their standard deviation, seeds averaged per case
first; p is of two-sided paired tests over cases, in brackets adjusted by Holm's method
for all tests of the table. With four patients the signed-rank test cannot go below
0.125.

All members make the same number of steps and the number format is fixed, so that other
programs on the machine change nothing. Whatever is finished is kept; the same command
goes on.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from deepmedic import brats_table
from trainings import held_out_table, trained, write_table

import foveal
from foveal import building
from foveal.commands.choosing import class_counts, dice_of_counts
from foveal.commands.tune_crf import crf_trials
from foveal.commands.validation_probabilities import ValidationCase, ValidationCases
from foveal.config.postprocessing import CrfConfig, PostprocessingConfig
from foveal.crf.mean_field import refined_probabilities
from foveal.engine.log import read_log
from foveal.inference.restore import decided_classes
from foveal.metrics.comparison import Difference, System, compare_systems
from foveal.metrics.evaluation import Evaluation, joined, read_evaluation
from foveal.settings_files import write_postprocessing

NUM_TEST = 40
NUM_VALIDATION = 20
WHOLE = {"whole": [1, 2]}
"""What hippocampi are measured as, beside their two parts."""

CROSS_ENTROPY = {"loss.cross_entropy": 1.0, "loss.dice": 0.0}

UNET: dict[str, Any] = {
    "network.features": [12, 24, 48],
    "network.kernels": [[3, 3, 3]] * 3,
    "network.strides": [[2, 2, 2]] * 2,
}
"""Smaller than the plan's, which has four stages from 16 channels on."""

DEEPMEDIC: dict[str, Any] = {
    "network.name": "deepmedic-thesis",
    "network.features": [16, 16, 24, 24, 32, 32],
    "network.hidden_features": [64, 64],
    # 18^3 voxels are predicted of a patch.
    "patches.size": [52, 52, 52],
    "patches.batch_size": 2,
    **CROSS_ENTROPY,
}

MEMBERS: dict[str, dict[str, Any]] = {
    "unet_cross_entropy_dice": UNET,
    "deepmedic": DEEPMEDIC,
    "unet_iou": {
        **UNET,
        "loss.cross_entropy": 0.0,
        "loss.dice": 0.0,
        "loss.iou": 1.0,
    },
    "fcn": {
        "network.name": "fcn3d",
        "network.features": [12, 24, 48],
        "network.strides": [[2, 2, 2]] * 2,
        "patches.size": [32, 48, 32],
        "patches.batch_size": 4,
        "sampling.sampler": "class_equal",
        **CROSS_ENTROPY,
    },
    "unet_dice": {**UNET, "loss.cross_entropy": 0.0, "loss.dice": 1.0},
}
"""Options by name, in the order in which ensembles grow."""

DROPOUT: dict[str, Any] = {
    "network.name": "unet3d-spleen",
    "network.width": 8,
    "network.upsampling_kernel": 1,
    "network.norm": "none",
    "network.dropout_fraction": 0.5,
    "patches.size": [32, 48, 32],
    "patches.batch_size": 2,
    "optimiser.name": "adam",
    "optimiser.learning_rate": 1e-3,
    **CROSS_ENTROPY,
}
"""As in recipes/spleen_unet_dropout.toml, for hippocampi."""

BRATS: dict[str, Any] = {
    **DEEPMEDIC,
    # Sees all around in a minute's training; the CRF works on the scans' own 1 mm.
    "preprocessing.spacing_mm": [2.0, 2.0, 2.0],
    "preprocessing.channels": [
        {"name": name, "normalisation": "zscore"} for name in ("FLAIR", "T1c")
    ],
    "sampling.sampler": "class_equal",
}

OF_MEMBERS = ("dice", "sensitivity")
OF_CRF = ("dice", "precision", "sensitivity", "assd_mm", "hd95_mm")
"""Metrics of thesis tables 4.2 and 3.3."""


def main() -> None:
    """Train what a part needs, predict the test cases, print its tables."""
    arguments = parsed()
    if arguments.part == "members":
        members_part(arguments)
    elif arguments.part == "crf":
        crf_part(arguments)
    elif arguments.part == "brats":
        brats_part(arguments)
    else:
        for seed in arguments.seeds:
            hippocampus_run(arguments, "dropout", seed)


def parsed() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--part", choices=["members", "crf", "brats", "dropout"], required=True
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--members",
        nargs="+",
        default=list(MEMBERS),
        choices=MEMBERS,
        help="of the first table",
    )
    parser.add_argument(
        "--member", default="deepmedic", choices=MEMBERS, help="that gets a CRF"
    )
    parser.add_argument("--crf-trials", type=int, default=20, help="drawn at random")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train-only", action="store_true", help="predict another day")
    return parser.parse_args()


# ------------------------------------------------------------------------- parts


def members_part(arguments: argparse.Namespace) -> None:
    """Table 4.2 on hippocampi: members, and ensembles of ever more of them."""
    runs = {
        name: [hippocampus_run(arguments, name, seed) for seed in arguments.seeds]
        for name in arguments.members
    }
    if arguments.train_only:
        return
    table = hippocampus_table(arguments)
    members = [
        System(
            f"M{number}. {name}",
            tuple(
                measured(arguments, [run], table, f"{name}_{seed}", regions=WHOLE)
                for run, seed in zip(of_seeds, arguments.seeds, strict=True)
            ),
        )
        for number, (name, of_seeds) in enumerate(runs.items(), 1)
    ]
    ensembles = [
        System(
            f"E{size}",
            tuple(
                measured(
                    arguments,
                    [runs[name][place] for name in arguments.members[:size]],
                    table,
                    f"{'-'.join(arguments.members[:size])}_{seed}",
                    regions=WHOLE,
                )
                for place, seed in enumerate(arguments.seeds)
            ),
        )
        for size in range(2, len(members) + 1)
    ]
    structures = members[0].evaluations[0].structures
    print_means([*members, *ensembles], OF_MEMBERS, structures)
    validated = [fmean(map(validation_dice, of_seeds)) for of_seeds in runs.values()]
    print_validated(members, validated)
    best = members[validated.index(max(validated))]
    # Values are averaged per case before they are compared.
    mean = System(
        "the mean member",
        tuple(each for member in members for each in member.evaluations),
    )
    for first in (best, mean):
        print_tests(first, ensembles)


def crf_part(arguments: argparse.Namespace) -> None:
    """Table 3.3 on hippocampi."""
    runs = [
        hippocampus_run(arguments, arguments.member, seed) for seed in arguments.seeds
    ]
    if arguments.train_only:
        return
    table = hippocampus_table(arguments)
    systems = with_and_without_crf(arguments, runs, table, arguments.member, WHOLE)
    print_crf_table(systems)


def brats_part(arguments: argparse.Namespace) -> None:
    """Table 3.3 on four brain tumours, each the test once."""
    tables = rotations(arguments)
    runs = {
        patient: [
            trained_run(
                arguments,
                table,
                arguments.out / "brats" / f"{patient}_{arguments.steps}_{seed}",
                BRATS,
                seed,
            )
            for seed in arguments.seeds
        ]
        for patient, table in tables.items()
    }
    if arguments.train_only:
        return
    found = {
        patient: with_and_without_crf(arguments, runs[patient], table, patient, {})
        for patient, table in tables.items()
    }
    print_crf_table(
        [
            System(system.name, tuple(of_all_patients(found, place)))
            for place, system in enumerate(next(iter(found.values())))
        ]
    )


def of_all_patients(
    found: Mapping[str, Sequence[System]], place: int
) -> list[Evaluation]:
    """One system's evaluation per seed, each of every patient."""
    by_patient = {patient: systems[place] for patient, systems in found.items()}
    num_seeds = len(next(iter(by_patient.values())).evaluations)
    return [
        joined({name: one.evaluations[seed] for name, one in by_patient.items()})
        for seed in range(num_seeds)
    ]


def with_and_without_crf(
    arguments: argparse.Namespace,
    runs: Sequence[Path],
    table: Path,
    name: str,
    regions: Mapping[str, Sequence[int]],
) -> list[System]:
    """The four rows of table 3.3 that one set of test cases gives."""
    chosen = chosen_crf(arguments, runs[0])

    def evaluated(models: Sequence[Path], label: object, *, crf: bool) -> Evaluation:
        return measured(
            arguments,
            models,
            table,
            f"{name}_{label}" + ("_crf" if crf else ""),
            regions=regions,
            crf=chosen if crf else None,
        )

    each = list(zip(runs, arguments.seeds, strict=True))
    return [
        System(
            "single + CRF" if crf else "single",
            tuple(evaluated([run], seed, crf=crf) for run, seed in each),
        )
        for crf in (False, True)
    ] + [
        System(
            f"ensemble of {len(runs)}" + (" + CRF" if crf else ""),
            (evaluated(runs, "ensemble", crf=crf),),
        )
        for crf in (False, True)
    ]


# ------------------------------------------------------------ training, predicting


def hippocampus_table(arguments: argparse.Namespace) -> Path:
    """Cases and how they are divided."""
    return held_out_table(
        "hippocampus", NUM_TEST, arguments.out, num_validation=NUM_VALIDATION
    )


def hippocampus_run(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    """A member, trained or found to be."""
    return trained_run(
        arguments,
        hippocampus_table(arguments),
        arguments.out / "hippocampus" / f"{name}_{arguments.steps}_{seed}",
        DROPOUT if name == "dropout" else MEMBERS[name],
        seed,
    )


def rotations(arguments: argparse.Namespace) -> dict[str, Path]:
    """Test patient to a table in which the next one is for validation."""
    source = brats_table(arguments.out / "brats.toml")
    names = [case.name for case in foveal.read_dataset(source).cases]
    return {
        test: write_table(
            arguments.out / f"test_{test}.toml", source, [test], validation=[following]
        )
        for test, following in zip(names, names[1:] + names[:1], strict=True)
    }


def trained_run(
    arguments: argparse.Namespace,
    table: Path,
    run: Path,
    options: Mapping[str, Any],
    seed: int,
) -> Path:
    """Train, or go on, or find it trained."""
    trained(
        table,
        run,
        None,
        {
            "store": (arguments.out / "store").as_posix(),
            "splits.folds": 1,
            "training.seed": seed,
            "training.steps": arguments.steps,
            "training.validate_every_steps": arguments.steps,
            "training.threads": arguments.threads,
            # The same numerics in every run, however busy the machine is.
            "training.precision": "bfloat16",
            "training.memory_layout": "channels_last",
            **options,
        },
    )
    return run


def validation_dice(run: Path) -> float:
    """Mean over structures at the end of training."""
    rows = [row for row in read_log(run / "log.jsonl") if row["kind"] == "validation"]
    return rows[-1]["mean"]


def chosen_crf(arguments: argparse.Namespace, run: Path) -> Path:
    """File of the CRF that is best in a run's validation cases, found now or before.

    The best of those tried even where none is better. `foveal tune-crf` would refuse a
    single patient, as nobody is left to check the choice on; here the test cases do.
    """
    chosen = arguments.out / "crf" / f"{run.name}.toml"
    if chosen.exists():
        return chosen
    torch.set_num_threads(arguments.threads)
    cases = ValidationCases(run)
    num_classes = 1 + max(map(max, cases.structures.values()))
    trials = [
        None,
        *crf_trials(cases.num_channels, num_classes, trials=arguments.crf_trials),
    ]
    dice = np.mean(
        [[dice_with(crf, case, cases.structures) for crf in trials] for case in cases],
        axis=0,
    )
    best = 1 + int(dice[1:].argmax())
    chosen.parent.mkdir(exist_ok=True)
    found = {"without": dice[0], "usual": dice[1], "best": dice[best]}
    chosen.with_suffix(".json").write_text(json.dumps(found))
    write_postprocessing(chosen, PostprocessingConfig(crf=trials[best]))
    return chosen


def dice_with(
    crf: CrfConfig | None,
    case: ValidationCase,
    structures: Mapping[str, Sequence[int]],
) -> float:
    """Mean over structures of a validation case after a CRF, or without."""
    probabilities = torch.from_numpy(case.probabilities)
    if crf is not None:
        probabilities = refined_probabilities(
            probabilities,
            torch.from_numpy(case.image),
            case.spacing_mm,
            building.dense_crf(crf),
            mask=None if case.mask is None else torch.from_numpy(case.mask),
        )
    decided = decided_classes(probabilities, tuple(structures.values())).numpy()
    counts = class_counts(decided, case.reference, len(probabilities))
    return fmean(dice_of_counts(counts, case.annotated, structures).values())


def measured(
    arguments: argparse.Namespace,
    models: Sequence[Path],
    table: Path,
    name: str,
    *,
    regions: Mapping[str, Sequence[int]],
    crf: Path | None = None,
) -> Evaluation:
    """Predict the test cases of a table and measure them, or read what was measured.

    Args:
        arguments: Folder and threads.
        models: Runs, whose probabilities are averaged.
        table: Cases.
        name: Of the folder of predictions.
        regions: To be measured beside the table's structures.
        crf: File of a CRF that refines the probabilities.
    """
    folder = arguments.out / "predicted" / f"{name}_{arguments.steps}"
    record = folder.with_suffix(".json")
    if record.exists():
        return read_evaluation(record)
    foveal.predict(
        models,
        [case for case in foveal.read_dataset(table).cases if case.split == "test"],
        folder,
        crf=crf is not None,
        postprocessing="none" if crf is None else crf,
        resume=folder.exists(),
        threads=arguments.threads,
    )
    return foveal.evaluate(folder, table, regions=regions, output=record)


# ------------------------------------------------------------------------ tables


def print_means(
    systems: Sequence[System], metrics: Sequence[str], structures: Sequence[str]
) -> None:
    """Mean (deviation) over cases of every metric of every structure."""
    columns = [(metric, name) for metric in metrics for name in structures]
    print(f"\n| | {' | '.join(' '.join(column) for column in columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for system in systems:
        cells = [told(values(system, *column), column[0]) for column in columns]
        print(f"| {system.name} | {' | '.join(cells)} |")


def values(system: System, metric: str, structure: str) -> list[float]:
    """One per case, seeds averaged; NaN where a seed has none."""
    of_seeds = [
        {
            row.case: row.value
            for row in evaluation.rows
            if row.structure == structure and row.metric == metric
        }
        for evaluation in system.evaluations
    ]
    return [fmean(of_seed[case] for of_seed in of_seeds) for case in of_seeds[0]]


def told(found: Sequence[float], metric: str) -> str:
    """Mean (deviation) over cases; distances in mm, the others in percent."""
    counted = [value for value in found if not math.isnan(value)]
    if len(counted) < 2:
        return "-"
    factor, digits = (1, 2) if metric.endswith("_mm") else (100, 1)
    cell = (
        f"{factor * fmean(counted):.{digits}f} ({factor * stdev(counted):.{digits}f})"
    )
    left_out = len(found) - len(counted)
    return f"{cell}, {left_out} cases left out" if left_out else cell


def print_validated(members: Sequence[System], validated: Sequence[float]) -> None:
    """By what the best member is chosen."""
    scores = ", ".join(
        f"{member.name} {score:.3f}"
        for member, score in zip(members, validated, strict=True)
    )
    print(f"\nmean Dice of the validation cases: {scores}")


def print_tests(first: System, others: Sequence[System]) -> None:
    """Dice of each of the others against the first, paired by case."""
    print(
        f"\n| Dice against {first.name} | structure | difference | better, worse "
        "| t-test p (Holm) | signed-rank p (Holm) |\n|---|---|---|---|---|---|"
    )
    for entry in compare_systems([first, *others], ["dice"]).differences:
        print(f"| {entry.system} | {tested(entry)} |")


def tested(entry: Difference) -> str:
    """Cells of a row of `print_tests`."""
    return (
        f"{entry.structure} | {100 * entry.mean_difference:+.2f} | "
        f"{entry.num_better}, {entry.num_worse} | "
        f"{entry.t_test_p:.2g} ({entry.t_test_p_holm:.2g}) | "
        f"{entry.wilcoxon_p:.2g} ({entry.wilcoxon_p_holm:.2g})"
    )


def print_crf_table(systems: Sequence[System]) -> None:
    """Table 3.3, and what the CRF and the ensemble change."""
    single, single_crf, ensemble, ensemble_crf = systems
    for structure in single.evaluations[0].structures:
        print_means(systems, OF_CRF, [structure])
    print_tests(single, [single_crf, ensemble])
    print_tests(ensemble, [ensemble_crf])


if __name__ == "__main__":
    main()
