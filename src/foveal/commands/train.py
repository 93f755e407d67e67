"""Train one fold with one seed: from a data set to a run that predicts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning_fabric import Fabric

from foveal import build
from foveal.case import CaseFiles, Dataset
from foveal.commands.evaluate import evaluate
from foveal.commands.fit import Watcher, fit
from foveal.commands.plan import plan as make_plan
from foveal.commands.plan import usable_threads
from foveal.commands.predict import predict
from foveal.commands.preprocess import preprocess
from foveal.commands.rehearsal import fitting_patch, rehearse
from foveal.config import (
    DEFAULT_NETWORK,
    Plan,
    Settings,
    changed_plan,
    changed_settings,
    choose_settings,
    is_settings_file,
    read_plan,
    read_settings,
    to_toml,
)
from foveal.engine.run_directory import RunDirectory, create_run, open_run
from foveal.errors import SettingsError
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_text
from foveal.planning.splits import make_splits, read_splits, splits_to_toml
from foveal.plugins.kept import keep_plugins, kept_plugins, require_kept
from foveal.plugins.parts import Parts
from foveal.plugins.registration import Plugin


def train(
    source: Path | str,
    out: Path | str,
    *,
    steps: int | None = None,
    budget_seconds: float | None = None,
    fold: int | None = None,
    plan: Path | None = None,
    options: Sequence[str] = (),
    plugins: Sequence[Path | str | Plugin] = (),
    resume: bool = False,
    watcher: Watcher | None = None,
) -> Path:
    """Plan, preprocess, train and validate; everything is kept in one folder.

    Args:
        source: A data set, or a settings file that names one.
        out: Folder of the run; must not exist, or be empty, unless resuming.
        steps: Updates of the weights.
        budget_seconds: Or the time for training and its validations; preprocessing
            before and the final prediction of the validation cases come on top. With
            neither, 10 minutes.
        fold: Which part of the training patients to validate on, from 0.
        plan: Plan file; unset: the data set is planned now.
        options: ``table.name=value``, for settings and plan alike.
        plugins: Files that add losses, networks, samplers or methods; they are run. A
            copy of each is kept in the run; to resume, the same ones are needed.
        resume: Continue the run in ``out``; its own settings and plan are used.
        watcher: Told of progress.

    Returns:
        The folder of the run.

    Raises:
        FovealError: Something the user can mend; see `foveal.errors`.
    """
    watcher = watcher or Watcher()
    out = Path(out)
    plan_entries: dict[str, Any] = {}
    parts = build.parts_with(plugins)
    if resume:
        settings, _ = read_settings(open_run(out).settings)
        _refuse_changes(settings, Path(source), steps, budget_seconds, fold, options)
    else:
        settings, plan_entries = _settings(
            Path(source), steps, budget_seconds, fold, options, plan, parts
        )
    dataset = read_dataset(_dataset_path(settings))
    fabric = _launched_fabric(settings)
    if fabric.is_global_zero and not resume:
        _begin(create_run(out), dataset, settings, plan, plan_entries, parts, watcher)
    fabric.barrier()
    run = open_run(out)
    require_kept(run, parts.plugins)
    planned = read_plan(run.plan)
    division = read_splits(run.splits).folds[settings.splits.fold]
    watcher.on_stage(
        f"{len(division.train)} patients to train on, {len(division.validation)} to "
        f"validate, {len(division.test)} kept for the test"
    )
    training_files = _cases_of(dataset, division.train)
    validation_files = _cases_of(dataset, division.validation)
    with fabric.rank_zero_first():
        stored = preprocess(
            replace(dataset, cases=(*training_files, *validation_files)),
            planned,
            store=settings.store,
            threads=settings.training.threads,
            on_progress=watcher.on_cases,
        )
    labelled, held_out = stored[: len(training_files)], stored[len(training_files) :]
    fit(fabric, run, settings, planned, labelled, held_out, watcher, parts)
    if fabric.is_global_zero and validation_files:
        watcher.on_stage("predicting the validation cases on their own grids")
        _score(run, validation_files, _dataset_path(settings), parts, watcher)
    fabric.barrier()
    return out


def validation_scores(run: Path) -> dict[str, float]:
    """Mean Dice per structure of the validation cases, on their own grids.

    Optimistic, as the best checkpoint was chosen on these cases. Empty for a run
    without validation cases; a structure that no case has is left out.
    """
    path = RunDirectory(run).validation / "metrics.json"
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["metric"] == "dice" and row["value"] is not None:
            values.setdefault(row["structure"], []).append(row["value"])
    return {structure: fmean(found) for structure, found in values.items()}


def _settings(
    source: Path,
    steps: int | None,
    budget_seconds: float | None,
    fold: int | None,
    options: Sequence[str],
    plan: Path | None,
    parts: Parts,
) -> tuple[Settings, dict[str, Any]]:
    """Settings from a file or defaults, then the options, then the arguments."""
    arguments: dict[str, Any] = {}
    for table, name, value in (
        ("training", "steps", steps),
        ("training", "budget_seconds", budget_seconds),
        ("splits", "fold", fold),
    ):
        if value is not None:
            arguments.setdefault(table, {})[name] = value
    is_settings = source.is_file() and is_settings_file(source)
    if not is_settings:
        arguments["dataset"] = str(source.resolve())
    settings, plan_entries = choose_settings(
        source if is_settings else None,
        options,
        arguments,
        sections=parts.sections,
        plan=plan,
    )
    before = DEFAULT_NETWORK if plan is None else read_plan(plan).network.name
    network_name = plan_entries.get("network", {}).get("name", before)
    build.require_used(settings, network_name, parts)
    length = settings.training
    if length.steps is not None and length.budget_seconds is not None:
        raise SettingsError(
            "training.steps and training.budget_seconds are both set; give one"
        )
    if length.steps is None and length.budget_seconds is None:
        settings = changed_settings(settings, {"training": {"budget_seconds": 600.0}})
    return settings, plan_entries


def _refuse_changes(
    settings: Settings,
    source: Path,
    steps: int | None,
    budget_seconds: float | None,
    fold: int | None,
    options: Sequence[str],
) -> None:
    """A resumed run ends as the unbroken one would, so nothing can be changed."""
    if options or any(value is not None for value in (steps, budget_seconds, fold)):
        raise SettingsError(
            "--resume goes on with the settings of the run; leave out --steps, "
            "--budget, --fold and --set, or start a new run"
        )
    is_settings = source.is_file() and is_settings_file(source)
    if not is_settings and source.resolve() != _dataset_path(settings):
        raise SettingsError(
            f"the run was trained on {settings.dataset}, not on {source}; give the "
            "same data set to resume, or start a new run"
        )


def _begin(
    run: RunDirectory,
    dataset: Dataset,
    settings: Settings,
    plan: Path | None,
    plan_entries: Mapping[str, Any],
    parts: Parts,
    watcher: Watcher,
) -> None:
    """Plan, divide the patients, and write down what the run starts from."""
    splits = make_splits(dataset.cases, settings.splits.folds, settings.splits.seed)
    if settings.splits.fold >= len(splits.folds):
        raise SettingsError(
            f"splits.fold {settings.splits.fold}: there are {len(splits.folds)} folds, "
            "counted from 0, as the data set has few patients or names those to "
            "validate itself"
        )
    planned = _plan(dataset, settings, plan, plan_entries, parts, watcher)
    keep_plugins(run, parts.plugins)
    for plugin in kept_plugins(run):
        watcher.on_stage(
            f"Plugin: {plugin.path.name} adds {plugin.words}; copied to {plugin.path}"
        )
    atomic_write_text(run.splits, splits_to_toml(splits))
    atomic_write_text(run.plan, to_toml(planned))
    # Last, as with the settings the run exists.
    atomic_write_text(run.settings, to_toml(settings))


def _dataset_path(settings: Settings) -> Path:
    if settings.dataset is None:
        raise SettingsError('the settings name no data set; add dataset = "path"')
    return settings.dataset


def _plan(
    dataset: Dataset,
    settings: Settings,
    path: Path | None,
    entries: Mapping[str, Any],
    parts: Parts,
    watcher: Watcher,
) -> Plan:
    """The plan, with which everything can be built."""
    if path is not None:
        planned = read_plan(path, parts.plan_model)
    else:
        watcher.on_stage("planning from the data")
        made = make_plan(
            dataset,
            threads=settings.training.threads,
            device=settings.training.device,
            on_progress=watcher.on_cases,
        )
        planned = made.plan
        for reason in made.reasons:
            watcher.on_stage(reason)
    chosen = changed_plan(planned, dict(entries), parts.plan_model)
    if path is None and "size" not in entries.get("patches", {}):
        fitting = fitting_patch(chosen, build.planned_network(chosen, parts))
        if fitting != chosen.patches.size:
            watcher.on_stage(
                f"Patch: {fitting} voxels instead of {chosen.patches.size}, as network "
                f"{chosen.network.name} needs"
            )
            chosen = changed_plan(chosen, {"patches": {"size": fitting}})
    rehearse(settings, chosen, parts)
    return chosen


def _launched_fabric(settings: Settings) -> Fabric:
    """Processes and device of the run; data-parallel ones start here."""
    torch.set_num_threads(settings.training.threads or usable_threads())
    fabric = build.fabric(settings)
    fabric.launch()
    return fabric


def _cases_of(dataset: Dataset, patients: Sequence[str]) -> tuple[CaseFiles, ...]:
    wanted = set(patients)
    return tuple(case for case in dataset.labelled if case.patient in wanted)


def _score(
    run: RunDirectory,
    cases: Sequence[CaseFiles],
    dataset: Path,
    parts: Parts,
    watcher: Watcher,
) -> None:
    """Predict the validation cases as `foveal predict` would, and measure them."""
    folder = run.validation
    predict(
        [run.path],
        cases,
        folder,
        plugins=parts.plugins,
        on_progress=watcher.on_cases,
    )
    evaluate(
        folder,
        dataset,
        output=folder / "metrics.json",
        on_progress=watcher.on_cases,
    )
