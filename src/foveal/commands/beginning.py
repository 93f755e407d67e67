"""Begin a run, all folds, or one of them; what cannot work is refused before."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal import building
from foveal.case import CaseFiles, Dataset
from foveal.commands.cases_of_folds import (
    cases_of,
    files_of_streams,
    held_out_files,
)
from foveal.commands.fit import Watcher
from foveal.commands.landmarks import write_learned_landmarks
from foveal.commands.plan import require_case_is_filled
from foveal.commands.resolving import (
    dataset_path,
    divided_patients,
    plan_of_fold,
    resolved_plan,
    resolved_splits,
)
from foveal.commands.transfer import (
    require_fitting_weights,
    require_teacher,
    require_unseen,
    weights_of_fold,
)
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.run_directory import (
    CrossValidationDirectory,
    RunDirectory,
    create_cross_validation,
    create_run,
    write_with_checksum,
)
from foveal.errors import CaseError, SettingsError
from foveal.io.cases import require_usable_headers
from foveal.planning.splits import Splits, read_splits, splits_to_toml
from foveal.plugins.kept import keep_plugins
from foveal.plugins.parts import Parts
from foveal.settings_files import changed_settings, read_plan, read_settings, to_toml


def begin_run(
    run: RunDirectory,
    dataset: Dataset,
    settings: Settings,
    plan: Path | None,
    plan_entries: Mapping[str, Any],
    parts: Parts,
    watcher: Watcher,
) -> None:
    """Plan, divide the patients, and write down what the run starts from.

    Raises:
        FovealError: The run could not be trained as the settings say.
    """
    splits = resolved_splits(dataset, settings)
    folds = [settings.splits.fold]
    planned = _checked_plan(
        splits, folds, dataset, settings, plan, plan_entries, parts, watcher
    )
    division = splits.folds[settings.splits.fold]
    learned = plan_of_fold(planned, settings, dataset, division, parts, watcher)
    write_learned_landmarks(run, planned, learned)
    _write_beginning(run, splits, learned, settings, parts)


def begin_all_folds(
    out: Path,
    dataset: Dataset,
    settings: Settings,
    plan: Path | None,
    plan_entries: Mapping[str, Any],
    parts: Parts,
    watcher: Watcher,
) -> None:
    """Plan and divide the patients once for all folds.

    Raises:
        FovealError: Some fold could not be trained as the settings say, or there is
            one only.
    """
    folder = create_cross_validation(out)
    splits = divided_patients(dataset, settings)
    if len(splits.folds) == 1:
        raise SettingsError(
            "--fold all needs two folds or more, but there is one, as splits.folds is "
            "1 or the data set names the patients to validate itself; leave out --fold"
        )
    folds = range(len(splits.folds))
    planned = _checked_plan(
        splits, folds, dataset, settings, plan, plan_entries, parts, watcher
    )
    _write_beginning(folder, splits, planned, settings, parts)


def _checked_plan(
    splits: Splits,
    folds: Sequence[int],
    dataset: Dataset,
    settings: Settings,
    plan: Path | None,
    plan_entries: Mapping[str, Any],
    parts: Parts,
    watcher: Watcher,
) -> Plan:
    """The plan, once nothing stands against training these folds."""
    require_trainable(splits, folds, dataset, settings, watcher)
    planned = resolved_plan(dataset, settings, plan, plan_entries, parts, watcher)
    _refuse_other_weights(settings, planned, parts)
    require_stream_cases(splits, folds, dataset, settings, planned, parts)
    return planned


def require_trainable(
    splits: Splits,
    folds: Sequence[int],
    dataset: Dataset,
    settings: Settings,
    watcher: Watcher,
) -> None:
    """Refuse what cannot work with these patients, whatever the plan.

    Raises:
        FovealError: Says what would do.
    """
    _refuse_plateau_without_validation(splits, folds, dataset, settings)
    _refuse_missing_weight_maps(splits, folds, dataset, settings)
    for number in folds:
        require_domains(settings, cases_of(dataset, splits.folds[number].train))
    _refuse_seen(splits, folds, dataset, settings, watcher)


def require_stream_cases(
    splits: Splits,
    folds: Sequence[int],
    dataset: Dataset,
    settings: Settings,
    plan: Plan,
    parts: Parts,
) -> None:
    """Refuse a method that lacks cases, or images that do not suit the plan.

    Planning has read the labelled ones; of the others the headers are looked at.

    Raises:
        CaseError: Names an unlabelled case and what is wrong with it.
        SettingsError: Says which cases the method needs.
    """
    method = building.method(settings, plan, parts)
    looked_at: dict[str, CaseFiles] = {}
    for number in folds:
        try:
            groups = files_of_streams(method, dataset, splits.folds[number])
        except SettingsError as error:
            if len(folds) == 1:
                raise
            raise SettingsError(f"fold {number}: {error}") from error
        looked_at |= {
            files.name: files
            for group in groups.values()
            for files in group
            if not files.is_labelled
        }
    prepared = plan.preprocessing
    names = [channel.name for channel in prepared.channels]
    for files in (*dataset.labelled, *looked_at.values()):
        if files.split != "test":
            require_case_is_filled(files, names, prepared.missing_channel_value)
    for files in looked_at.values():
        require_usable_headers(
            files, names, resample_channels=prepared.resample_channels
        )
        if prepared.crop == "mask" and files.mask is None:
            raise CaseError(
                f"case {files.name} has no mask, but the plan crops to masks; give "
                "every unlabelled case one too, or set "
                '"--set preprocessing.crop=nonzero"'
            )


def begin_fold(
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


def _refuse_plateau_without_validation(
    splits: Splits, folds: Iterable[int], dataset: Dataset, settings: Settings
) -> None:
    for number in folds:
        # A classifier validates on what others do, and more.
        widest = held_out_files("classification", dataset, splits.folds[number])
        require_validation(settings, widest)


def require_validation(settings: Settings, held_out: Sequence[CaseFiles]) -> None:
    """Refuse a schedule that follows a validation that there is not.

    Raises:
        SettingsError: Says what would do.
    """
    if settings.schedule.name == "plateau" and not held_out:
        raise SettingsError(
            "schedule plateau follows the validation, but no patient is left to "
            "validate on; choose another schedule.name, or splits.folds above 1"
        )


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


def require_domains(settings: Settings, training: Sequence[CaseFiles]) -> None:
    """Refuse to balance what is one.

    Raises:
        SettingsError: Says which domain there is.
    """
    domains = {case.domain for case in training}
    if settings.sampling.balance_domains and len(domains) < 2:
        (domain,) = domains
        found = "have no domain" if domain is None else f'are of the domain "{domain}"'
        raise SettingsError(
            f"sampling.balance_domains is true, but all {len(training)} labelled cases "
            f"to train on {found}; write the scanner or site of every case into the "
            "column domain (docs/unlabelled.md), or leave the setting out"
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
    if settings.transfer.weights is None:
        return
    weights = weights_of_fold(settings.transfer.weights, settings.splits.fold)
    require_fitting_weights(weights, plan, parts)
    method = building.method(settings, plan, parts)
    if method.refresh is not None:
        require_teacher(method.predictor, weights, plan, parts)
