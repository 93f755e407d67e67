"""The heart of `train`: settle what depends on the machine, then run the loop."""

import copy
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from lightning_fabric import Fabric

from foveal import building
from foveal.commands.labelling import (
    label_maker,
    label_refreshing,
    labelling_seconds,
    made_labels,
)
from foveal.commands.refresh_error_maps import worker_command, write_cases
from foveal.commands.refreshing import (
    error_map_folder,
    finder,
    first_round_steps,
    is_concurrent,
    long_first_round,
    pause_seconds,
    paused_refreshing,
    rhythm_of,
    training_threads,
    worker_device,
    worker_threads,
)
from foveal.commands.transfer import begin_with_weights, weights_of_fold
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.budget import (
    LONGEST_PROBE,
    fit_to_budget,
    seconds_per_case,
    seconds_per_step,
    validation_interval,
)
from foveal.engine.checkpoints import has_checkpoint, load_newest, problem_of_best
from foveal.engine.composed_refreshing import ComposedRefreshing
from foveal.engine.concurrent_refreshing import ConcurrentRefreshing
from foveal.engine.error_maps import ErrorMapFolder
from foveal.engine.label_refreshing import LabellingWatcher
from foveal.engine.loading import PatchSource, Prefetcher
from foveal.engine.loop import LoopRules, Progress, Validate, run_loop
from foveal.engine.refreshing import Refreshing
from foveal.engine.run_directory import (
    RunDirectory,
    write_environment,
    write_with_checksum,
)
from foveal.engine.training import Training
from foveal.inference.numerics import (
    Numerics,
    apply_layout,
    autocast,
    candidates,
    fastest,
    with_layout,
)
from foveal.inference.predict import patch_function
from foveal.inference.presence import presence_function, presence_in_cases
from foveal.inference.validate import validation_dice
from foveal.methods.interface import Clock, Method
from foveal.networks.interface import Network
from foveal.plugins.kept import plugins_for_network
from foveal.plugins.parts import Parts
from foveal.settings_files import changed_settings, to_toml
from foveal.store.store import StoredCase

MEASURES = {"segmentation": "Dice", "classification": "balanced accuracy"}
"""What the predictor of each task is validated by."""

PROBE_FRACTION = 0.02
"""Of a budget, spent on measuring the speed of whole steps."""


@dataclass(frozen=True)
class Watcher:
    """Who is told what while a run is made; every part may be left out."""

    on_stage: Callable[[str], None] = lambda _: None
    """A sentence about what is decided or begins."""

    on_cases: Callable[[int, int, str], None] | None = None
    """Cases done, cases in all, name of the last: planning and preprocessing."""

    on_step: Callable[[Progress], None] = lambda _: None


