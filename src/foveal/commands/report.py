"""Show how a run went: one HTML file, worst case first."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal import __version__
from foveal.case import Case, CaseFiles, Dataset
from foveal.commands.run_words import (
    Facts,
    dataset_facts,
    duration,
    plan_facts,
    training_facts,
)
from foveal.config import Plan, Settings, read_plan, read_settings
from foveal.engine.log import read_log
from foveal.engine.run_directory import RunDirectory, open_run
from foveal.errors import CaseError, DatasetError
from foveal.geometry import same_grid
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_text
from foveal.io.volumes import case_stem, is_volume, read_volume
from foveal.planning.splits import Fold, read_splits
from foveal.plugins.kept import kept_plugins
from foveal.reports import figures
from foveal.reports.page import Curve, Overlay, Page, number, render
from foveal.reports.scores import CaseScores, RunScores, read_scores
from foveal.reports.views import worst_view

NUM_OVERLAYS = 6
"""Cases shown as pictures."""

SOFT_TISSUE_HU = (-160.0, 240.0)
"""Window in which a CT is shown."""

LogRow = dict[str, Any]


def report(run: Path | str, output: Path | None = None) -> Path:
    """Make the report of a run, finished or not.

    Args:
        run: Folder that `foveal.train` wrote.
        output: HTML file; unset: ``report.html`` in the run's folder.

    Returns:
        The file.

    Raises:
        RunError: ``run`` is not a run, or its ``metrics.json`` is damaged.
        SettingsError: Its settings, plan or splits are damaged.
    """
    directory = open_run(Path(run))
    settings, _ = read_settings(directory.settings)
    plan = read_plan(directory.plan)
    fold = read_splits(directory.splits).folds[settings.splits.fold]
    log = read_log(directory.path / "log.jsonl")
    metrics = directory.validation / "metrics.json"
    scores = read_scores(metrics) if metrics.exists() else None
    dataset, notes = _dataset(settings)
    overlays: list[Overlay] = []
    if scores is not None and dataset is not None:
        overlays, more_notes = _overlays(scores, dataset, plan, directory)
        notes += more_notes
    page = Page(
        title=f"{plan.dataset_name}: fold {settings.splits.fold}",
        subtitle=f'Report of the run "{directory.path.resolve().name}"',
        headlines=_headlines(scores, settings, log),
        scores=scores,
        scores_absent=_why_no_scores(fold),
        overlays=overlays,
        overlay_notes=notes if scores is not None else [],
        curves=_curves(log, settings),
        facts=[
            *dataset_facts(dataset, plan, fold),
            *plan_facts(plan),
            *training_facts(settings, _seconds(log)),
            *_plugin_facts(directory),
            *_environment_facts(directory),
        ],
        warnings=[row["note"] for row in log if row["kind"] == "memory"],
        files=_files(directory, dataset, scores),
        footer=f"Made by Foveal {__version__}. This file needs no network.",
    )
    path = output or directory.path / "report.html"
    atomic_write_text(path, render(page))
    return path


def _dataset(settings: Settings) -> tuple[Dataset | None, list[str]]:
    """The data set, or why there are no pictures."""
    if settings.dataset is None:
        return None, ["No pictures: the settings of the run name no data set."]
    try:
        return read_dataset(settings.dataset), []
    except DatasetError as error:
        return None, [f"No pictures: the data set cannot be read. {error}"]


def _headlines(
    scores: RunScores | None, settings: Settings, log: Sequence[LogRow]
) -> list[tuple[str, str, str]]:
    headlines = []
    if scores is not None:
        headlines.append(
            (
                "mean validation Dice",
                number(scores.mean_dice),
                (
                    f"over {len(scores.structures)} structures and "
                    f"{len(scores.cases)} cases; used for selecting the checkpoint"
                ),
            )
        )
    if scores is not None and scores.cases and scores.cases[0].mean_dice is not None:
        worst = scores.cases[0]
        headlines.append(("worst case", number(worst.mean_dice), worst.name))
    done = max((row["step"] + 1 for row in log if row["kind"] == "step"), default=0)
    remark = f"of {settings.training.steps}; {duration(_seconds(log))}"
    headlines.append(("steps", f"{done:,}", remark))
    return headlines


def _why_no_scores(fold: Fold) -> str:
    if not fold.validation:
        return "The run has no validation cases, so nothing was measured."
    return (
        "The validation cases have not been measured yet; that happens when training "
        "ends. If it was stopped, continue it with foveal train --resume."
    )


def _overlays(
    scores: RunScores, dataset: Dataset, plan: Plan, run: RunDirectory
) -> tuple[list[Overlay], list[str]]:
    """Pictures of the worst cases, and which could not be made and why."""
    files = {case.name: case for case in dataset.cases}
    predictions = _predictions(run)
    overlays, notes = [], []
    for case in scores.cases[:NUM_OVERLAYS]:
        structure = case.worst_structure
        if structure is None:
            continue
        if case.name not in predictions or case.name not in files:
            where = "data set" if case.name in predictions else "validation folder"
            notes.append(f"No picture of {case.name}: it is not in the {where}.")
            continue
        try:
            overlays.append(
                _overlay(
                    case, structure, files[case.name], predictions[case.name], plan
                )
            )
        except CaseError as error:
            notes.append(f"No picture of {case.name}: {error}")
    return overlays, notes


def _overlay(
    scores: CaseScores, structure: str, files: CaseFiles, prediction: Path, plan: Plan
) -> Overlay:
    """Picture of the slice where a case's worst structure has most errors.

    Raises:
        CaseError: A file cannot be read, or the prediction is on another grid.
    """
    case = read_case(files)
    predicted = read_volume(prediction)
    if case.label_map is None or not same_grid(case.grid, predicted.grid):
        raise CaseError(
            f"{prediction} and the reference do not share one grid; predict it again"
        )
    shown = list(plan.labels.values)
    if files.annotated_labels is not None:
        shown = [value for value in shown if value in files.annotated_labels]
    found = np.where(np.isin(predicted.array, shown), predicted.array, 0)
    if plan.labels.ignore_value is not None:
        found[case.label_map == plan.labels.ignore_value] = 0
    expected = np.where(np.isin(case.label_map, shown), case.label_map, 0)
    value = plan.labels.values[plan.labels.names.index(structure)]
    view = worst_view(case.image[0], expected, found, case.grid, value)
    dice = scores.structures[structure]["dice"]
    return Overlay(
        case=scores.name,
        caption=f"{structure} is worst here, Dice {number(dice)}: {view.plane} slice "
        f"{view.axis} = {view.index}, counted from 0, where most of it is wrong. "
        f"Mean Dice of the case {number(scores.mean_dice)}.",
        png=figures.overlay(view, _display_range(case, plan)),
    )


def _display_range(case: Case, plan: Plan) -> tuple[float, float]:
    """Intensities of the first channel that are shown black and white."""
    if plan.preprocessing.channels[0].normalisation == "ct":
        return SOFT_TISSUE_HU
    inside = case.image[0][case.image[0] != 0]
    values: NDArray[np.float32] = inside if inside.size else case.image[0]
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)


def _predictions(run: RunDirectory) -> dict[str, Path]:
    """Case to its predicted label map."""
    if not run.validation.is_dir():
        return {}
    return {
        case_stem(path): path
        for path in sorted(run.validation.iterdir())
        if is_volume(path)
    }


def _curves(log: Sequence[LogRow], settings: Settings) -> list[Curve]:
    rows = [row for row in log if row["kind"] == "step"]
    validations = [row for row in log if row["kind"] == "validation"]
    curves = []
    if rows:
        steps = [row["step"] for row in rows]
        losses = [row["loss"] for row in rows]
        curves.append(
            Curve("Loss", "On training patches.", figures.loss_curve(steps, losses))
        )
    if validations:
        dice = {
            structure: [row["dice"][structure] for row in validations]
            for structure in validations[0]["dice"]
        }
        svg = figures.dice_curve(
            [row["step"] for row in validations],
            dice,
            [row["mean_dice"] for row in validations],
        )
        caption = "Used for selecting the checkpoint; on the preprocessed grid."
        curves.append(Curve("Validation Dice", caption, svg))
    if rows:
        base = settings.optimiser.learning_rate
        rates = [base * row["learning_rate_factor"] for row in rows]
        svg = figures.learning_rate_curve(steps, rates)
        curves.append(Curve("Learning rate", "Warm-up and schedule.", svg))
    return curves


def _seconds(log: Sequence[LogRow]) -> float:
    """That the logged steps and validations took."""
    return sum(row.get("seconds", 0.0) + row.get("waited_seconds", 0.0) for row in log)


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
    made = json.loads(path.read_text(encoding="utf-8"))
    commit = f", commit {made['commit'][:12]}" if made["commit"] else ""
    words = (
        f"Foveal {made['foveal']}{commit}; Python {made['python']}, PyTorch "
        f"{made['torch']} on {made['device']} with {made['threads']} threads, "
        f"{made['platform']}."
    )
    return [("Made with", words)]


def _files(
    run: RunDirectory, dataset: Dataset | None, scores: RunScores | None
) -> list[tuple[str, str]]:
    """What to open: the worst cases' volumes first, then the run's own files."""
    predictions = _predictions(run)
    cases = {case.name: case for case in dataset.cases} if dataset else {}
    files = []
    for case in scores.cases[:NUM_OVERLAYS] if scores else ():
        if case.name in cases:
            listed = cases[case.name]
            files.append((f"{case.name}, image", str(listed.channels[0].path)))
            files.append((f"{case.name}, reference", str(listed.label_map)))
        if case.name in predictions:
            path = predictions[case.name].resolve()
            files.append((f"{case.name}, prediction", str(path)))
    for what, name in (
        ("All scores", "validation/metrics.json"),
        ("Settings", "settings.toml"),
        ("Plan", "plan.toml"),
        ("Patients", "splits.toml"),
        ("Log", "log.jsonl"),
        ("Curves, live", "tensorboard"),
        ("Weights", "checkpoints"),
    ):
        if (run.path / name).exists():
            files.append((what, str((run.path / name).resolve())))
    return files
