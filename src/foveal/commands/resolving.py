"""What a run is made by: settings, patients and plan, from all that may say so."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from foveal import building
from foveal.case import Dataset
from foveal.commands.cases_of_folds import files_of_streams
from foveal.commands.fit import Watcher
from foveal.commands.landmarks import (
    channels_to_learn,
    require_landmark_files,
    with_landmarks_of_files,
    with_learned_landmarks,
)
from foveal.commands.plan import plan as make_plan
from foveal.commands.rehearsal import fitting_patches, rehearse
from foveal.commands.transfer import require_readable_weights
from foveal.config.networks.section import DEFAULT_NETWORK
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.errors import SettingsError
from foveal.planning.splits import Fold, Splits, make_splits
from foveal.plugins.parts import Parts
from foveal.settings_files import (
    changed_plan,
    changed_settings,
    choose_settings,
    is_settings_file,
    read_plan,
)

WhichFold = int | Literal["all"]


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
    return checked_settings(settings, plan_entries, plan, parts), plan_entries


def checked_settings(
    settings: Settings,
    plan_entries: Mapping[str, Any],
    plan: Path | None,
    parts: Parts,
) -> Settings:
    """Settings with a length, once nothing that is known without the data is wrong.

    Raises:
        SettingsError: Says what is wrong.
    """
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
    return settings


def _refuse_drops_after_the_end(drop_at: Sequence[float], steps: int) -> None:
    late = [point for point in drop_at if point >= max(steps, 1.0)]
    if late:
        raise SettingsError(
            f"schedule.drop_at: at step {', '.join(f'{point:g}' for point in late)} "
            f"the run of {steps} steps has ended, so the learning rate never drops "
            "there; give earlier steps, or shares of the run such as 0.5"
        )


def dataset_path(settings: Settings) -> Path:
    """Where the data set of a run is.

    Raises:
        SettingsError: The settings name none.
    """
    if settings.dataset is None:
        raise SettingsError('the settings name no data set; add dataset = "path"')
    return settings.dataset


def resolved_splits(dataset: Dataset, settings: Settings) -> Splits:
    """Division of the patients, in which there is the fold that the settings name.

    Raises:
        DatasetError: The patients cannot be divided.
        SettingsError: There is no such fold.
    """
    splits = divided_patients(dataset, settings)
    if settings.splits.fold >= len(splits.folds):
        raise SettingsError(
            f"splits.fold {settings.splits.fold}: there are {len(splits.folds)} folds, "
            "counted from 0, as the data set has few patients or names those to "
            "validate itself"
        )
    return splits


def divided_patients(dataset: Dataset, settings: Settings) -> Splits:
    """Division of the patients, whichever fold the settings name.

    Raises:
        DatasetError: The patients cannot be divided.
    """
    return make_splits(
        dataset.cases,
        settings.splits.folds,
        settings.splits.seed,
        given=dataset.folds,
    )


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
        prepared = entries.get("preprocessing", {})
        made = make_plan(
            dataset,
            threads=settings.training.threads,
            device=settings.training.device,
            resample_channels=prepared.get("resample_channels", False),
            missing_channel_value=prepared.get("missing_channel_value"),
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
        suited = with_suited_patches(chosen, entries, parts)
        if suited.patches != chosen.patches:
            watcher.on_stage(
                f"Patches: {suited.patches.batch_size} of {suited.patches.size} "
                f"voxels, as suits network {suited.network.name}"
            )
        chosen = suited
    if chosen.crf_rnn and _sees_parts_only(chosen, planned.preprocessing.spacing_mm):
        watcher.on_stage(
            "Warning: crf_rnn lets every voxel see the whole patch, and patches of "
            f"{chosen.patches.size} voxels are parts of most cases, so tiles of a case "
            "are refined one by one. Set patches.size to whole cases or slices"
        )
    chosen = with_landmarks_of_files(chosen)
    rehearse(settings, chosen, parts)
    return chosen


def with_suited_patches(chosen: Plan, entries: Mapping[str, Any], parts: Parts) -> Plan:
    """Plan with patches that its network takes, where the entries say nothing else.

    Raises:
        SettingsError: The network needs several slices, and the cases have one.
    """
    fitting = fitting_patches(chosen, building.bare_network(chosen, parts))
    own = entries.get("patches", {})
    return changed_plan(chosen, {"patches": fitting.model_dump() | own})


def _sees_parts_only(plan: Plan, planned_spacing_mm: Sequence[float]) -> bool:
    """Whether patches are smaller than the cases; slices are whole by themselves.

    Args:
        plan: With the entries of a person.
        planned_spacing_mm: What the fingerprint's voxels measure.
    """
    if plan.fingerprint is None:
        return False
    return any(
        1 < size < length * planned_mm / chosen_mm
        for size, length, planned_mm, chosen_mm in zip(
            plan.patches.size,
            plan.fingerprint.median_shape,
            planned_spacing_mm,
            plan.preprocessing.spacing_mm,
            strict=True,
        )
    )


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