def fit(
    fabric: Fabric,
    run: RunDirectory,
    settings: Settings,
    plan: Plan,
    method: Method,
    cases: Mapping[str, Sequence[StoredCase]],
    held_out: Sequence[StoredCase],
    watcher: Watcher,
    parts: Parts = building.WITHOUT_PLUGINS,
) -> None:
    """Train to the end from wherever the run stands.

    Precision, layout and length are found once and written to the run's settings; a
    resumed run finds them there.

    Args:
        fabric: Launched.
        run: Its splits, plan and settings are written.
        settings: Of the run.
        plan: Of the run.
        method: As `building.method` makes it, right after the seed of the run was set.
        cases: To train on, by the names that streams use, such as ``"labelled"``.
        held_out: Cases to validate on; may be empty.
        watcher: Told of progress.
        parts: Those that settings and plan choose from.
    """
    start = time.perf_counter()
    torch.set_num_threads(training_threads(settings))
    maps = error_map_folder(
        run, settings, cases, goes_on_without=is_concurrent(settings)
    )
    labels = made_labels(run, plan, method, cases)
    sources = building.patch_sources(
        settings, plan, method, cases, fabric.global_rank, parts, maps, labels
    )
    if settings.transfer.weights is not None and not has_checkpoint(run.checkpoints):
        begin_with_weights(
            method.networks,
            weights_of_fold(settings.transfer.weights, settings.splits.fold),
            plan,
            parts,
            run,
            watcher.on_stage,
            keep_record=fabric.is_global_zero,
        )
    settings = _with_numerics(fabric, settings, method, sources, watcher)
    training = Training(
        method,
        building.optimisers(settings, method),
        fabric,
        numerics=building.numerics(settings),
        rules=building.update_rules(settings, method),
        seed=settings.training.seed,
    )
    validator = partial(_validator, settings, plan, method.task, fabric)
    validate = validator(held_out) if held_out else None
    state: dict[str, Any] | None = None
    if has_checkpoint(run.checkpoints):
        tensors, state, problems = load_newest(run.checkpoints)
        training.restore(tensors, state)
        for problem in problems:
            watcher.on_stage(f"{problem}; going on from the checkpoint before it")
        if fabric.is_global_zero and training.best_score is not None:
            _keep_sound_best(training, run, watcher)
        watcher.on_stage(f"resuming at step {training.step}")
    step_seconds = cache(partial(_timed_step, settings, training, sources))
    find_errors = finder(settings, plan, fabric.device)
    case_seconds = cache(
        lambda: seconds_per_case(
            maps.cases, partial(find_errors, training.frozen_predictor())
        )
    )
    if settings.sampling.adaptive:
        # One process's timing for all.
        rhythm = fabric.broadcast(
            rhythm_of(settings, len(maps.cases), step_seconds, case_seconds)
        )
        settings = changed_settings(settings, {"error_maps": rhythm})
    make_labels = None
    first_seconds = later_seconds = 0.0
    if method.refresh is not None and labels is not None:
        make_labels = label_maker(settings, plan, fabric.device, method.refresh)
        if settings.training.steps is None:
            first_seconds, later_seconds = labelling_seconds(
                method.refresh,
                len(labels.cases),
                seconds_per_case(
                    labels.cases, partial(make_labels, training.frozen_predictor())
                ),
            )
    steps, validate_every_steps = _length(
        settings,
        training,
        held_out,
        validator,
        lambda: (
            step_seconds()
            + pause_seconds(settings, len(maps.cases), case_seconds)
            + later_seconds
        ),
        # The first labels are made before the first step, and count as if they were.
        start - first_seconds,
    )
    settings = changed_settings(
        settings,
        {
            "training": {
                "steps": steps,
                "validate_every_steps": validate_every_steps,
            }
        },
    )
    if fabric.is_global_zero:
        write_with_checksum(run.settings, to_toml(settings))
        write_environment(run, torch.get_num_threads(), str(fabric.device))
    watcher.on_stage(
        f"training {steps} steps in {settings.training.precision}, "
        f"{settings.training.memory_layout.replace('_', ' ')}, "
        f"on {fabric.device} with {torch.get_num_threads()} threads"
    )
    refreshed: dict[str, Refreshing] = {}
    if settings.sampling.adaptive:
        if is_concurrent(settings):
            refreshed["error_maps"] = _concurrent_refreshing(
                fabric, run, settings, plan, maps, held_out, parts
            )
        else:
            refreshed["error_maps"] = paused_refreshing(settings, maps, find_errors)
        watcher.on_stage(_refreshing_words(settings, len(maps.cases), fabric.device))
        if not is_concurrent(settings):
            warning = long_first_round(settings, len(maps.cases))
            if warning:
                watcher.on_stage(warning)
    if method.refresh is not None and labels is not None and make_labels is not None:
        refreshed["labels"] = label_refreshing(
            labels,
            plan,
            method.refresh,
            cases["labelled"],
            make_labels,
            LabellingWatcher(watcher.on_stage, watcher.on_cases or (lambda *_: None)),
        )
    kept_fresh = _together(refreshed)
    if kept_fresh is not None and state is not None:
        kept_fresh.restore(state["refreshing"])
    run_loop(
        training,
        sources,
        run.path,
        LoopRules(
            total_steps=steps,
            validate_every_steps=validate_every_steps,
            checkpoint_every_seconds=settings.training.checkpoint_every_seconds,
            loader_threads=loader_threads(settings),
            measure=MEASURES[method.task],
        ),
        validate=validate,
        on_progress=watcher.on_step,
        refreshing=kept_fresh,
    )


def _together(parts: Mapping[str, Refreshing]) -> Refreshing | None:
    """What refreshes all of them; a single one keeps its state under no name."""
    if len(parts) > 1:
        return ComposedRefreshing(parts)
    return next(iter(parts.values()), None)


def _keep_sound_best(training: Training, run: RunDirectory, watcher: Watcher) -> None:
    """Drop a best checkpoint that cannot be read, so that another takes its place."""
    problem = problem_of_best(run.checkpoints)
    if problem:
        # The predictions are of the weights that are lost. First what says that the
        # run is finished, so that one that is killed here comes here again.
        run.metrics.unlink(missing_ok=True)
        shutil.rmtree(run.validation, ignore_errors=True)
        (run.checkpoints / "best.safetensors").unlink(missing_ok=True)
        training.best_score = None
        watcher.on_stage(
            f"{problem}; it is dropped, and the best of the validations still to come "
            "is kept instead. If there is none, the last checkpoint predicts"
        )


