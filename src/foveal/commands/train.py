"""Train one fold with one seed, or every fold: from a data set to what predicts."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from foveal import building
from foveal.case import CaseFiles, Dataset
from foveal.commands.beginning import (
    begin_all_folds,
    begin_fold,
    begin_run,
    require_validation,
)
from foveal.commands.cases_of_folds import (
    files_of_streams,
    held_out_files,
    stream_words,
)
from foveal.commands.evaluate import evaluate
from foveal.commands.fit import Watcher, fit
from foveal.commands.folds import is_finished
from foveal.commands.out_of_fold import measured_out_of_fold
from foveal.commands.plan import usable_threads
from foveal.commands.predict import predict
from foveal.commands.preprocess import preprocess
from foveal.commands.presence import (
    is_classifier,
    measure_presence,
    read_presence,
    write_presence,
)
from foveal.commands.refreshing import require_worker_device
from foveal.commands.resolving import WhichFold, dataset_path, resolved_settings
from foveal.commands.resuming import refuse_arguments, refuse_other_source
from foveal.config.settings import Settings
from foveal.engine.run_directory import (
    CrossValidationDirectory,
    RunDirectory,
    create_run,
    is_cross_validation,
    is_run,
    open_cross_validation,
    open_run,
)
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_text
from foveal.metrics.evaluation import read_evaluation
from foveal.metrics.presence import PresenceScores, pooled_presence
from foveal.planning.audit import unsaid_patients
from foveal.planning.splits import read_splits
from foveal.plugins.kept import require_kept
from foveal.plugins.parts import Parts
from foveal.plugins.registration import Plugin
from foveal.settings_files import read_plan, read_settings


def train(
    source: Path | str,
    out: Path | str,
    *,
    steps: int | None = None,
    budget_seconds: float | None = None,
    fold: WhichFold | None = None,
    plan: Path | None = None,
    options: Sequence[str] = (),
    plugins: Sequence[Path | str | Plugin] = (),
    resume: bool = False,
    watcher: Watcher | None = None,
) -> Path:
    """Plan, preprocess, train and validate; everything is kept in one folder.

    With ``fold="all"`` one run after another is made, ``fold_0``, ``fold_1``, … in the
    folder: a cross-validation. Its out-of-fold scores are in ``metrics.json``.

    Args:
        source: A data set, or a settings file that names one.
        out: Folder of the run; must not exist, or be empty, unless resuming.
        steps: Updates of the weights, in each fold.
        budget_seconds: Or the time for training and its validations, in each fold;
            preprocessing before and the final prediction of the validation cases come
            on top. With neither, 10 minutes.
        fold: Which part of the training patients to validate on, from 0; or ``"all"``.
        plan: Plan file; unset: the data set is planned now.
        options: ``table.name=value``, for settings and plan alike.
        plugins: Files that add losses, networks, samplers or methods; they are run. A
            copy of each is kept in the run; to resume, the same ones are needed.
        resume: Continue in ``out``; its own settings and plan are used.
        watcher: Told of progress.

    Returns:
        The folder, ``out``.

    Raises:
        FovealError: Something the user can mend; see `foveal.errors`.
    """
    watcher = watcher or Watcher()
    out = Path(out)
    plan_entries: dict[str, Any] = {}
    all_folds = fold == "all" or (resume and is_cross_validation(out))
    parts = building.parts_with(plugins)
    for plugin in parts.plugins:
        watcher.on_stage(
            f"Plugin: {plugin.path} adds {plugin.words}; a copy is kept in the run"
        )
    if resume:
        begun = open_cross_validation(out) if all_folds else open_run(out)
        settings, _ = read_settings(begun.settings)
        fold = None if fold == "all" else fold
        refuse_arguments(steps, budget_seconds, fold, plan, *options)
        refuse_other_source(begun, settings, Path(source), parts)
    else:
        settings, plan_entries = resolved_settings(
            Path(source), steps, budget_seconds, fold, options, plan, parts
        )
    dataset = read_dataset(dataset_path(settings))
    if dataset.left_out:
        watcher.on_stage(dataset.left_out)
    fabric = _launched_fabric(settings)
    begins = fabric.is_global_zero and not resume
    for finding in unsaid_patients(dataset) if begins else ():
        watcher.on_stage(f"Warning: {finding.what}; {finding.why}. {finding.remedy}")
    if all_folds:
        folder = CrossValidationDirectory(out)
        if begins:
            begin_all_folds(out, dataset, settings, plan, plan_entries, parts, watcher)
        fabric.barrier()
        _train_all(fabric, folder, dataset, parts, watcher)
        return out
    if begins:
        begin_run(
            create_run(out), dataset, settings, plan, plan_entries, parts, watcher
        )
    fabric.barrier()
    _train_run(fabric, open_run(out), settings, dataset, parts, watcher)
    return out


def _launched_fabric(settings: Settings) -> Fabric:
    """Processes and device of the run; data-parallel ones start here."""
    require_worker_device(settings)
    fabric = building.fabric(settings)
    fabric.launch()
    return fabric


def _train_run(
    fabric: Fabric,
    run: RunDirectory,
    settings: Settings,
    dataset: Dataset,
    parts: Parts,
    watcher: Watcher,
) -> None:
    """Preprocess, train and score a run from wherever it stands."""
    # Here, as the prediction of a fold before may have set another number.
    torch.set_num_threads(settings.training.threads or usable_threads())
    require_kept(run, parts.plugins)
    planned = read_plan(run.plan)
    division = read_splits(run.splits).folds[settings.splits.fold]
    watcher.on_stage(
        f"{len(division.train)} patients to train on, {len(division.validation)} to "
        f"validate, {len(division.test)} kept for the test"
    )
    torch.manual_seed(settings.training.seed)
    method = building.method(settings, planned, parts)
    training_files = files_of_streams(method, dataset, division)
    if len(training_files) > 1:
        watcher.on_stage(stream_words(training_files))
    validation_files = held_out_files(method.task, dataset, division)
    require_validation(settings, validation_files)
    needed = {
        files.name: files
        for group in (*training_files.values(), validation_files)
        for files in group
    }
    with fabric.rank_zero_first():
        stored = preprocess(
            replace(dataset, cases=tuple(needed.values())),
            planned,
            store=settings.store,
            threads=settings.training.threads,
            on_progress=watcher.on_cases,
        )
    by_name = {case.name: case for case in stored}
    cases = {
        name: [by_name[files.name] for files in group]
        for name, group in training_files.items()
    }
    held_out = [by_name[files.name] for files in validation_files]
    fit(fabric, run, settings, planned, method, cases, held_out, watcher, parts)
    if fabric.is_global_zero and held_out:
        if method.task == "classification":
            measure_presence(run, held_out, settings.training.device, parts)
        else:
            watcher.on_stage("predicting the validation cases on their own grids")
            _score(run, settings, validation_files, parts, watcher)
    fabric.barrier()


def _score(
    run: RunDirectory,
    settings: Settings,
    cases: Sequence[CaseFiles],
    parts: Parts,
    watcher: Watcher,
) -> None:
    """Predict the validation cases as `foveal predict` would, and measure them."""
    folder = run.validation
    outcomes = predict(
        run.path,
        cases,
        folder,
        # What follows the network is chosen on these cases later.
        postprocessing="none",
        # A run that was killed while it predicted goes on with the rest.
        resume=True,
        device=settings.training.device,
        threads=settings.training.threads,
        plugins=parts.plugins,
        on_progress=watcher.on_cases,
    )
    for outcome in outcomes:
        if outcome.status == "failed":
            watcher.on_stage(f"{outcome.case} was not predicted: {outcome.reasons[0]}")
    evaluate(run.path, output=run.metrics, on_progress=watcher.on_cases)


def _train_all(
    fabric: Fabric,
    folder: CrossValidationDirectory,
    dataset: Dataset,
    parts: Parts,
    watcher: Watcher,
) -> None:
    """Finish every fold that is not, then put their scores together."""
    num_folds = len(read_splits(folder.splits).folds)
    for number in range(num_folds):
        run = folder.fold(number)
        told = _told_of_fold(watcher, number, num_folds)
        if is_finished(run):
            told.on_stage("finished already")
            continue
        if fabric.is_global_zero and not is_run(run.path):
            begin_fold(folder, number, dataset, parts, told)
        fabric.barrier()
        settings, _ = read_settings(open_run(run.path).settings)
        _train_run(fabric, run, settings, dataset, parts, told)
    runs = [folder.fold(number) for number in range(num_folds)]
    measured = measured_out_of_fold(runs)
    if fabric.is_global_zero and measured is not None:
        atomic_write_text(folder.metrics, measured.to_json())
    presence = [read_presence(run.presence) for run in runs if run.presence.exists()]
    if fabric.is_global_zero and presence:
        write_presence(folder.presence, pooled_presence(presence))
    fabric.barrier()


def _told_of_fold(watcher: Watcher, number: int, num_folds: int) -> Watcher:
    """A watcher whose sentences begin with the fold."""
    return replace(
        watcher,
        on_stage=lambda sentence: watcher.on_stage(
            f"fold {number} ({number + 1} of {num_folds}): {sentence}"
        ),
    )


def validation_scores(out: Path) -> dict[str, float]:
    """Mean Dice per structure of the validation cases, on their own grids.

    Of a run, or out of fold of a cross-validation. Optimistic, as the best checkpoint
    was chosen on these cases. Empty for a run without validation cases; a structure
    that no case has is left out.
    """
    path = RunDirectory(out).metrics
    if is_cross_validation(out):
        path = CrossValidationDirectory(out).metrics
    if not path.exists():
        return {}
    measured = read_evaluation(path)
    dice = {name: measured.mean(name, "dice") for name in measured.structures}
    return {name: value for name, value in dice.items() if not math.isnan(value)}


def presence_scores(out: Path) -> dict[str, PresenceScores]:
    """How well a classifier, or those of a cross-validation together, told presence.

    Of the validation cases, by which the best checkpoint was chosen. Empty for what
    outlines, and for a run without validation cases.
    """
    path = RunDirectory(out).presence
    if is_cross_validation(out):
        path = CrossValidationDirectory(out).presence
    return read_presence(path) if path.exists() else {}


def trained_classifier(out: Path) -> bool:
    """Whether a run, or a cross-validation, tells what images show and no more."""
    if is_cross_validation(out):
        return is_classifier(CrossValidationDirectory(out).fold(0))
    return is_classifier(RunDirectory(out))
