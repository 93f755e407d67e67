"""Train one fold with one seed, or every fold: from a data set to what predicts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric

from foveal import building
from foveal.case import CaseFiles, Dataset
from foveal.commands.evaluate import evaluate
from foveal.commands.fit import Watcher, fit
from foveal.commands.folds import is_finished
from foveal.commands.landmarks import (
    channels_to_learn,
    require_landmark_files,
    with_landmarks_of_files,
    with_landmarks_of_run,
    with_learned_landmarks,
    write_learned_landmarks,
)
from foveal.commands.out_of_fold import measured_out_of_fold
from foveal.commands.plan import plan as make_plan
from foveal.commands.plan import usable_threads
from foveal.commands.predict import predict
from foveal.commands.preprocess import preprocess
from foveal.commands.presence import (
    is_classifier,
    measure_presence,
    read_presence,
    write_presence,
)
from foveal.commands.rehearsal import fitting_patches, rehearse
from foveal.commands.transfer import (
    require_fitting_weights,
    require_readable_weights,
    require_unseen,
    weights_of_fold,
)
from foveal.config import Section
from foveal.config.networks.section import DEFAULT_NETWORK
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.run_directory import (
    CrossValidationDirectory,
    RunDirectory,
    create_cross_validation,
    create_run,
    is_cross_validation,
    is_run,
    open_cross_validation,
    open_run,
    write_with_checksum,
)
from foveal.errors import SettingsError
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_text
from foveal.methods.interface import Method
from foveal.metrics.evaluation import read_evaluation
from foveal.metrics.presence import PresenceScores, pooled_presence
from foveal.planning.audit import unsaid_patients
from foveal.planning.splits import (
    Fold,
    Splits,
    make_splits,
    read_splits,
    splits_to_toml,
)
from foveal.plugins.kept import keep_plugins, require_kept
from foveal.plugins.parts import Parts
from foveal.plugins.registration import Plugin
from foveal.settings_files import (
    changed_plan,
    changed_settings,
    choose_settings,
    is_settings_file,
    read_plan,
    read_settings,
    to_toml,
)

WhichFold = int | Literal["all"]


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
        _refuse_arguments(steps, budget_seconds, fold, plan, *options)
        _refuse_other_source(begun, settings, Path(source), parts)
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
            _begin_all(out, dataset, settings, plan, plan_entries, parts, watcher)
        fabric.barrier()
        _train_all(fabric, folder, dataset, parts, watcher)
        return out
    if begins:
        _begin(create_run(out), dataset, settings, plan, plan_entries, parts, watcher)
    fabric.barrier()
    _train_run(fabric, open_run(out), settings, dataset, parts, watcher)
    return out


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
    validation_files = held_out_files(method.task, dataset, division)
    _require_validation(settings, validation_files)
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
            _begin_fold(folder, number, dataset, parts, told)
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


def resolved_settings(
    source: Path,
    steps: int | None,
    budget_seconds: float | None,
    fold: WhichFold | None,
    options: Sequence[str],
    plan: Path | None,
    parts: Parts,
) -> tuple[Settings, dict[str, Any]]:
    """Settings from a file or defaults, then the options, then the arguments."""
    arguments: dict[str, Any] = {}
    for table, name, value in (
        ("training", "steps", steps),
        ("training", "budget_seconds", budget_seconds),
        ("splits", "fold", 0 if fold == "all" else fold),
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
    if settings.store is not None:
        # In the run's own settings file the path would be relative to that file.
        settings = settings.model_copy(update={"store": settings.store.absolute()})
    require_landmark_files(plan_entries)
    before = DEFAULT_NETWORK if plan is None else read_plan(plan).network.name
    network_name = plan_entries.get("network", {}).get("name", before)
    building.require_used(settings, network_name, parts)
    weights = settings.transfer.weights
    if weights is not None and not weights.exists():
        raise SettingsError(
            f"transfer.weights: {weights} does not exist; give a run, an exported "
            "model, or a .safetensors or .pth file. The path is relative to the "
            "settings file, and with --set to the working folder"
        )
    if weights is not None:
        # Whether they fit is known with the plan; whether they can be read, now.
        require_readable_weights(weights, settings.splits.fold, parts)
    length = settings.training
    if length.steps is not None and length.budget_seconds is not None:
        raise SettingsError(
            "training.steps and training.budget_seconds are both set; give one"
        )
    if length.steps is not None:
        _refuse_drops_after_the_end(settings.schedule.drop_at or (), length.steps)
    if length.steps is None and length.budget_seconds is None:
        settings = changed_settings(settings, {"training": {"budget_seconds": 600.0}})
    return settings, plan_entries


def _refuse_drops_after_the_end(drop_at: Sequence[float], steps: int) -> None:
    late = [point for point in drop_at if point >= max(steps, 1.0)]
    if late:
        raise SettingsError(
            f"schedule.drop_at: at step {', '.join(f'{point:g}' for point in late)} "
            f"the run of {steps} steps has ended, so the learning rate never drops "
            "there; give earlier steps, or shares of the run such as 0.5"
        )


def _refuse_arguments(*arguments: float | Path | str | None) -> None:
    """A resumed run ends as the unbroken one would, so nothing can be changed."""
    if any(value is not None for value in arguments):
        raise SettingsError(
            "--resume goes on with the settings and the plan of the run; leave out "
            "--steps, --budget, --fold, --plan and --set, or start a new run"
        )


def _refuse_other_source(
    begun: RunDirectory | CrossValidationDirectory,
    settings: Settings,
    source: Path,
    parts: Parts,
) -> None:
    """Refuse another data set, and a settings file that the run does not follow.

    What the file leaves out may have been an argument when the run was begun.
    """
    if not (source.is_file() and is_settings_file(source)):
        if source.resolve() != dataset_path(settings).resolve():
            raise SettingsError(
                f"the run was trained on {settings.dataset}, not on {source}; give the "
                "same data set to resume, or start a new run"
            )
        return
    # All folds are wanted, whichever one the file names.
    all_folds = isinstance(begun, CrossValidationDirectory)
    named, plan_entries = choose_settings(
        source,
        (),
        {"splits": {"fold": settings.splits.fold}} if all_folds else {},
        sections=parts.sections,
        plan=begun.plan,
    )
    planned = read_plan(begun.plan, parts.plan_model)
    changed = with_landmarks_of_files(
        changed_plan(planned, plan_entries, parts.plan_model)
    )
    if isinstance(begun, RunDirectory):
        changed = with_landmarks_of_run(changed, begun)
    differing = [
        *_differing(
            _with_resolved_paths(named),
            _with_resolved_paths(settings).model_dump(mode="json"),
        ),
        *_differing(changed, planned.model_dump(mode="json")),
    ]
    if differing:
        raise SettingsError(
            f"the run does not follow {source}: {'; '.join(differing)}. To resume, "
            "give the data set in place of the file, or the file that the run was "
            "begun with; or start a new run"
        )


def _with_resolved_paths(settings: Settings) -> Settings:
    paths = {"dataset": settings.dataset, "store": settings.store}
    resolved: dict[str, Any] = {
        name: path.resolve() for name, path in paths.items() if path
    }
    weights = settings.transfer.weights
    if weights is not None:
        resolved["transfer"] = settings.transfer.model_copy(
            update={"weights": weights.resolve()}
        )
    return settings.model_copy(update=resolved)


def _differing(named: Section, begun: Mapping[str, Any], table: str = "") -> list[str]:
    """What a person named and a run has otherwise, in words.

    Args:
        named: Only entries that were set are looked at, and not what is left to the
            timing.
        begun: The run's, as plain values.
        table: Name of ``named`` with a dot behind it.
    """
    plain = named.model_dump(mode="json")
    words = []
    for name in sorted(named.model_fields_set):
        value, there = getattr(named, name), begun.get(name)
        if isinstance(value, Section):
            words += _differing(value, there or {}, f"{table}{name}.")
        elif value != "auto" and plain[name] != there:
            words.append(f"{table}{name} is {there}, not {plain[name]}")
    return words


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
    splits = resolved_splits(dataset, settings)
    _refuse_plateau_without_validation(
        splits, [settings.splits.fold], dataset, settings
    )
    _refuse_missing_weight_maps(splits, [settings.splits.fold], dataset, settings)
    _refuse_seen(splits, [settings.splits.fold], dataset, settings, watcher)
    planned = resolved_plan(dataset, settings, plan, plan_entries, parts, watcher)
    _refuse_other_weights(settings, planned, parts)
    division = splits.folds[settings.splits.fold]
    learned = plan_of_fold(planned, settings, dataset, division, parts, watcher)
    write_learned_landmarks(run, planned, learned)
    _write_beginning(run, splits, learned, settings, parts)


def _begin_all(
    out: Path,
    dataset: Dataset,
    settings: Settings,
    plan: Path | None,
    plan_entries: Mapping[str, Any],
    parts: Parts,
    watcher: Watcher,
) -> None:
    """Plan and divide the patients once for all folds."""
    folder = create_cross_validation(out)
    splits = _splits(dataset, settings)
    if len(splits.folds) == 1:
        raise SettingsError(
            "--fold all needs two folds or more, but there is one, as splits.folds is "
            "1 or the data set names the patients to validate itself; leave out --fold"
        )
    folds = range(len(splits.folds))
    _refuse_plateau_without_validation(splits, folds, dataset, settings)
    _refuse_missing_weight_maps(splits, folds, dataset, settings)
    _refuse_seen(splits, folds, dataset, settings, watcher)
    planned = resolved_plan(dataset, settings, plan, plan_entries, parts, watcher)
    _refuse_other_weights(settings, planned, parts)
    _write_beginning(folder, splits, planned, settings, parts)


def _refuse_plateau_without_validation(
    splits: Splits, folds: Iterable[int], dataset: Dataset, settings: Settings
) -> None:
    for number in folds:
        # A classifier validates on what others do, and more.
        widest = held_out_files("classification", dataset, splits.folds[number])
        _require_validation(settings, widest)


def _refuse_missing_weight_maps(
    splits: Splits, folds: Iterable[int], dataset: Dataset, settings: Settings
) -> None:
    for number in folds:
        require_weight_maps(settings, cases_of(dataset, splits.folds[number].train))


def require_weight_maps(settings: Settings, training: Sequence[CaseFiles]) -> None:
    """Refuse settings that need weight maps which there are not.

    Raises:
        SettingsError: Voxels are to be weighed, but no case to train on has a weight
            map; or to be drawn by it, but some case has none.
    """
    without = [case.name for case in training if case.weight_map is None]
    remedy = (
        "list them in the column weight_map of a table (docs/datasets.md), or leave "
        "the setting out"
    )
    if building.weighs_voxels(settings) and len(without) == len(training):
        raise SettingsError(
            "loss_options.cross_entropy.voxel_weights is true, but no case to train on "
            f"has a weight map; {remedy}"
        )
    if settings.sampling.sampler == "weight_map" and without:
        raise SettingsError(
            f"sampling.sampler is weight_map, but {len(without)} of {len(training)} "
            f"cases to train on have none, such as {without[0]}; {remedy}"
        )


def _require_validation(settings: Settings, held_out: Sequence[CaseFiles]) -> None:
    """Refuse a schedule that follows a validation that there is not.

    Raises:
        SettingsError: Says what would do.
    """
    if settings.schedule.name == "plateau" and not held_out:
        raise SettingsError(
            "schedule plateau follows the validation, but no patient is left to "
            "validate on; choose another schedule.name, or splits.folds above 1"
        )


def _refuse_seen(
    splits: Splits,
    folds: Iterable[int],
    dataset: Dataset,
    settings: Settings,
    watcher: Watcher,
) -> None:
    """Refuse weights that were learned from patients who are to be measured."""
    weights = settings.transfer.weights
    if weights is None:
        return
    for number in folds:
        require_unseen(
            weights_of_fold(weights, number),
            splits.folds[number],
            dataset_path(settings),
            dataset.name,
            watcher.on_stage,
        )


def _refuse_other_weights(settings: Settings, plan: Plan, parts: Parts) -> None:
    """Refuse weights that do not fit the planned network."""
    if settings.transfer.weights is not None:
        weights = weights_of_fold(settings.transfer.weights, settings.splits.fold)
        require_fitting_weights(weights, plan, parts)


def plan_of_fold(
    planned: Plan,
    settings: Settings,
    dataset: Dataset,
    division: Fold,
    parts: Parts,
    watcher: Watcher,
) -> Plan:
    """Plan with what is learned from the training cases before the network is.

    Cases that are validated or tested are not looked at.

    Raises:
        CaseError: A training case cannot be used.
        DatasetError: The training cases do not have landmarks in common.
    """
    channels = channels_to_learn(planned)
    if not channels:
        return planned
    method = building.method(settings, planned, parts)
    groups = files_of_streams(method, dataset, division).values()
    cases = {files.name: files for group in groups for files in group}
    names = ", ".join(channel.name for channel in channels.values())
    watcher.on_stage(
        f"Landmarks: those of {names} are learned from {len(cases)} training cases"
    )
    return with_learned_landmarks(
        planned,
        tuple(cases.values()),
        store=settings.store,
        threads=settings.training.threads,
        on_progress=watcher.on_cases,
    )


def _begin_fold(
    folder: CrossValidationDirectory,
    number: int,
    dataset: Dataset,
    parts: Parts,
    watcher: Watcher,
) -> None:
    """Write down what a fold starts from: what all share, its number and landmarks.

    Precision and layout are those that the fold before was timed with, so that the
    folds differ in their patients only.
    """
    settings, _ = read_settings(folder.settings)
    changes: dict[str, Any] = {"splits": {"fold": number}}
    if number > 0:
        before, _ = read_settings(folder.fold(number - 1).settings)
        changes["training"] = before.training.model_dump(
            include={"precision", "memory_layout"}
        )
    settings, splits = changed_settings(settings, changes), read_splits(folder.splits)
    planned, division = read_plan(folder.plan, parts.plan_model), splits.folds[number]
    run = create_run(folder.fold(number).path)
    learned = plan_of_fold(planned, settings, dataset, division, parts, watcher)
    write_learned_landmarks(run, planned, learned)
    _write_beginning(run, splits, learned, settings, parts)


def _write_beginning(
    folder: RunDirectory | CrossValidationDirectory,
    splits: Splits,
    plan: Plan,
    settings: Settings,
    parts: Parts,
) -> None:
    keep_plugins(RunDirectory(folder.path), parts.plugins)
    write_with_checksum(folder.splits, splits_to_toml(splits))
    write_with_checksum(folder.plan, to_toml(plan))
    # Last, as with the settings the run exists.
    write_with_checksum(folder.settings, to_toml(settings))


def _splits(dataset: Dataset, settings: Settings) -> Splits:
    return make_splits(
        dataset.cases,
        settings.splits.folds,
        settings.splits.seed,
        given=dataset.folds,
    )


def resolved_splits(dataset: Dataset, settings: Settings) -> Splits:
    """Division of the patients, in which there is the fold that the settings name.

    Raises:
        DatasetError: The patients cannot be divided.
        SettingsError: There is no such fold.
    """
    splits = _splits(dataset, settings)
    if settings.splits.fold >= len(splits.folds):
        raise SettingsError(
            f"splits.fold {settings.splits.fold}: there are {len(splits.folds)} folds, "
            "counted from 0, as the data set has few patients or names those to "
            "validate itself"
        )
    return splits


def dataset_path(settings: Settings) -> Path:
    """Where the data set of a run is.

    Raises:
        SettingsError: The settings name none.
    """
    if settings.dataset is None:
        raise SettingsError('the settings name no data set; add dataset = "path"')
    return settings.dataset


def resolved_plan(
    dataset: Dataset,
    settings: Settings,
    path: Path | None,
    entries: Mapping[str, Any],
    parts: Parts,
    watcher: Watcher,
) -> Plan:
    """Plan from a file, or made from the data, then the entries that replace some."""
    if path is not None:
        planned = read_plan(path, parts.plan_model)
    else:
        watcher.on_stage("planning from the data")
        made = make_plan(
            dataset,
            threads=settings.training.threads,
            device=settings.training.device,
            resample_channels=entries.get("preprocessing", {}).get(
                "resample_channels", False
            ),
            on_progress=watcher.on_cases,
        )
        planned = made.plan
        for reason in made.reasons:
            watcher.on_stage(reason)
    try:
        chosen = changed_plan(planned, dict(entries), parts.plan_model)
    except SettingsError as error:
        if not entries.get("network") or "name" in entries["network"]:
            raise
        raise SettingsError(
            f"{error}\nThe planned network is {planned.network.name}; for options of "
            "another name it too, such as network.name=unet2d"
        ) from error
    if entries:
        changes = ", ".join(sorted(_entry_names(entries)))
        watcher.on_stage(f"Changed: {changes}, as the settings say")
    if path is None:
        own = entries.get("patches", {})
        fitting = fitting_patches(chosen, building.bare_network(chosen, parts))
        suited = changed_plan(chosen, {"patches": fitting.model_dump() | own})
        if suited.patches != chosen.patches:
            watcher.on_stage(
                f"Patches: {suited.patches.batch_size} of {suited.patches.size} "
                f"voxels, as suits network {suited.network.name}"
            )
        chosen = suited
    chosen = with_landmarks_of_files(chosen)
    rehearse(settings, chosen, parts)
    return chosen


def _entry_names(table: Mapping[str, Any], before: str = "") -> list[str]:
    """Full names of the entries of nested tables."""
    return [
        name
        for key, value in table.items()
        for name in (
            _entry_names(value, f"{before}{key}.")
            if isinstance(value, Mapping)
            else [f"{before}{key}"]
        )
    ]


def _launched_fabric(settings: Settings) -> Fabric:
    """Processes and device of the run; data-parallel ones start here."""
    fabric = building.fabric(settings)
    fabric.launch()
    return fabric


def files_of_streams(
    method: Method, dataset: Dataset, division: Fold
) -> dict[str, tuple[CaseFiles, ...]]:
    """Cases to train on, by the names that a method's streams use.

    Patients of whom nothing is outlined are trained on in every fold.
    """
    labelled = cases_of(dataset, division.train)
    kept_apart = {*division.validation, *division.test}
    image_labelled = [
        case
        for case in dataset.image_labelled
        if case.patient not in kept_apart and case.split in (None, "train")
    ]
    known = {"labelled": labelled, "image_labelled": (*labelled, *image_labelled)}
    return {stream.cases: known[stream.cases] for stream in method.streams.values()}


def held_out_files(
    task: str, dataset: Dataset, division: Fold
) -> tuple[CaseFiles, ...]:
    """Cases to validate on.

    A classifier is validated on images that nobody outlined too, if their patient is
    validated or the data set says so.
    """
    labelled = cases_of(dataset, division.validation)
    if task != "classification":
        return labelled
    known_otherwise = {*division.train, *division.test}
    shown = [
        case
        for case in dataset.image_labelled
        if (case.patient in division.validation and case.split != "test")
        or (case.split == "validation" and case.patient not in known_otherwise)
    ]
    return (*labelled, *shown)


def cases_of(dataset: Dataset, patients: Sequence[str]) -> tuple[CaseFiles, ...]:
    """Labelled cases of some patients, in the data set's order."""
    wanted = set(patients)
    return tuple(case for case in dataset.labelled if case.patient in wanted)


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
