"""Error maps made anew by another process while training goes on.

Training hands over its weights every few steps, the other process predicts one case
after another with the newest and tells of each; see `error_map_worker`. Whatever
happens to it, training goes on with the maps there are.

Which maps are in use at a step depends on how fast both processes are, so a resumed run
is not exactly the unbroken one; its log tells which version came into use when.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from foveal.engine.error_maps import ErrorMapFolder, UnsoundErrorMapError, without
from foveal.engine.finished_cases import FinishedCase, FinishedCases
from foveal.engine.refreshing import KEPT_CHECKPOINTS
from foveal.engine.worker_process import WorkerProcess
from foveal.inference.errors import mean_dice
from foveal.io.weights import write_weights
from foveal.networks.interface import Network

FINISHED_FILE = "finished.jsonl"
"""In the folder of the maps: what the worker tells."""

WEIGHTS_FILE = "newest_weights.safetensors"
"""There too: what it is told."""

OUTPUT_FILE = "worker_output.txt"
"""There too: what it prints, which is nothing unless it fails."""

KEPT_STEPS = 20
"""That a map is kept after another has replaced it. Batches are prepared a few steps
ahead, with the maps there were then, and other processes may be a step behind."""


class _Replaced(NamedTuple):
    """A version that is not in use any more."""

    case: str
    version: int
    at_step: int


class ConcurrentRefreshing:
    """Hands weights to another process and takes up the maps that it makes.

    Args:
        maps: Of the training cases; should go on without those that are lost.
        every_steps: After which weights are handed over.
        command: What to run beside this process; ``None`` if another one does. All
            processes of a training take up the maps, each at its own time: within a
            step of one another.
    """

    def __init__(
        self, maps: ErrorMapFolder, every_steps: int, command: Sequence[str] | None
    ) -> None:
        self._maps = maps
        self._every_steps = every_steps
        self._worker = (
            WorkerProcess(command, maps.path / OUTPUT_FILE) if command else None
        )
        self._finished = FinishedCases(maps.path / FINISHED_FILE)
        self._validation: dict[str, FinishedCase] = {}
        self._in_checkpoints: list[dict[str, int]] = []
        self._replaced: list[_Replaced] = []
        self._saves = 0
        self._notes: list[str] = []
        self._has_begun = False
        # Copying, packing and writing large weights would keep training waiting.
        self._writer = ThreadPoolExecutor(1, "weights")
        self._writing: Future[None] | None = None

    def next_pause(self, step: int) -> int | None:
        """None: training never waits."""
        return None

    def at_pause(
        self, step: int, predictor: Callable[[], Network]
    ) -> dict[str, Any] | None:
        """Only before the first step: clear away what a killed run left."""
        if not self._has_begun:
            self._has_begun = True
            weights = self._maps.path / WEIGHTS_FILE
            weights.unlink(missing_ok=True)
            self._finished.begin(self._maps.steps)
            if step > 0:
                self._hand_over(step, predictor())
        return None

    def after_step(
        self, step: int, predictor: Callable[[], Network]
    ) -> Sequence[dict[str, Any]]:
        """Take up new maps, hand over weights and see that the worker is there.

        Returns:
            Rows with the cases that were predicted, or with what became of the worker;
            what a person should know is their ``note``.
        """
        rows: list[dict[str, Any]] = []
        if notes := [*self._notes, *self._maps.lost()]:
            self._notes = []
            rows += ({"note": note} for note in notes)
        if finished := self._finished.new():
            rows += self._taken_up(finished, step)
        if self._worker is not None:
            if step % self._every_steps == 0:
                rows += self._handed_over(step, predictor)
            rows += _looked_after(self._worker)
        return rows

    def state(self) -> dict[str, Any]:
        """Versions of the maps in use."""
        return {"versions": self._maps.steps}

    def saved(self, state: Mapping[str, Any]) -> None:
        """Keep the maps of a checkpoint for as long as it may be resumed."""
        self._in_checkpoints.append(state["versions"])
        del self._in_checkpoints[:-KEPT_CHECKPOINTS]
        self._saves += 1
        # Only now is it known what both checkpoints need, and what a killed run left
        # that neither does.
        if self._saves == KEPT_CHECKPOINTS:
            young = [{one.case: one.version} for one in self._replaced]
            self._maps.forget([*self._in_checkpoints, *young])

    def restore(self, state: Mapping[str, Any]) -> None:
        """Use the maps that were in use then, as far as they are still there.

        Those made later, of weights that are lost, are not used; a case whose map is
        gone or damaged has an error of 1 everywhere until it is predicted, as the first
        of all.

        Raises:
            RunError: A map is of another scan or plan.
        """
        versions = {
            name: step
            for name, step in state["versions"].items()
            if self._maps.contains(name, step)
        }
        self._maps.use_versions({})
        for name, step in versions.items():
            try:
                self._maps.use(name, step)
            except UnsoundErrorMapError as error:
                self._notes.append(without(error.path))
        self._in_checkpoints = [self._maps.steps]

    def close(self) -> None:
        """End the other process."""
        if self._worker is not None:
            self._worker.close()
        self._writer.shutdown()

    def _taken_up(
        self, finished: Sequence[FinishedCase], step: int
    ) -> list[dict[str, Any]]:
        """Use new maps; what to log of them and of validation cases."""
        cases: dict[str, Any] = {}
        validated: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        before = self._maps.steps
        for one in finished:
            if one.kind == "validation":
                self._validation[one.case] = one
                validated[one.case] = {"version": one.step, **one.found}
            elif before.get(one.case) != one.step:
                try:
                    self._maps.use(one.case, one.step)
                except UnsoundErrorMapError as error:
                    rows.append({"note": _unusable(error, before.get(one.case))})
                    continue
                if one.case in before and self._worker is not None:
                    self._replaced.append(_Replaced(one.case, before[one.case], step))
                before[one.case] = one.step
                cases[one.case] = {"version": one.step, **one.found}
        if not cases and not validated:
            return rows
        if self._worker is not None:
            self._worker.has_delivered()
            self._forget_replaced(step)
        row: dict[str, Any] = {
            "cases": cases,
            "worker_seconds": sum(one.seconds for one in finished),
        }
        if validated:
            row["validation"] = validated
            row["validation_dice"] = mean_dice(
                [one.found["dice"] for one in self._validation.values()]
            )
            row["validation_cases"] = len(self._validation)
        return [*rows, row]

    def _forget_replaced(self, step: int) -> None:
        """Delete versions that neither a batch nor a checkpoint needs any more."""
        needed = []
        for one in self._replaced:
            is_young = step - one.at_step < KEPT_STEPS
            if is_young or any(
                versions.get(one.case) == one.version
                for versions in self._in_checkpoints
            ):
                needed.append(one)
            else:
                self._maps.delete(one.case, one.version)
        self._replaced = needed

    def _handed_over(
        self, step: int, predictor: Callable[[], Network]
    ) -> list[dict[str, Any]]:
        """Begin to write weights, unless the last ones are not even written."""
        if self._writing is not None and not self._writing.done():
            return []
        try:
            if self._writing is not None:
                self._writing.result()
            rows = []
        except OSError as error:
            rows = [{"note": f"error maps get no newer weights: {error}"}]
        self._hand_over(step, predictor())
        return rows

    def _hand_over(self, step: int, network: Network) -> None:
        self._writing = self._writer.submit(
            write_weights,
            self._maps.path / WEIGHTS_FILE,
            network.state_dict(),
            {"step": str(step)},
        )


def _looked_after(worker: WorkerProcess) -> list[dict[str, Any]]:
    """Start the worker if it has to be; tells of its end, and of its start."""
    if why := worker.ended():
        return [_told_of_end(worker, f"has ended ({why})")]
    if not worker.is_due:
        return []
    try:
        process = worker.start()
    except OSError as error:
        return [_told_of_end(worker, f"cannot be started ({error})")]
    return [{"worker": "started", "process": process, "starts": worker.starts}]


def _unusable(error: UnsoundErrorMapError, used: int | None) -> str:
    """What is said of a new map that cannot be used, while another one is or none."""
    if used is None:
        return without(error.path)
    return (
        f"the new error map {error.path} is missing or damaged; that of step {used} "
        "stays in use"
    )


def _told_of_end(worker: WorkerProcess, what: str) -> dict[str, Any]:
    return {
        "worker": "ended",
        "starts": worker.starts,
        "note": f"the process that refreshes error maps {what}; training goes on with "
        f"the maps there are, and tries again in {worker.seconds_to_start:.0f} s",
    }
