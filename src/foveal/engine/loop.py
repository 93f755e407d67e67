"""The training loop: batches in, updates, validation, checkpoints; knows no method."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save

from foveal.engine.checkpoints import SNAPSHOT, save_checkpoint
from foveal.engine.loading import PatchSource, Prefetcher
from foveal.engine.log import RunLog
from foveal.engine.refreshing import Refreshing, refresh_curves
from foveal.engine.training import NonFiniteLossError, Training
from foveal.errors import TrainingError
from foveal.io.files import atomic_write_bytes, atomic_write_text
from foveal.networks.interface import Network
from foveal.sampling.batch import Batch

Validate = Callable[[Network], dict[str, float | None]]
"""Score per structure over the validation cases; ``None`` where no case has it."""


class Progress(NamedTuple):
    """What a person watching wants to know."""

    step: int
    total_steps: int
    loss: float | None
    measure: str
    """What validation scores are, such as ``"Dice"``."""

    mean_score: float | None
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

    measure: str = "Dice"
    """Name of the scores that validation gives; the highest mean is the best."""


def run_loop(
    training: Training,
    sources: Mapping[str, PatchSource],
    run_dir: Path,
    rules: LoopRules,
    *,
    validate: Validate | None,
    on_progress: Callable[[Progress], None],
    refreshing: Refreshing | None = None,
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
        refreshing: Of what the batches are drawn by; ``None``: nothing changes.

    Raises:
        TrainingError: The loss is not finite, or one patch does not fit the memory.
    """
    keeper = _Keeper(training, run_dir, rules, validate, on_progress, refreshing)
    try:
        while training.step < rules.total_steps:
            note = _train_while_memory_lasts(training, sources, run_dir, rules, keeper)
            if note:
                keeper.tell(note)
    finally:
        keeper.close()
    training.fabric.barrier()


def _train_while_memory_lasts(
    training: Training,
    sources: Mapping[str, PatchSource],
    run_dir: Path,
    rules: LoopRules,
    keeper: "_Keeper",
) -> str:
    """Make steps to the end, or until the batch had to be halved; says so then."""
    halved = {
        name: dataclasses.replace(
            source, batch_size=max(source.batch_size >> training.batch_halvings, 1)
        )
        for name, source in sources.items()
    }
    with Prefetcher(halved, training.fabric.device, rules.loader_threads) as loader:
        waiting_since = time.perf_counter()
        for batches in _batches_between_pauses(loader, training, keeper):
            start = time.perf_counter()
            try:
                terms, factor = training.update(batches, rules.total_steps)
            except NonFiniteLossError as error:
                raise TrainingError(_keep_batches(run_dir, batches, error)) from error
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                return _halve(training, halved)
            keeper.after_step(
                terms,
                batches,
                learning_rate_factor=factor,
                seconds=time.perf_counter() - start,
                waited_seconds=start - waiting_since,
            )
            waiting_since = time.perf_counter()
    return ""


def _batches_between_pauses(
    loader: Prefetcher, training: Training, keeper: "_Keeper"
) -> Iterator[dict[str, Batch]]:
    """Batches to the end; none is drawn before the pause that decides how."""
    while (end := keeper.pause()) > training.step:
        yield from loader.batches(training.step, end)