def _with_numerics(
    fabric: Fabric,
    settings: Settings,
    method: Method,
    sources: Mapping[str, PatchSource],
    watcher: Watcher,
) -> Settings:
    """Settings whose precision and layout are no longer ``"auto"``."""
    device = fabric.device
    choices = candidates(
        device.type, settings.training.precision, settings.training.memory_layout
    )
    # Two patches tell which is faster as well as a whole batch, and sooner. One would
    # not do where batch norm sees one voxel of each patch.
    batches = {
        name: source.batch(0, source.read(0)[:2], device)
        for name, source in sources.items()
    }

    def run_step(choice: Numerics) -> None:
        trial = copy.deepcopy(method).to(device).train()
        apply_layout(trial, choice.memory_layout)
        laid_out = {
            name: batch.with_image(with_layout(batch.image, choice.memory_layout))
            for name, batch in batches.items()
        }
        with autocast(choice, device.type):
            terms = trial(laid_out, Clock(0, 1, settings.training.seed, 0))
        torch.stack(list(terms.values())).sum().backward()

    chosen, seconds = fastest(choices, run_step, device.type)
    chosen = fabric.broadcast(chosen)
    if seconds:
        timings = ", ".join(
            f"{choice.precision} {choice.memory_layout} {duration:.3f} s"
            for choice, duration in seconds.items()
        )
        watcher.on_stage(f"a small batch forward and backward takes: {timings}")
    return changed_settings(settings, {"training": chosen._asdict()})


def _validator(
    settings: Settings,
    plan: Plan,
    task: str,
    fabric: Fabric,
    cases: Sequence[StoredCase],
) -> Validate:
    """Scores per structure of a network on whole cases."""

    def validate(network: Network) -> dict[str, float | None]:
        apply_layout(network, building.numerics(settings).memory_layout)
        if task == "classification":
            scores = presence_in_cases(
                presence_function(
                    network,
                    building.membership(plan),
                    building.numerics(settings),
                    fabric.device,
                ),
                cases,
                building.windows(settings, plan, network),
                plan.labels.structures,
            )
            return {name: one.balanced_accuracy for name, one in scores.items()}
        return validation_dice(
            patch_function(network, building.numerics(settings), fabric.device),
            cases,
            building.tiles(settings, plan, network),
            plan.labels.num_classes,
            plan.labels.structures,
        )

    return validate


def _timed_step(
    settings: Settings, training: Training, sources: Mapping[str, PatchSource]
) -> float:
    """Seconds of a whole step, loading included; training comes back as it was."""
    budget_seconds = settings.training.budget_seconds
    probe_seconds = PROBE_FRACTION * budget_seconds if budget_seconds else 0.0
    with Prefetcher(
        sources, training.fabric.device, loader_threads(settings)
    ) as loader:
        batches = loader.batches(0, LONGEST_PROBE + 2)
        return seconds_per_step(training, batches, probe_seconds)


def _length(
    settings: Settings,
    training: Training,
    held_out: Sequence[StoredCase],
    validator: Callable[[Sequence[StoredCase]], Validate],
    step_seconds: Callable[[], float],
    start: float,
) -> tuple[int, int]:
    """Steps of the run and steps between validations."""
    length = settings.training
    if length.steps is not None:
        every = length.validate_every_steps or validation_interval(length.steps)
        return length.steps, every
    seconds = step_seconds()
    validation_seconds = 0.0
    if held_out:
        network = training.frozen_predictor()
        validation_seconds = len(held_out) * seconds_per_case(
            held_out, lambda case: validator([case])(network)
        )
    remaining = (length.budget_seconds or 0.0) - (time.perf_counter() - start)
    fitted = fit_to_budget(remaining, seconds, validation_seconds)
    every = length.validate_every_steps or fitted.validate_every_steps
    return training.fabric.broadcast((fitted.steps, every))


def loader_threads(settings: Settings) -> int:
    """Threads that read and augment patches."""
    return min(8, training_threads(settings))


def _concurrent_refreshing(
    fabric: Fabric,
    run: RunDirectory,
    settings: Settings,
    plan: Plan,
    maps: ErrorMapFolder,
    held_out: Sequence[StoredCase],
    parts: Parts,
) -> ConcurrentRefreshing:
    """Error maps refreshed by another process, which the first of several starts."""
    chosen = settings.error_map_rules
    command = None
    if fabric.is_global_zero:
        write_cases(run, maps.cases, held_out)
        needed = plugins_for_network(run, plan.network.name, parts.plugins)
        command = worker_command(
            run,
            worker_device(settings, fabric.device),
            worker_threads(settings),
            [plugin.path for plugin in needed],
        )
    return ConcurrentRefreshing(maps, chosen.options["every_steps"], command)


def _refreshing_words(settings: Settings, num_cases: int, device: torch.device) -> str:
    chosen = settings.error_map_rules
    if chosen.refresh == "concurrent":
        return (
            "patches from where the network errs: another process, on "
            f"{worker_device(settings, device)} with {worker_threads(settings)} "
            f"threads, makes the error maps of {num_cases} cases anew and gets the "
            f"weights every {chosen.every_steps} steps"
        )
    refreshed = min(chosen.cases_per_refresh or num_cases, num_cases)
    return (
        f"patches from where the network errs: every {chosen.every_steps} steps the "
        f"error maps of {refreshed} of {num_cases} cases are made anew, so the first "
        f"round takes {first_round_steps(settings, num_cases)} steps"
    )
