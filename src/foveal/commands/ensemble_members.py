"""Members of an ensemble that is going to be trained: all mistakes told at once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from foveal import building
from foveal.case import Dataset
from foveal.commands.beginning import require_stream_cases, require_trainable
from foveal.commands.fit import Watcher
from foveal.commands.landmarks import with_landmarks_of_files
from foveal.commands.rehearsal import rehearse
from foveal.commands.resolving import (
    checked_settings,
    divided_patients,
    with_suited_patches,
)
from foveal.config.ensemble import EnsembleConfig, MemberConfig, VariantConfig
from foveal.config.plan import Plan
from foveal.config.settings import Settings, SplitsConfig
from foveal.engine.ensemble_directory import EnsembleDirectory
from foveal.engine.run_directory import write_with_checksum
from foveal.errors import FovealError, SettingsError, listed
from foveal.io.files import atomic_write_text
from foveal.planning.splits import Splits
from foveal.plugins.parts import Parts
from foveal.settings_files import changed_plan, choose_settings, merged, to_toml

SHARED_ENTRIES = ("dataset", "store")
"""Settings that the ensemble's file says for all members, at its top."""


@dataclass(frozen=True)
class ChosenMember:
    """What a member is trained with, before the data were looked at."""

    name: str
    settings: Settings
    plan_entries: Mapping[str, Any]


@dataclass(frozen=True)
class PlannedMember:
    """What a member is trained with."""

    name: str
    settings: Settings
    plan: Plan


def require_measurable(config: EnsembleConfig, dataset: Dataset) -> None:
    """Refuse an entry rule and regions that the data set cannot answer.

    Raises:
        SettingsError: A region is not known, has the name of a structure, or holds a
            value that is no label.
    """
    problems = []
    structures = dataset.structures
    known = [*structures, *config.regions]
    if config.entry.region not in known:
        problems.append(
            f"entry.region: {config.entry.region} is no structure of {config.dataset} "
            f"and none of regions; there are {listed(known)}"
        )
    labels = dataset.label_values.values()
    for name, values in config.regions.items():
        if name in structures:
            problems.append(
                f"regions.{name}: the data set has a structure of this name; give the "
                "region one of its own"
            )
        unknown = sorted(set(values) - set(labels))
        if unknown:
            problems.append(
                f"regions.{name}: {unknown} are no label values of the data set; "
                f"there are {sorted(labels)}"
            )
    _raise_if_any("the ensemble cannot be measured", problems)


def chosen_members(
    config: EnsembleConfig, dataset: Dataset, parts: Parts, *, threads: int
) -> tuple[ChosenMember, ...]:
    """Settings of every member: its file's, the ensemble's, its own, its variant's.

    Args:
        config: Of the ensemble.
        dataset: Of all members.
        parts: Those that settings choose from.
        threads: Of a member that does not say how many it wants.

    Raises:
        SettingsError: Lists what is wrong with every member.
    """
    problems = _Problems()
    _refuse_shared(config, problems)
    splits = _shared_splits(config, problems)
    members = []
    for name, (member, variant) in zip(config.full_names, config.pairs, strict=True):
        with problems.of(f"member {name}"):
            entries = _entries(config, member, variant, dataset.channel_names, splits)
            settings, plan_entries = choose_settings(
                member.settings, (), entries, sections=parts.sections
            )
            settings = checked_settings(settings, plan_entries, None, parts)
            _refuse_classifier(settings)
            if settings.training.threads is None:
                training = settings.training.model_copy(update={"threads": threads})
                settings = settings.model_copy(update={"training": training})
            members.append(ChosenMember(name, settings, plan_entries))
    problems.raise_if_any("the ensemble cannot be trained")
    return tuple(members)


def divided_for(
    config: EnsembleConfig,
    members: Sequence[ChosenMember],
    dataset: Dataset,
    watcher: Watcher,
) -> Splits:
    """The division of patients that all members share.

    Raises:
        SettingsError: There is no such fold, nobody is left to validate on, or a
            member cannot be trained on these patients.
    """
    splits = divided_patients(dataset, members[0].settings)
    if config.fold >= len(splits.folds):
        raise SettingsError(
            f"fold {config.fold}: there are {len(splits.folds)} folds, counted from 0"
        )
    if not splits.folds[config.fold].validation:
        raise SettingsError(
            f"fold {config.fold} has no patient to validate on, by whom members enter; "
            "set settings.splits.folds to 2 or more"
        )
    problems = _Problems()
    for member in members:
        with problems.of(f"member {member.name}"):
            require_trainable(splits, [config.fold], dataset, member.settings, watcher)
    problems.raise_if_any("the ensemble cannot be trained")
    return splits


def planned_members(
    members: Sequence[ChosenMember], plan: Plan, parts: Parts
) -> tuple[PlannedMember, ...]:
    """Every member with a plan of its own, made from the one of the data.

    Raises:
        SettingsError: Lists what is wrong with every member.
    """
    problems = _Problems()
    planned = []
    for member in members:
        with problems.of(f"member {member.name}"):
            entries = dict(member.plan_entries)
            own = changed_plan(plan, entries, parts.plan_model)
            own = with_suited_patches(own, entries, parts)
            rehearse(member.settings, with_landmarks_of_files(own), parts)
            planned.append(PlannedMember(member.name, member.settings, own))
    for one in planned[1:]:
        with problems.of(f"member {one.name}"):
            _require_same_task(planned[0], one)
    problems.raise_if_any("the ensemble cannot be trained")
    return tuple(planned)


