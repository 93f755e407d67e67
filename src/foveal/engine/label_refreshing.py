"""Labels that the predictor gives to whole cases, before the first step and anew.

Training waits meanwhile. Which labels are in use belongs to the checkpoint, so a
resumed run learns from what the unbroken one would.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.engine.made_labels import MadeLabels
from foveal.engine.refreshing import KEPT_CHECKPOINTS
from foveal.errors import TrainingError
from foveal.networks.interface import Network
from foveal.store.store import StoredCase

MakeLabels = Callable[[Network, StoredCase], NDArray[np.uint8]]
"""Predicts a case with a network in evaluation mode; see `MadeLabels.read`."""


@dataclass(frozen=True, eq=False)
class LabellingRules:
    """When cases are labelled, and which labels are refused."""

    every_steps: int | None
    """``None``: only before the first step."""

    structures: Mapping[str, Sequence[int]]
    """Name to the inside classes whose union it is."""

    expected: Sequence[str]
    """Structures that some case must have in the first labels."""

    least_share: float
    """Of a structure's voxels in the first labels, below which new ones are refused."""


@dataclass(frozen=True)
class LabellingWatcher:
    """Who is told what while cases are labelled."""

    on_stage: Callable[[str], None] = lambda _: None
    on_case: Callable[[int, int, str], None] = lambda *_: None
    """Cases done, cases in all, name of the last."""


class LabelRefreshing:
    """Labels all cases of a stream at steps known beforehand, while training waits.

    Args:
        labels: Of the cases.
        what: They are, such as ``"unlabelled"``.
        rules: When, and what is refused.
        make_labels: Predicts a case.
        watcher: Told of every labelling.
    """

    def __init__(
        self,
        labels: MadeLabels,
        what: str,
        rules: LabellingRules,
        make_labels: MakeLabels,
        watcher: LabellingWatcher,
    ) -> None:
        self._labels = labels
        self._what = what
        self._rules = rules
        self._make_labels = make_labels
        self._watcher = watcher
        self._made_at: int | None = None
        self._first_voxels: dict[str, int] = {}
        self._in_checkpoints: list[int | None] = []

    def next_pause(self, step: int) -> int | None:
        """Every so many steps, if at all."""
        every = self._rules.every_steps
        return None if every is None else (step // every + 1) * every

    def at_pause(
        self, step: int, predictor: Callable[[], Network]
    ) -> dict[str, Any] | None:
        """Label all cases if it is their time, and use what is not refused.

        Raises:
            TrainingError: The first labels lack a structure.
        """
        every = self._rules.every_steps
        is_due = self._made_at is None or (every is not None and step % every == 0)
        if not is_due or self._made_at == step:
            return None
        start = time.perf_counter()
        num_cases = len(self._labels.cases)
        self._watcher.on_stage(
            f"labelling {num_cases} {self._what} cases with the weights of step {step}"
        )
        counts = np.zeros(self._labels.num_classes, np.int64)
        self._labels.write(step, self._made(predictor(), counts))
        voxels = {
            name: int(counts[list(classes)].sum())
            for name, classes in self._rules.structures.items()
        }
        num_voxels = sum(int(np.prod(case.shape)) for case in self._labels.cases)
        if self._made_at is None:
            self._require_all(voxels)
            self._first_voxels = voxels
        lost = self._lost(voxels)
        if lost:
            self._labels.delete(step)
        else:
            self._labels.use(step)
        # A resumed run does not know at first what the previous checkpoint needs.
        if len(self._in_checkpoints) == KEPT_CHECKPOINTS:
            self._labels.forget(self._in_checkpoints)
        self._made_at = step
        seconds = time.perf_counter() - start
        share = float(counts.sum() / num_voxels)
        told = f"labelled in {seconds:.0f} s: {share:.1%} of the voxels have a label"
        row: dict[str, Any] = {
            "labels": {
                "cases": num_cases,
                "labelled_share": share,
                "voxels": voxels,
                "lost": lost,
            },
            "seconds": seconds,
        }
        if lost:
            row["note"] = self._refusal(lost, voxels)
            told += f"; {row['note']}"
        self._watcher.on_stage(told)
        return row

    def after_step(
        self, step: int, predictor: Callable[[], Network]
    ) -> Sequence[dict[str, Any]]:
        """Nothing: all is done while training waits."""
        return ()

    def state(self) -> dict[str, Any]:
        """Which labels are in use, when they were last made, and what the first had."""
        return {
            "version": self._labels.version,
            "made_at": self._made_at,
            "first_voxels": self._first_voxels,
        }

    def saved(self, state: Mapping[str, Any]) -> None:
        """The last and the previous checkpoint need their labels."""
        self._in_checkpoints.append(state["version"])
        del self._in_checkpoints[:-KEPT_CHECKPOINTS]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Use the labels that were in use then."""
        self._labels.use(state["version"])
        self._made_at = state["made_at"]
        self._first_voxels = dict(state["first_voxels"])

    def close(self) -> None:
        """Nothing is left open."""

    def _made(
        self, network: Network, counts: NDArray[np.int64]
    ) -> Iterator[tuple[StoredCase, NDArray[np.uint8]]]:
        """Labels of every case, whose voxels of each class are added to ``counts``."""
        cases = self._labels.cases
        for number, case in enumerate(cases, start=1):
            labels = self._make_labels(network, case)
            counts += class_counts(
                labels, self._labels.num_classes, are_soft=self._labels.are_soft
            )
            yield case, labels
            self._watcher.on_case(number, len(cases), case.name)

    def _require_all(self, voxels: Mapping[str, int]) -> None:
        absent = [name for name in self._rules.expected if not voxels[name]]
        if absent:
            raise TrainingError(
                f"the weights that training begins with find {', '.join(absent)} in "
                f"none of the {len(self._labels.cases)} {self._what} cases, though "
                "labelled cases have it; labels made so would teach the network that "
                "it is not there. Begin with a run that finds it (transfer.weights; "
                "foveal predict shows what a run finds), or ask for less certainty "
                "(method.threshold), in another folder"
            )

    def _lost(self, voxels: Mapping[str, int]) -> list[str]:
        """Structures of which too little is left."""
        return [
            name
            for name, first in self._first_voxels.items()
            if first and voxels[name] < max(self._rules.least_share * first, 1)
        ]

    def _refusal(self, lost: Sequence[str], voxels: Mapping[str, int]) -> str:
        shares = ", ".join(
            f"{name} {voxels[name] / self._first_voxels[name]:.0%}" for name in lost
        )
        return (
            "the labels made anew are not used, and those of step "
            f"{self._labels.version} stay: of the voxels in the first labels is left "
            f"{shares}; at least {self._rules.least_share:.0%} is wanted"
        )


def class_counts(
    labels: NDArray[np.uint8], num_classes: int, *, are_soft: bool
) -> NDArray[np.int64]:
    """Voxels of each class, background first, among those of which a class is known.

    Args:
        labels: See `MadeLabels.read`; of probabilities the most probable class counts.
        num_classes: Including background.
        are_soft: Whether they are probabilities.
    """
    if are_soft:
        classes = labels.argmax(axis=0)[labels.any(axis=0)]
    else:
        classes = labels[labels < num_classes]
    return np.bincount(classes.ravel(), minlength=num_classes)
