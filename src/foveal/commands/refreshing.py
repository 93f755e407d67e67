"""Error maps of a run: where they are, what makes them, and how often."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from foveal import building
from foveal.commands.plan import usable_threads
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.error_maps import ErrorMapFolder
from foveal.engine.refreshing import (
    FindErrors,
    PausedRefreshing,
    Rhythm,
    fraction_rhythm,
)
from foveal.engine.run_directory import RunDirectory
from foveal.inference.errors import CaseErrors, case_errors
from foveal.inference.numerics import apply_layout
from foveal.inference.predict import patch_function
from foveal.networks.interface import Network
from foveal.reports.views import stored_slice_axis
from foveal.store.store import StoredCase

NUM_SHOWN = 2
"""Training cases, first by name, of which slices of error maps are kept."""

LONGEST_FIRST_ROUND = 1 / 3
"""Of a training, without a warning."""


def error_map_folder(
    run: RunDirectory,
    settings: Settings,
    cases: Mapping[str, Sequence[StoredCase]],
    *,
    goes_on_without: bool = False,
) -> ErrorMapFolder:
    """Where the error maps of a run are; they are all 1 until one is written.

    Args:
        run: Whose folder ``error_maps`` it is.
        settings: Of the run.
        cases: To train on, by the names that streams use.
        goes_on_without: Maps that are found lost; see `ErrorMapFolder`.
    """
    chosen = settings.error_map_rules
    outlined = {
        case.name: case
        for group in cases.values()
        for case in group
        if case.class_counts
    }
    return ErrorMapFolder(
        run.error_maps,
        outlined,
        chosen.block_voxels,
        {
            name: stored_slice_axis(outlined[name].grid)
            for name in sorted(outlined)[:NUM_SHOWN]
        },
        goes_on_without=goes_on_without,
    )


def finder(settings: Settings, plan: Plan, device: torch.device) -> FindErrors:
    """Predicts cases as validation does, and compares with what is known."""

    def find(network: Network, case: StoredCase) -> CaseErrors:
        numerics = building.numerics(settings)
        apply_layout(network, numerics.memory_layout)
        return case_errors(
            patch_function(network, numerics, device),
            case,
            building.tiles(settings, plan, network),
            plan.labels.num_classes,
            plan.labels.structures,
        )

    return find


def paused_refreshing(
    settings: Settings, maps: ErrorMapFolder, find_errors: FindErrors
) -> PausedRefreshing:
    """What keeps the error maps of a run fresh while its training pauses.

    Args:
        settings: Of the run, with a rhythm; see `rhythm_of`.
        maps: Of the run.
        find_errors: See `finder`.
    """
    chosen = settings.error_map_rules
    return PausedRefreshing(
        maps,
        Rhythm(*_rhythm(settings), chosen.order, settings.training.seed),
        find_errors,
    )


def _rhythm(settings: Settings) -> tuple[int, int]:
    """Steps between refreshes, and cases of each."""
    chosen = settings.error_map_rules
    if chosen.every_steps is None or chosen.cases_per_refresh is None:
        raise ValueError("the rhythm of refreshing was not settled")
    return chosen.every_steps, chosen.cases_per_refresh


def is_concurrent(settings: Settings) -> bool:
    """Whether a run needs another process to refresh its error maps."""
    chosen = settings.error_map_rules
    return settings.sampling.adaptive and chosen.refresh == "concurrent"


def training_threads(settings: Settings) -> int:
    """Threads of the processor that are left to the training, at least one."""
    all_threads = settings.training.threads or usable_threads()
    if not is_concurrent(settings):
        return all_threads
    return max(all_threads - worker_threads(settings), 1)


def worker_threads(settings: Settings) -> int:
    """Threads of the process that refreshes error maps: a tenth, if nothing is set."""
    chosen = settings.error_map_rules
    all_threads = settings.training.threads or usable_threads()
    return chosen.threads or max(all_threads // 10, 1)


def require_worker_device(settings: Settings) -> None:
    """Refuse a device for refreshing error maps that this machine lacks.

    Raises:
        SettingsError: PyTorch cannot use it.
    """
    chosen = settings.error_map_rules
    if is_concurrent(settings):
        building.resolved_device(chosen.options["device"])


def first_round_steps(settings: Settings, num_cases: int) -> int:
    """Steps until every case has an error map, at least.

    With a random order it takes longer unless all are predicted at a time.

    Args:
        settings: With the rhythm that `rhythm_of` found.
        num_cases: To predict in all.
    """
    every_steps, cases = _rhythm(settings)
    return every_steps * math.ceil(num_cases / cases)


def long_first_round(settings: Settings, num_cases: int) -> str:
    """A warning if error maps cover all cases late in a run only; else empty.

    Args:
        settings: With the rhythm that `rhythm_of` found, and the steps of the run.
        num_cases: To predict in all.
    """
    steps = first_round_steps(settings, num_cases)
    total = settings.training.steps
    if total is None or steps <= LONGEST_FIRST_ROUND * total:
        return ""
    first = (
        f"Warning: training has {total} steps, and the first round of error maps takes "
        f"{steps}"
    )
    words = [first]
    if not settings.sampling.one_case_per_batch:
        first += (
            "; until then a case without a map counts as wrong everywhere and is drawn "
            "more often than the others"
        )
        words = [
            first,
            "With sampling.one_case_per_batch=true all cases keep their chances",
        ]
    chosen = settings.error_map_rules
    words.append(
        "A larger error_maps.refresh_fraction, or error_maps.refresh=epoch, makes the "
        "round shorter"
        if chosen.refresh == "fraction"
        else "A smaller error_maps.every_steps, or a larger "
        "error_maps.cases_per_refresh, makes the round shorter"
    )
    if 0 < chosen.curriculum_steps <= steps:
        words.append(
            f"The curriculum of {chosen.curriculum_steps} steps is over before it ends"
        )
    return ". ".join(words)


def worker_device(settings: Settings, of_training: torch.device) -> str:
    """Where that process computes: on a GPU of its own, if there is one more.

    Args:
        settings: Of the run.
        of_training: Device of the first process of the training.
    """
    chosen = settings.error_map_rules
    is_open = chosen.device in (None, "auto")
    kind = of_training.type if is_open else str(chosen.device)
    taken = settings.training.devices if of_training.type == "cuda" else 0
    if kind == "cuda" and torch.cuda.device_count() > taken:
        return f"cuda:{taken}"
    return kind


def rhythm_of(
    settings: Settings,
    num_cases: int,
    step_seconds: Callable[[], float],
    case_seconds: Callable[[], float],
) -> dict[str, int]:
    """Entries of the settings: how many cases are predicted after how many steps.

    Found once and kept, so that a resumed run refreshes when the unbroken one would.

    Args:
        settings: Of an adaptive sampler.
        num_cases: To predict in all.
        step_seconds: Times a step; called only if needed.
        case_seconds: Times the prediction of a case; called only if needed.

    Returns:
        Empty if training never pauses.
    """
    chosen = settings.error_map_rules
    if chosen.refresh == "concurrent":
        return {}
    steps, cases = chosen.every_steps, chosen.cases_per_refresh
    if chosen.refresh == "epoch":
        cases = cases or num_cases
    elif steps is None or cases is None:
        steps, cases = fraction_rhythm(
            chosen.options["refresh_fraction"],
            step_seconds=step_seconds(),
            case_seconds=case_seconds(),
            num_cases=num_cases,
            every_steps=steps,
            cases_per_refresh=cases,
        )
    if steps is None:
        raise AssertionError("every way of refreshing has a number of steps by now")
    return {"every_steps": steps, "cases_per_refresh": cases}


def pause_seconds(
    settings: Settings, num_cases: int, case_seconds: Callable[[], float]
) -> float:
    """Seconds per step, on average, for which training pauses to refresh maps.

    Args:
        settings: With the rhythm that `rhythm_of` found, if maps are refreshed.
        num_cases: To predict in all.
        case_seconds: Times the prediction of a case; called only if needed.
    """
    rhythm = settings.error_maps
    if not (rhythm and rhythm.every_steps and rhythm.cases_per_refresh):
        return 0.0
    predicted = min(rhythm.cases_per_refresh, num_cases)
    return predicted * case_seconds() / rhythm.every_steps