def require_member_cases(
    members: Sequence[PlannedMember],
    splits: Splits,
    fold: int,
    dataset: Dataset,
    parts: Parts,
) -> None:
    """Refuse members whose methods lack cases, see `require_stream_cases`.

    Raises:
        SettingsError: Lists what is wrong with every member.
    """
    problems = _Problems()
    for one in members:
        with problems.of(f"member {one.name}"):
            require_stream_cases(splits, [fold], dataset, one.settings, one.plan, parts)
    problems.raise_if_any("the ensemble cannot be trained")


def write_members(folder: EnsembleDirectory, members: Sequence[PlannedMember]) -> None:
    """Write down what members' runs are begun with; what is there already stays."""
    for member in members:
        plan = folder.member_plan(member.name)
        if not plan.exists():
            atomic_write_text(plan, to_toml(member.plan))
        settings = folder.member_settings(member.name)
        if not settings.exists():
            write_with_checksum(settings, to_toml(member.settings))


class _Problems:
    """What is wrong with which member, gathered."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Keep what the block refuses, instead of raising it."""
        try:
            yield
        except FovealError as error:
            self.found.append(f"{what}: {error}")

    def raise_if_any(self, heading: str) -> None:
        """Raise all that was kept.

        Raises:
            SettingsError: There is something.
        """
        _raise_if_any(heading, self.found)


def _raise_if_any(heading: str, problems: Sequence[str]) -> None:
    if problems:
        indented = [problem.replace("\n", "\n  ") for problem in problems]
        raise SettingsError(
            "\n".join([f"{heading}:", *(f"  {one}" for one in indented)])
        )


def _refuse_shared(config: EnsembleConfig, problems: _Problems) -> None:
    """Refuse to let a member differ in what all share."""
    owners = [
        *((f"member {one.name}: set", one.set) for one in config.members),
        *((f"variant {one.name}: set", one.set) for one in config.variants),
    ]
    for what, entries in owners:
        shared = [name for name in (*SHARED_ENTRIES, "splits") if name in entries]
        if shared:
            problems.found.append(
                f"{what} names {', '.join(shared)}, which all members share; say it "
                "for the ensemble"
            )
    at_top = [name for name in SHARED_ENTRIES if name in config.settings]
    if at_top:
        problems.found.append(
            f"settings names {', '.join(at_top)}; move it to the top of the file"
        )
    splits = config.settings.get("splits")
    if isinstance(splits, Mapping) and "fold" in splits:
        problems.found.append('settings.splits.fold: write "fold" at the top instead')


def _shared_splits(config: EnsembleConfig, problems: _Problems) -> dict[str, Any]:
    """Splits of the ensemble; those of the members' files do not count."""
    wanted = config.settings.get("splits", {})
    # Every entry is named, or those of a member's own file would show through.
    usual = SplitsConfig().model_dump()
    if not isinstance(wanted, Mapping):
        problems.found.append("settings.splits: must be a table")
        return usual
    return usual | dict(wanted) | {"fold": config.fold}


def _entries(
    config: EnsembleConfig,
    member: MemberConfig,
    variant: VariantConfig | None,
    channels: Sequence[str],
    splits: Mapping[str, Any],
) -> dict[str, Any]:
    """What replaces entries of a member's settings file."""
    entries = merged(config.settings, member.set)
    if variant is not None:
        entries = merged(entries, variant.set)
        if variant.every_channel:
            varied = [{"name": name, **variant.every_channel} for name in channels]
            entries = merged(entries, {"preprocessing": {"channels": varied}})
    shared = {"dataset": str(config.dataset), "splits": dict(splits)}
    if config.store is not None:
        shared["store"] = str(config.store)
    return entries | shared


def _refuse_classifier(settings: Settings) -> None:
    known = building.METHODS.get(settings.method.name)
    if known is not None and known.task == "classification":
        raise SettingsError(
            f"method.name {settings.method.name} tells what an image shows but "
            "outlines nothing, so it cannot be a member"
        )


def _require_same_task(first: PlannedMember, other: PlannedMember) -> None:
    """Refuse members whose probabilities mean different things.

    Raises:
        SettingsError: Labels, channels or orientation differ.
    """
    for what, mine, theirs in (
        ("labels", first.plan.labels, other.plan.labels),
        (
            "channels",
            [channel.name for channel in first.plan.preprocessing.channels],
            [channel.name for channel in other.plan.preprocessing.channels],
        ),
        (
            "orientation",
            first.plan.preprocessing.orientation,
            other.plan.preprocessing.orientation,
        ),
    ):
        if mine != theirs:
            raise SettingsError(
                f"its {what} are {theirs}, those of {first.name} {mine}; only models "
                "of the same task can be averaged: take this out of its settings"
            )
