"""Show an ensemble: its members, ensembles of 2, 3, … of them, and their errors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal import __version__
from foveal.case import CaseFiles
from foveal.commands.out_of_fold import validation_predictions
from foveal.commands.report_overlays import (
    NUM_OVERLAYS,
    display_range,
    label_map_of,
    numbered,
    predicted,
)
from foveal.commands.report_trust import trust_of
from foveal.config.ensemble import EnsembleConfig
from foveal.config.plan import Plan
from foveal.engine.ensemble_directory import EnsembleDirectory, open_ensemble
from foveal.engine.run_directory import RunDirectory
from foveal.errors import CaseError, DatasetError, RunError
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.metrics.evaluation import read_evaluation
from foveal.planning.splits import read_splits
from foveal.reports.ensemble_page import (
    ComparisonLine,
    EnsemblePage,
    MemberLine,
    SystemLine,
    render_ensemble,
)
from foveal.reports.members_figure import members_picture, members_view
from foveal.reports.page import Picture, number
from foveal.reports.scores import CaseScores, RunScores, ordered_scores
from foveal.settings_files import read_ensemble, read_plan

METRIC_WORDS = {"dice": "Dice", "sensitivity": "sensitivity"}

Record = Mapping[str, Any]


def ensemble_report(path: Path) -> str:
    """HTML of the report of an ensemble.

    Args:
        path: Folder that `foveal ensemble train` wrote.

    Raises:
        RunError: It is damaged, or was not measured yet.
        EvaluationError: Its ``metrics.json`` is damaged.
        SettingsError: Settings, plan or splits are damaged.
    """
    folder = open_ensemble(path)
    config, plan = read_ensemble(folder.settings), read_plan(folder.plan)
    table = _read_table(folder)
    scores = ordered_scores(read_evaluation(folder.metrics))
    entered = [one["name"] for one in table["outcomes"] if one["entered"]]
    pictures, notes = _pictures(folder, config, scores, entered)
    fold = read_splits(folder.splits).folds[config.fold]
    page = EnsemblePage(
        title=f"{plan.dataset_name}: an ensemble of {len(entered)}",
        subtitle=f'Report of the ensemble "{path.resolve().name}"',
        headlines=_headlines(table, scores, entered),
        rule=(
            f"A member enters with a mean validation Dice of {table['region']} above "
            f"{table['threshold_dice']:g}; {len(entered)} of {len(table['outcomes'])} "
            "did."
        ),
        members=[_member(folder, one) for one in table["outcomes"]],
        columns=[
            f"{structure}, {METRIC_WORDS[metric]}"
            for structure, metric in _columns(table)
        ],
        systems=[_system(one, _columns(table)) for one in table["systems"]],
        best_member=table["best_member"],
        comparison=[
            _comparison(one) for one in table["against_best"] if one["metric"] == "dice"
        ],
        trust=trust_of(path),
        pictures=pictures,
        notes=notes,
        facts=[
            ("Data set", f"{plan.dataset_name}, fold {config.fold}."),
            (
                "Patients",
                (
                    f"All members were trained on the same {len(fold.train)} and "
                    f"validated on {len(fold.validation)}; {len(fold.test)} are kept "
                    "for the test."
                ),
            ),
            (
                "Fusion",
                (
                    "Members' probabilities are averaged, class by class, on the "
                    "case's own grid; then every voxel is decided."
                ),
            ),
        ],
        warnings=_warnings(table),
        files=_files(folder, entered),
        footer=f"Made by Foveal {__version__}. This file needs no network.",
    )
    return render_ensemble(page)


def _read_table(folder: EnsembleDirectory) -> Record:
    try:
        record: Record = json.loads(folder.table.read_text(encoding="utf-8"))
        _ = record["systems"], record["outcomes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder.path} has no readable table of its members yet; make it with "
            f"foveal ensemble table {folder.path}, or let training end (foveal "
            "ensemble train --resume)"
        ) from error
    return record


def _columns(table: Record) -> list[tuple[str, str]]:
    return [(name, metric) for name in table["structures"] for metric in METRIC_WORDS]


def _headlines(
    table: Record, scores: RunScores, entered: Sequence[str]
) -> list[tuple[str, str, str]]:
    return [
        (
            "mean validation Dice",
            number(scores.mean_dice),
            (
                f"over {len(scores.structures)} structures and regions, and "
                f"{len(scores.cases)} cases"
            ),
        ),
        ("members", str(len(entered)), f"of {len(table['outcomes'])} entered"),
        ("best member", table["best_member"], f"by the Dice of {table['region']}"),
    ]


def _member(folder: EnsembleDirectory, outcome: Record) -> MemberLine:
    plan = folder.member_plan(outcome["name"])
    return MemberLine(
        name=outcome["name"],
        network=read_plan(plan).network.name if plan.exists() else "",
        steps=outcome["steps"],
        dice=outcome["dice"],
        entered=outcome["entered"],
        reason=outcome["reason"],
    )


def _system(system: Record, columns: Sequence[tuple[str, str]]) -> SystemLine:
    values = {
        (one["structure"], one["metric"]): (one["mean"], one["std"])
        for one in system["scores"]
    }
    return SystemLine(
        name=system["name"],
        entered=system["entered"],
        values=[values.get(column, (None, None)) for column in columns],
    )


def _comparison(entry: Record) -> ComparisonLine:
    low, high = entry["interval"]
    return ComparisonLine(
        structure=entry["structure"],
        best=entry["first"]["mean"],
        ensemble=entry["second"]["mean"],
        change=entry["mean_difference"],
        interval=(low, high),
        num_better=entry["num_better"],
        num_cases=len(entry["differences"]),
        p=entry["wilcoxon_p_holm"],
    )


def _warnings(table: Record) -> list[str]:
    unfinished = [one for one in table["outcomes"] if one["steps"] is None]
    return [
        f"{one['name']} is not trained: {one['reason']}. Go on with foveal ensemble "
        "train --resume."
        for one in unfinished
    ]


def _pictures(
    folder: EnsembleDirectory,
    config: EnsembleConfig,
    scores: RunScores,
    entered: Sequence[str],
) -> tuple[list[Picture], list[str]]:
    """Pictures of the ensemble's worst cases, and which are absent and why."""
    try:
        dataset = read_dataset(config.dataset)
    except DatasetError as error:
        return [], [f"No pictures: the data set cannot be read. {error}"]
    files = {case.name: case for case in dataset.cases}
    plan = read_plan(folder.member_plan(entered[0]))
    paths = {name: validation_predictions(folder.member(name)) for name in entered}
    # The ensemble keeps its validation predictions as a run does.
    together = validation_predictions(RunDirectory(folder.path))
    pictures, notes = [], []
    for case in scores.cases[:NUM_OVERLAYS]:
        try:
            members = {name: of_case[case.name] for name, of_case in paths.items()}
            pictures.append(
                _picture(case, files[case.name], members, together[case.name], plan)
            )
        except KeyError:
            notes.append(
                f"No picture of {case.name}: it, or a prediction of it, is not there "
                "any more."
            )
        except CaseError as error:
            notes.append(f"No picture of {case.name}: {error}")
    return pictures, notes


