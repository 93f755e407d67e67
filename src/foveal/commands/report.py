"""Show how a run went: one HTML file, worst case first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal import __version__
from foveal.case import (
    Case,
    CaseFiles,
    Dataset,
    StructureFile,
    meaning_of_values,
)
from foveal.commands.out_of_fold import (
    division,
    find_out_of_fold,
    measured_out_of_fold,
    validation_predictions,
)
from foveal.commands.presence import read_presence
from foveal.commands.run_words import (
    Facts,
    dataset_facts,
    duration,
    patients_of_fold,
    patients_of_folds,
    plan_facts,
    training_facts,
    transfer_facts,
)
from foveal.config.plan import LabelsConfig, Plan
from foveal.config.settings import Settings
from foveal.engine.log import read_log
from foveal.engine.run_directory import RunDirectory, find_runs, is_run
from foveal.errors import CaseError, DatasetError
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_text
from foveal.io.label_maps import read_reference, require_same_grid
from foveal.io.volumes import case_stem, only_volumes, read_volume
from foveal.metrics.evaluation import Evaluation
from foveal.metrics.presence import PresenceScores, pooled_presence
from foveal.planning.splits import Fold, read_splits
from foveal.plugins.kept import kept_plugins
from foveal.reports import figures
from foveal.reports.page import Curve, Overlay, Page, number, render
from foveal.reports.scores import CaseScores, FoldScores, RunScores, ordered_scores
from foveal.reports.views import worst_view
from foveal.settings_files import read_plan, read_settings

NUM_OVERLAYS = 6
"""Cases shown as pictures."""

SOFT_TISSUE_HU = (-160.0, 240.0)
"""Window in which a CT is shown."""

FOOTER = f"Made by Foveal {__version__}. This file needs no network."

LogRow = dict[str, Any]


def report(run: Path | str, output: Path | None = None) -> Path:
    """Make the report of a run or of a folder of runs, finished or not.

    Args:
        run: Folder that `foveal.train` wrote; or a folder of runs that validated
            different cases, such as a cross-validation.
        output: HTML file; unset: ``report.html`` in the folder.

    Returns:
        The file.

    Raises:
        RunError: ``run`` is not a run and holds none.
        EvaluationError: A ``metrics.json`` is damaged, or several runs validated the
            same case.
        SettingsError: Settings, plan or splits are damaged.
    """
    folder = Path(run)
    runs = [_read_run(directory) for directory in find_runs(folder)]
    page = _page_of_run(runs[0]) if is_run(folder) else _page_of_runs(folder, runs)
    path = output or folder / "report.html"
    atomic_write_text(path, render(page))
    return path


def _read_run(directory: RunDirectory) -> _Run:
    settings, _ = read_settings(directory.settings)
    log = tuple(read_log(directory.path / "log.jsonl"))
    return _Run(directory, settings, log, measured_out_of_fold([directory]))


def _page_of_run(run: _Run) -> Page:
    plan = read_plan(run.directory.plan)
    fold = division(run.directory)
    scores = ordered_scores(run.measured) if run.measured else None
    dataset, notes = _dataset(run.settings)
    overlays: list[Overlay] = []
    if scores is not None and dataset is not None:
        predictions = validation_predictions(run.directory)
        overlays, more_notes = _overlays(scores, dataset, plan, predictions)
        notes += more_notes
    return Page(
        title=f"{plan.dataset_name}: fold {run.settings.splits.fold}",
        subtitle=f'Report of the run "{run.name}"',
        headlines=[*_score_headlines(scores), _steps_headline(run)],
        scores=scores,
        scores_absent=_why_no_scores(fold),
        presence=_presence([run]),
        folds=[],
        overlays=overlays,
        overlay_notes=notes if scores is not None else [],
        curves=_curves(run.log, run.settings),
        facts=[
            *dataset_facts(dataset, plan, patients_of_fold(fold)),
            *plan_facts(plan),
            *training_facts(run.settings, _seconds(run.log)),
            *transfer_facts(run.settings),
            *_plugin_facts(run.directory),
            *_environment_facts(run.directory),
        ],
        warnings=_memory_warnings(run),
        files=_files(run.directory.path, [run], dataset, scores),
        footer=FOOTER,
    )


def _page_of_runs(folder: Path, runs: Sequence[_Run]) -> Page:
    """Every case as the run predicted it that had left it out."""
    first = runs[0]
    plan = read_plan(first.directory.plan)
    measured = measured_out_of_fold([run.directory for run in runs])
    scores = ordered_scores(measured) if measured else None
    dataset, notes = _dataset(first.settings)
    overlays: list[Overlay] = []
    if scores is not None and dataset is not None:
        predictions = find_out_of_fold(folder).predictions
        overlays, more_notes = _overlays(scores, dataset, plan, predictions)
        notes += more_notes
    unfinished = [run.name for run in runs if not run.is_measured]
    lacking = (
        f"Not measured yet: {', '.join(unfinished)}. If training was stopped, continue "
        "it with foveal train --resume."
    )
    return Page(
        title=f"{plan.dataset_name}: {len(runs)} folds",
        subtitle=f'Report of the runs in "{folder.resolve().name}"',
        headlines=[*_score_headlines(scores), _folds_headline(runs)],
        scores=scores,
        scores_absent="No fold has measured its validation cases yet.",
        presence=_presence(runs),
        folds=[
            FoldScores(
                run.name,
                run.steps_done,
                run.best_step,
                ordered_scores(run.measured) if run.measured else None,
            )
            for run in runs
        ],
        overlays=overlays,
        overlay_notes=notes if scores is not None else [],
        curves=_curves_of_folds(runs),
        facts=[
            *dataset_facts(
                dataset, plan, patients_of_folds(read_splits(first.directory.splits))
            ),
            *plan_facts(plan),
            *training_facts(first.settings, sum(_seconds(run.log) for run in runs)),
            *transfer_facts(first.settings),
            *_plugin_facts(first.directory),
            *_environment_facts(first.directory),
        ],
        warnings=[
            *([lacking] if unfinished else []),
            *(f"{run.name}: {text}" for run in runs for text in _memory_warnings(run)),
        ],
        files=_files(folder, runs, dataset, scores),
        footer=FOOTER,
    )


def _dataset(settings: Settings) -> tuple[Dataset | None, list[str]]:
    """The data set, or why there are no pictures."""
    if settings.dataset is None:
        return None, ["No pictures: the settings of the run name no data set."]
    try:
        return read_dataset(settings.dataset), []
    except DatasetError as error:
        return None, [f"No pictures: the data set cannot be read. {error}"]


def _score_headlines(scores: RunScores | None) -> list[tuple[str, str, str]]:
    if scores is None:
        return []
    mean = (
        "mean validation Dice",
        number(scores.mean_dice),
        (
            f"over {len(scores.structures)} structures and {len(scores.cases)} cases; "
            "used for selecting the checkpoint"
        ),
    )
    worst = scores.cases[0] if scores.cases else None
    if worst is None or worst.mean_dice is None:
        return [mean]
    return [mean, ("worst case", number(worst.mean_dice), worst.name)]


def _steps_headline(run: _Run) -> tuple[str, str, str]:
    remark = f"of {run.settings.training.steps}; {duration(_seconds(run.log))}"
    return "steps", f"{run.steps_done:,}", remark


def _folds_headline(runs: Sequence[_Run]) -> tuple[str, str, str]:
    measured = sum(run.is_measured for run in runs)
    seconds = sum(_seconds(run.log) for run in runs)
    return "folds measured", f"{measured}", f"of {len(runs)}; {duration(seconds)}"


def _memory_warnings(run: _Run) -> list[str]:
    return [row["note"] for row in run.log if row["kind"] == "memory"]


def _presence(runs: Sequence[_Run]) -> dict[str, PresenceScores]:
    """What classifiers told of the cases that they had left out; else empty."""
    told = [
        read_presence(run.directory.presence)
        for run in runs
        if run.directory.presence.exists()
    ]
    return pooled_presence(told) if told else {}


def _why_no_scores(fold: Fold) -> str:
    if not fold.validation:
        return "The run has no validation cases, so nothing was measured."
    return (
        "The validation cases have not been measured yet; that happens when training "
        "ends. If it was stopped, continue it with foveal train --resume."
    )


def _plugin_facts(run: RunDirectory) -> Facts:
    return [
        (
            "Own parts",
            (
                f"The plugin {plugin.path.name} adds {plugin.words}. Hash (blake2b) "
                f"{plugin.digest}; a copy is kept in the run."
            ),
        )
        for plugin in kept_plugins(run)
    ]


def _environment_facts(run: RunDirectory) -> Facts:
    path = run.path / "environment.json"
    if not path.exists():
        return []
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        commit = f", commit {made['commit'][:12]}" if made["commit"] else ""
        words = (
            f"Foveal {made['foveal']}{commit}; Python {made['python']}, PyTorch "
            f"{made['torch']} on {made['device']} with {made['threads']} threads, "
            f"{made['platform']}."
        )
    except (ValueError, KeyError, TypeError):
        words = f"Not known: {path.name} is damaged."
    return [("Made with", words)]


def _files(
    folder: Path,
    runs: Sequence[_Run],
    dataset: Dataset | None,
    scores: RunScores | None,
) -> list[tuple[str, str]]:
    """What to open: the worst cases' volumes first, then the folder's own files."""
    predictions: dict[str, Path] = {}
    for run in runs:
        predictions |= validation_predictions(run.directory)
    cases = {case.name: case for case in dataset.cases} if dataset else {}
    files = []
    for case in scores.cases[:NUM_OVERLAYS] if scores else ():
        if case.name in cases:
            listed = cases[case.name]
            files.append((f"{case.name}, image", str(listed.channels[0].path)))
            if listed.is_labelled:
                reference = listed.label_map or listed.structure_files[0].path.parent
                files.append((f"{case.name}, reference", str(reference)))
        if case.name in predictions:
            path = predictions[case.name].resolve()
            files.append((f"{case.name}, prediction", str(path)))
    for what, name in (
        ("All scores", "metrics.json"),
        ("All scores", "validation/metrics.json"),
        ("All scores", "presence.json"),
        ("All scores", "validation/presence.json"),
        ("Settings", "settings.toml"),
        ("Settings", "cross_validation.toml"),
        ("Plan", "plan.toml"),
        ("Patients", "splits.toml"),
        ("Log", "log.jsonl"),
        ("Curves, live", "tensorboard"),
        ("Weights", "checkpoints"),
    ):
        if (folder / name).exists():
            files.append((what, str((folder / name).resolve())))
    if folder != runs[0].directory.path:
        files += [(run.name, str(run.directory.path.resolve())) for run in runs]
    return files
