"""Predicts one case after another with the newest weights there are, without end.

The other side of `ConcurrentRefreshing`. Berger et al. 2018,
https://arxiv.org/abs/1709.02764, have such a process beside the training.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch

from foveal.engine.error_maps import ErrorMapFolder
from foveal.engine.finished_cases import FinishedCase, FinishedCases, Kind
from foveal.engine.refreshing import FindErrors, told
from foveal.io.weights import read_weights
from foveal.networks.interface import Network
from foveal.sampling.randomness import generator
from foveal.store.store import StoredCase

LOOK_SECONDS = 0.2
"""Between two looks whether there are newer weights, if there is nothing else to do."""


class Turns:
    """Which case is predicted next, of those to train on and those to validate.

    Args:
        names: Of the cases of each kind.
        order: ``"stalest"``: whose weights are oldest, and without any before all, in
            an order that mixes the kinds evenly; or any.
        seed: Of a random order.
    """

    def __init__(
        self,
        names: Mapping[Kind, Sequence[str]],
        order: Literal["stalest", "random"],
        seed: int,
    ) -> None:
        places = {
            (kind, name): (number + 0.5) / len(group)
            for kind, group in names.items()
            for number, name in enumerate(group)
        }
        self._cases = sorted(places, key=lambda case: places[case])
        self._order = order
        self._seed = seed
        self._steps: dict[tuple[Kind, str], int] = {}
        self._drawn = 0

    def add(self, kind: Kind, name: str, step: int) -> None:
        """A case was predicted with the weights after so many updates."""
        self._steps[kind, name] = step

    def next(self, step: int) -> tuple[Kind, str] | None:
        """A case that these weights have not predicted; ``None`` if all are done."""
        due = [case for case in self._cases if self._steps.get(case) != step]
        if not due:
            return None
        if self._order == "random":
            draws = generator(self._seed, step, 0, "refresh", str(self._drawn))
            self._drawn += 1
            return due[int(torch.randint(len(due), (), generator=draws))]
        return min(due, key=lambda case: self._steps.get(case, -1))


class NewestWeights:
    """Weights in a file that is replaced from time to time.

    Args:
        path: Need not be there yet.
        network: Gets the weights.
    """

    def __init__(self, path: Path, network: Network) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self.network = network

    def step(self, known: int | None) -> int | None:
        """Load what is newer; updates behind the weights, ``None`` without any.

        Args:
            known: What this gave last.

        Raises:
            RunError: The file is damaged.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return known
        if self._seen == (found.st_mtime_ns, found.st_ino):
            return known
        self._seen = found.st_mtime_ns, found.st_ino
        tensors, texts = read_weights(self._path)
        self.network.load_state_dict(tensors)
        return int(texts["step"])


def predict_without_end(
    maps: ErrorMapFolder,
    validation: Mapping[str, StoredCase],
    finished: FinishedCases,
    turns: Turns,
    weights: NewestWeights,
    find_errors: FindErrors,
    while_writing: AbstractContextManager[object],
) -> None:
    """Keep the error maps of a run as new as can be, until the process is ended.

    Args:
        maps: Of the training cases.
        validation: Cases of which only the Dice is wanted, by name.
        finished: Continued.
        turns: Told of what was finished before.
        weights: Of the training.
        find_errors: Predicts a case.
        while_writing: Entered, again and again, while files are written.
    """
    training = {case.name: case for case in maps.cases}
    step: int | None = None
    while True:
        step = weights.step(step)
        turn = None if step is None else turns.next(step)
        if step is None or turn is None:
            time.sleep(LOOK_SECONDS)
            continue
        kind, name = turn
        start = time.perf_counter()
        case = training[name] if kind == "training" else validation[name]
        errors = find_errors(weights.network, case)
        seconds = time.perf_counter() - start
        with while_writing:
            if kind == "training":
                maps.write(name, step, errors)
            found = told({name: errors})[name]
            finished.append(FinishedCase(kind, name, step, found, seconds))
        turns.add(kind, name, step)
