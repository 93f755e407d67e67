"""The training loop: batches in, updates, validation, checkpoints; knows no method."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from foveal.engine.checkpoints import save_checkpoint
from foveal.engine.loading import PatchSource, Prefetcher
from foveal.engine.log import RunLog
from foveal.engine.training import NonFiniteLossError, Training
from foveal.errors import TrainingError
from foveal.io.files import atomic_write_text
from foveal.networks.interface import Network
from foveal.sampling.batch import Batch

Validate = Callable[[Network], dict[str, float | None]]
"""Dice per structure over the validation cases; ``None`` where no case has it."""


class Progress(NamedTuple):
    """What a person watching wants to know."""

    step: int
    total_steps: int
    loss: float | None
    mean_dice: float | None
    """Of the latest validation, which is used for selecting the checkpoint."""

    seconds_left: float
    note: str
    """Something to tell the user, mostly empty."""


@dataclasses.dataclass(frozen=True)
class LoopRules:
    """Length and rhythm of a run."""

    total_steps: int
    validate_every_steps: int
    checkpoint_every_seconds: float
    loader_threads: int


def run_loop(
    training: Training,
    sources: Mapping[str, PatchSource],
    run_dir: Path,
    rules: LoopRules,
    *,
    validate: Validate | None,
    on_progress: Callable[[Progress], None],
) -> None:
    """Train from the step that ``training`` has reached to the end.

    Args:
        training: Fresh or restored.
        sources: Of every stream of the method.
        run_dir: Gets ``log.jsonl``, ``checkpoints`` and, if the loss is not finite,
            ``nonfinite_batch``.
        rules: Length and rhythm.
        validate: ``None`` if the run has no validation cases.
        on_progress: Called after every step.

    Raises:
        TrainingError: The loss is not finite, or one patch does not fit the memory.
    """
    is_writer = training.fabric.is_global_zero
    log = RunLog(run_dir, training.step) if is_writer else None
    watch = _Watch(rules, training.step)
    mean_dice: float | None = None
    try:
        while training.step < rules.total_steps:
            halved = {
                name: _halved(source, training.batch_halvings)
                for name, source in sources.items()
            }
            with Prefetcher(
                halved, training.fabric.device, rules.loader_threads
            ) as loader:
                batches = loader.batches(training.step, rules.total_steps)
                waiting_since = time.perf_counter()
                for ready in batches:
                    waited = time.perf_counter() - waiting_since
                    start = time.perf_counter()
                    try:
                        terms, factor = training.update(ready, rules.total_steps)
                    except NonFiniteLossError as error:
                        raise TrainingError(
                            _keep_batches(run_dir, ready, error)
                        ) from error
                    except (RuntimeError, MemoryError) as error:
                        if not is_out_of_memory(error):
                            raise
                        note = _halve(training, halved)
                        if log is not None:
                            log.write("memory", training.step, note=note)
                        on_progress(
                            watch.progress(training.step, None, mean_dice, note)
                        )
                        break
                    loss = sum(terms.values())
                    if log is not None:
                        log.write(
                            "step",
                            training.step - 1,
                            loss=loss,
                            terms=terms,
                            learning_rate_factor=factor,
                            seconds=time.perf_counter() - start,
                            waited_seconds=waited,
                        )
                    if watch.is_validation_due(training.step) and validate is not None:
                        mean_dice = _validate(training, validate, run_dir, log)
                    if watch.is_checkpoint_due(training.step) and is_writer:
                        tensors, state = training.snapshot()
                        save_checkpoint(run_dir / "checkpoints", "last", tensors, state)
                    on_progress(watch.progress(training.step, loss, mean_dice, ""))
                    waiting_since = time.perf_counter()
    finally:
        if log is not None:
            log.close()
    training.fabric.barrier()


class _Watch:
    """Says what is due at a step and how long the rest will take."""

    def __init__(self, rules: LoopRules, first_step: int) -> None:
        self._rules = rules
        self._first_step = first_step
        self._start = time.perf_counter()
        self._last_checkpoint = self._start

    def is_validation_due(self, step: int) -> bool:
        return (
            step % self._rules.validate_every_steps == 0
            or step == self._rules.total_steps
        )

    def is_checkpoint_due(self, step: int) -> bool:
        now = time.perf_counter()
        is_late = now - self._last_checkpoint > self._rules.checkpoint_every_seconds
        if is_late or self.is_validation_due(step):
            self._last_checkpoint = now
            return True
        return False

    def progress(
        self, step: int, loss: float | None, mean_dice: float | None, note: str
    ) -> Progress:
        elapsed = time.perf_counter() - self._start
        done = max(step - self._first_step, 1)
        total = self._rules.total_steps
        seconds_left = elapsed / done * (total - step)
        return Progress(step, total, loss, mean_dice, seconds_left, note)


def _validate(
    training: Training, validate: Validate, run_dir: Path, log: RunLog | None
) -> float | None:
    """Score the predictor; keep it if it is the best so far. One process does."""
    mean: float | None = None
    if log is not None:
        start = time.perf_counter()
        dice = validate(training.frozen_predictor())
        known = [value for value in dice.values() if value is not None]
        mean = sum(known) / len(known) if known else None
        log.write(
            "validation",
            training.step,
            dice=dice,
            mean_dice=mean,
            seconds=time.perf_counter() - start,
        )
        if mean is not None and (
            training.best_score is None or mean > training.best_score
        ):
            training.best_score = mean
            save_checkpoint(
                run_dir / "checkpoints",
                "best",
                {
                    f"predictor.{name}": tensor
                    for name, tensor in training.predictor_weights().items()
                },
                {"step": training.step, "mean_dice": mean, "dice": dice},
            )
    training.fabric.barrier()
    return mean


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, on any device, or Python could not get memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "allocate memory" in str(error) or "out of memory" in str(error).lower()
    )


def _halved(source: PatchSource, halvings: int) -> PatchSource:
    return dataclasses.replace(source, batch_size=source.batch_size >> halvings)


def _halve(training: Training, sources: Mapping[str, PatchSource]) -> str:
    sizes = [source.batch_size for source in sources.values()]
    if min(sizes) < 2:
        raise TrainingError(
            "not enough memory for a batch of one patch of "
            f"{next(iter(sources.values())).patch_size} voxels; make patches.size "
            "or network.features smaller (--set patches.size=[…])"
        )
    training.batch_halvings += 1
    training.release_gradients()
    return f"memory ran out at step {training.step}: the batch is halved, " + ", ".join(
        f"{size} -> {size // 2}" for size in sizes
    )


def _keep_batches(run_dir: Path, batches: Mapping[str, Batch], error: Exception) -> str:
    """Save what made the loss not finite; returns what to tell the user."""
    folder = run_dir / "nonfinite_batch"
    folder.mkdir(exist_ok=True)
    names = {}
    for stream, batch in batches.items():
        tensors = {"image": batch.image.cpu().contiguous()}
        if batch.label_map is not None:
            tensors["label_map"] = batch.label_map.cpu().contiguous()
        save_file(tensors, folder / f"{stream}.safetensors")
        names[stream] = list(batch.case_names)
        atomic_write_text(folder / f"{stream}_cases.txt", "\n".join(batch.case_names))
    cases = "; ".join(f"{stream}: {', '.join(who)}" for stream, who in names.items())
    return (
        f"{error}. Cases in the batch: {cases}. The batch is kept in {folder}. "
        "Look at these images, or lower optimiser.learning_rate; the last checkpoint "
        "can be resumed."
    )
