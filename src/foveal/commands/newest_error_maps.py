"""The newest error maps of a run, which may be training and replace them meanwhile."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from foveal.commands.fit import Watcher
from foveal.commands.refreshing import error_map_folder
from foveal.config.settings import Settings
from foveal.engine.error_maps import ErrorMapFolder, UnsoundErrorMapError
from foveal.engine.run_directory import is_run, open_run
from foveal.errors import RunError
from foveal.sampling.adaptive import WITHOUT_ERROR_MAPS, ErrorMaps
from foveal.store.store import StoredCase

Found = TypeVar("Found")


def current_error_maps(
    source: Path,
    settings: Settings,
    cases: Mapping[str, Sequence[StoredCase]],
    watcher: Watcher,
) -> tuple[ErrorMaps, str]:
    """The newest error maps of a run, and what to say of them.

    Args:
        source: Only a run has any.
        settings: Of an adaptive sampler.
        cases: To train on, by the names that streams use.
        watcher: Told of maps that are of other data, or damaged; they count as not
            made yet.
    """
    if not is_run(source) or not open_run(source).error_maps.is_dir():
        return WITHOUT_ERROR_MAPS, "drawn without error maps, as there are none yet"
    maps = error_map_folder(open_run(source), settings, cases)
    for case in maps.cases:
        _use_newest(maps, case.name, watcher)
    steps = maps.steps.values()
    if not steps:
        return maps, "drawn without error maps, as there are none yet"
    first, last = min(steps), max(steps)
    when = f"step {last}" if first == last else f"steps {first} to {last}"
    return maps, f"drawn by the error maps of {when}"


def with_newest_maps(
    find: Callable[[], Found], maps: ErrorMaps, watcher: Watcher
) -> Found:
    """What is found by error maps, by newer ones if training deletes some meanwhile.

    Args:
        find: Reads error maps, and is called again from its beginning.
        maps: As `current_error_maps` gives them.
        watcher: Told of cases without a newer map, which count as wrong everywhere.
    """
    while True:
        try:
            return find()
        except UnsoundErrorMapError as lost:
            if not isinstance(maps, ErrorMapFolder):
                raise
            # Ends: versions only grow, and a case is dropped once.
            before = maps.steps.get(lost.case)
            maps.drop(lost.case)
            _use_newest(maps, lost.case, watcher)
            if maps.steps.get(lost.case) == before:
                maps.drop(lost.case)
                watcher.on_stage(_wrong_everywhere(lost))


def _use_newest(maps: ErrorMapFolder, case_name: str, watcher: Watcher) -> None:
    """Use the newest map of a case; one that is damaged counts as not made yet."""
    step = maps.newest(case_name)
    try:
        if step is not None:
            maps.use(case_name, step)
    except UnsoundErrorMapError as error:
        watcher.on_stage(_wrong_everywhere(error))
    except RunError as error:
        watcher.on_stage(f"case {case_name} counts as wrong everywhere: {error}")


def _wrong_everywhere(lost: UnsoundErrorMapError) -> str:
    return (
        f"case {lost.case} counts as wrong everywhere: {lost.path} is missing, damaged "
        "or of another format"
    )
