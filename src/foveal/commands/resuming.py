"""A resumed run goes on as it was begun; whatever else is asked is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveal.commands.landmarks import with_landmarks_of_files, with_landmarks_of_run
from foveal.commands.resolving import dataset_path
from foveal.config import Section
from foveal.config.settings import Settings
from foveal.engine.run_directory import CrossValidationDirectory, RunDirectory
from foveal.errors import SettingsError
from foveal.plugins.parts import Parts
from foveal.settings_files import (
    changed_plan,
    choose_settings,
    is_settings_file,
    read_plan,
)


def refuse_arguments(*arguments: float | Path | str | None) -> None:
    """A resumed run ends as the unbroken one would, so nothing can be changed.

    Raises:
        SettingsError: One of the arguments is not ``None``.
    """
    if any(value is not None for value in arguments):
        raise SettingsError(
            "--resume goes on with the settings and the plan of the run; leave out "
            "--steps, --budget, --fold, --plan and --set, or start a new run"
        )


def refuse_other_source(
    begun: RunDirectory | CrossValidationDirectory,
    settings: Settings,
    source: Path,
    parts: Parts,
) -> None:
    """Refuse another data set, and a settings file that the run does not follow.

    What the file leaves out may have been an argument when the run was begun.

    Raises:
        SettingsError: Says what differs.
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
    changed = changed_plan(planned, plan_entries, parts.plan_model)
    changed = with_landmarks_of_files(with_landmarks_of_run(changed, planned))
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