class _Keeper:
    """Logs, validates, keeps checkpoints and tells how far the run is.

    With several processes the first does all of it, and the others wait for it.
    """

    def __init__(
        self,
        training: Training,
        run_dir: Path,
        rules: LoopRules,
        validate: Validate | None,
        on_progress: Callable[[Progress], None],
        refreshing: Refreshing | None,
    ) -> None:
        self._training = training
        self._checkpoints = run_dir / "checkpoints"
        self._rules = rules
        self._validate = validate
        self._on_progress = on_progress
        self._refreshing = refreshing
        self._paused_seconds = 0.0
        self._is_writer = training.fabric.is_global_zero
        self._log = RunLog(run_dir, training.step) if self._is_writer else None
        self._first_step = training.step
        self._start = self._last_checkpoint = time.perf_counter()
        self._mean_score: float | None = None

    def pause(self) -> int:
        """Let what batches are drawn by be refreshed, if that is due.

        Returns:
            The step before which training has to stop next, at most its end.
        """
        step, total = self._training.step, self._rules.total_steps
        if self._refreshing is None or step == total:
            return total
        start = time.perf_counter()
        if self._is_writer:
            done = self._refreshing.at_pause(step, self._training.frozen_predictor)
            if done is not None:
                self._write("refresh", step, curves=refresh_curves(done), **done)
        if self._training.fabric.world_size > 1:
            # The others wait here for the first, and go on with what it made.
            state = self._training.fabric.broadcast(self._refreshing.state())
            self._refreshing.restore(state)
        self._paused_seconds += time.perf_counter() - start
        return min(self._refreshing.next_pause(step) or total, total)

    def after_step(
        self,
        terms: Mapping[str, float],
        batches: Mapping[str, Batch],
        *,
        learning_rate_factor: float,
        seconds: float,
        waited_seconds: float,
    ) -> None:
        """Do what is due after a step."""
        loss = sum(terms.values())
        self._write(
            "step",
            self._training.step - 1,
            loss=loss,
            terms=dict(terms),
            **self._measures(),
            learning_rate_factor=learning_rate_factor,
            seconds=seconds,
            waited_seconds=waited_seconds - self._paused_seconds,
            **drawn_where(batches, self._training.step - 1),
        )
        self._paused_seconds = 0.0
        step, rules = self._training.step, self._rules
        note = self._refresh(step)
        if self._is_writer:
            # Before the last checkpoint, so that no resumed run lacks one.
            self._keep_if_worth(step)
        is_stop = step % rules.validate_every_steps == 0 or step == rules.total_steps
        if is_stop and self._validate is not None:
            score = self._score(self._validate) if self._is_writer else None
            # All wait here for the first, and lower their learning rates together.
            self._training.add_score(self._training.fabric.broadcast(score))
        age = time.perf_counter() - self._last_checkpoint
        is_due = is_stop or age > rules.checkpoint_every_seconds
        if self._log is not None and is_due:
            self._log.flush_to_disk()
            tensors, state = self._training.snapshot()
            if self._refreshing is not None:
                state["refreshing"] = self._refreshing.state()
            save_checkpoint(self._checkpoints, "last", tensors, state)
            if self._refreshing is not None:
                self._refreshing.saved(state["refreshing"])
            self._last_checkpoint = time.perf_counter()
        self._on_progress(self._progress(loss, note))

    def _measures(self) -> dict[str, dict[str, float]]:
        """What the method measured beside its losses; nothing for most."""
        measured = self._training.method.measures()
        values = {name: float(value) for name, value in measured.items()}
        return {"measures": values} if values else {}

    def tell(self, note: str) -> None:
        """Log something unusual and show it."""
        self._write("memory", self._training.step, note=note)
        self._on_progress(self._progress(None, note))

    def close(self) -> None:
        """Finish the log, and what refreshes."""
        if self._refreshing is not None:
            self._refreshing.close()
        if self._log is not None:
            self._log.close()

    def _keep_if_worth(self, step: int) -> None:
        """Keep the predictor of a step that the schedule names."""
        kept = list(self._training.rules.kept_steps(self._rules.total_steps))
        if step in kept:
            name = f"{SNAPSHOT}_{kept.index(step) + 1}"
            state = {"step": step, "task": self._training.method.task}
            self._save_predictor(name, state)

    def _save_predictor(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint to predict with, and not to go on from."""
        weights = {
            f"predictor.{key}": tensor
            for key, tensor in self._training.predictor_weights().items()
        }
        save_checkpoint(self._checkpoints, name, weights, state)

    def _refresh(self, step: int) -> str:
        """Let what batches are drawn by be refreshed meanwhile; gives what to tell."""
        if self._refreshing is None:
            return ""
        predictor = self._training.frozen_predictor
        notes = []
        for row in self._refreshing.after_step(step, predictor):
            self._write("refresh", step - 1, curves=refresh_curves(row), **row)
            if "note" in row:
                notes.append(row["note"])
        return "; ".join(notes)

    def _write(
        self,
        kind: str,
        step: int,
        curves: Mapping[str, Any] | None = None,
        **values: object,
    ) -> None:
        if self._log is not None:
            self._log.write(kind, step, curves, **values)

    def _score(self, validate: Validate) -> float | None:
        """Validate the predictor, and keep it if it may be the best and is so far.

        Returns:
            Mean Dice of the structures; ``None`` if no case has any.
        """
        training = self._training
        start = time.perf_counter()
        scores = validate(training.frozen_predictor())
        seconds = time.perf_counter() - start
        known = [value for value in scores.values() if value is not None]
        mean = sum(known) / len(known) if known else None
        self._mean_score = mean
        self._write(
            "validation",
            training.step,
            measure=self._rules.measure,
            scores=scores,
            mean=mean,
            seconds=seconds,
        )
        best = training.best_score
        may_be_best = training.method.may_be_best(
            training.step / self._rules.total_steps
        )
        if mean is not None and may_be_best and (best is None or mean > best):
            training.best_score = mean
            state = {
                "step": training.step,
                "task": training.method.task,
                "measure": self._rules.measure,
                "mean": mean,
                "scores": scores,
            }
            self._save_predictor("best", state)
        return mean

    def _progress(self, loss: float | None, note: str) -> Progress:
        step, total = self._training.step, self._rules.total_steps
        elapsed = time.perf_counter() - self._start
        seconds_left = elapsed / max(step - self._first_step, 1) * (total - step)
        return Progress(
            step,
            total,
            loss,
            self._rules.measure,
            self._mean_score,
            seconds_left,
            note,
        )


def drawn_where(batches: Mapping[str, Batch], step: int) -> dict[str, Any]:
    """What the log says of how the patches of a step were drawn.

    Returns:
        ``patches``: stream to (case, then the voxel that a patch was drawn around);
        of adaptive samplers also ``map_age_steps``, the mean age of the error maps that
        were in use, and ``acceptance``, the share of the base sampler's draws that was
        accepted. Empty where a sampler does not say.
    """
    told: dict[str, Any] = {}
    patches = {
        name: [
            [case, *draw.centre]
            for case, draw in zip(batch.case_names, batch.draws, strict=True)
            if draw.centre is not None
        ]
        for name, batch in batches.items()
    }
    if any(patches.values()):
        told["patches"] = patches
    draws = [draw for batch in batches.values() for draw in batch.draws]
    ages = [step - draw.error_step for draw in draws if draw.error_step is not None]
    if ages:
        told["map_age_steps"] = sum(ages) / len(ages)
    tries = [1 / draw.acceptance for draw in draws if draw.acceptance is not None]
    if tries:
        told["acceptance"] = len(tries) / sum(tries)
    return told


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, on any device, or Python could not get memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "allocate memory" in str(error) or "out of memory" in str(error).lower()
    )


def _halve(training: Training, sources: Mapping[str, PatchSource]) -> str:
    """Make every batch of more than one patch half as large, and say so."""
    sizes = [source.batch_size for source in sources.values()]
    if training.fabric.world_size > 1:
        raise TrainingError(
            f"memory ran out at step {training.step} in one of several processes, "
            "which cannot halve the batch alone; make patches.batch_size smaller"
        )
    if max(sizes) < 2:
        raise TrainingError(
            "not enough memory for a batch of one patch of "
            f"{next(iter(sources.values())).patch_size} voxels; make patches.size "
            "or network.features smaller (--set patches.size=[…])"
        )
    training.batch_halvings += 1
    training.release_gradients()
    return f"memory ran out at step {training.step}: the batch is halved, " + ", ".join(
        f"{size} -> {max(size // 2, 1)}" for size in sizes
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
        atomic_write_bytes(folder / f"{stream}.safetensors", save(tensors))
        names[stream] = list(batch.case_names)
        atomic_write_text(folder / f"{stream}_cases.txt", "\n".join(batch.case_names))
    cases = "; ".join(f"{stream}: {', '.join(who)}" for stream, who in names.items())
    return (
        f"{error}. Cases in the batch: {cases}. The batch is kept in {folder}. "
        "Look at these images, or lower optimiser.learning_rate; the last checkpoint "
        "can be resumed."
    )