def _picture(
    scores: CaseScores,
    files: CaseFiles,
    members: Mapping[str, Path],
    ensemble: Path,
    plan: Plan,
) -> Picture:
    """A case as its reference, its members and the ensemble see it.

    Raises:
        CaseError: A file cannot be read, or lies on another grid.
    """
    case = read_case(files, resample_channels=plan.preprocessing.resample_channels)
    structures = plan.labels.structure_values
    drawn = frozenset(structures if files.annotated is None else files.annotated)
    numbers: dict[frozenset[str], int] = {}
    expected = numbered(label_map_of(case), case.meaning(structures), drawn, numbers)
    found = {
        name: numbered(*predicted(path, case, plan.labels), drawn, numbers)
        for name, path in {**members, "": ensemble}.items()
    }
    if plan.labels.ignore_value is not None and case.combinations is None:
        for label_map in found.values():
            label_map[case.label_map == plan.labels.ignore_value] = 0
    together = found.pop("")
    view = members_view(case.first_channel, expected, found, together, case.grid)
    return Picture(
        title=scores.name,
        caption=f"Mean Dice of the ensemble {number(scores.mean_dice)}; {view.plane} "
        "slice, close up.",
        png=members_picture(view, display_range(case, plan)),
    )


def _files(folder: EnsembleDirectory, entered: Sequence[str]) -> list[tuple[str, str]]:
    known = (
        ("All scores", folder.metrics),
        ("Tables", folder.table),
        ("Members", folder.outcomes),
        ("Settings", folder.settings),
        ("Patients", folder.splits),
        ("Predictions", folder.validation),
        *((name, folder.member(name).path) for name in entered),
    )
    return [(what, str(path.resolve())) for what, path in known if path.exists()]
