"""Patches from where the network still errs: isample.

Berger et al. 2018, "An Adaptive Sampling Scheme to Efficiently Train Fully
Convolutional Networks for Semantic Segmentation", https://arxiv.org/abs/1709.02764,
algorithm 1. A base sampler draws an image `j`, a class `k` and a voxel `c` of that
class; the draw is accepted if `E_j(c) > U(0, 1) - epsilon`, where the error map `E_j`
is one minus the probability that the network gave to the true class, so with
probability `a_j(c) = min(1, E_j(c) + epsilon)`. After a rejection everything is drawn
again.

The loop therefore draws with probability proportional to
`P(j) P(k | j) P(c | j, k) a_j(c)`: where errors are large, images and classes come more
often, not only voxels. `"direct"` draws from exactly this distribution without a loop:
image and class by `P(j) P(k | j)` times the mean acceptance of that class's voxels, the
voxel by its acceptance, each found among cumulative sums.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from foveal.sampling.cases import SampledCase
from foveal.sampling.laws import Category
from foveal.sampling.samplers import (
    BaseSampler,
    Draw,
    Place,
    drawn_index,
    patch_at,
    uniform,
)
from foveal.sampling.voxels import Voxels, VoxelTable, Window, voxel_tables

LARGEST_ERROR = 255
"""The byte that stands for an error of 1."""

MOST_TRIES = 10_000
"""Draws of the loop, after which the last is taken: with epsilon 0 and no error left it
would never end. With epsilon 0.01 so many rejections have probability 1e-44."""


@runtime_checkable  # the run-time shape checks look at signatures with it
class ErrorMap(Protocol):
    """Errors of one case, one byte per voxel, 255 for an error of 1."""

    @property
    def step(self) -> int:
        """Updates behind the weights that made it."""
        ...

    @property
    def difficulty(self) -> float:
        """Mean error in the structures of the case, in [0, 1]."""
        ...

    def read(self, window: Sequence[slice]) -> NDArray[np.uint8]:
        """Errors in a window."""
        ...


@runtime_checkable  # the run-time shape checks look at signatures with it
class ErrorMaps(Protocol):
    """Where the error maps of a run are found."""

    def current(self, case_name: str) -> ErrorMap | None:
        """The newest map of a case; ``None`` while its error is 1 everywhere."""
        ...


class _WithoutErrorMaps:
    """Of what was not trained yet: an error of 1 everywhere."""

    def current(self, case_name: str) -> ErrorMap | None:
        return None


WITHOUT_ERROR_MAPS: ErrorMaps = _WithoutErrorMaps()


Reader = Callable[[Sequence[slice]], NDArray[np.uint8]]
"""Gives the bytes of a window."""


class _Row(NamedTuple):
    """What one error map leaves of a case."""

    error_map: ErrorMap | None
    categories: Sequence[Category]
    shares: Sequence[float]
    """Of each category: its chance times the mean acceptance of its voxels."""

    tables: Sequence[VoxelTable]
    """Of each category; empty without an error map."""

    total: float
    """Sum of the shares: of the base sampler's draws in the case, those accepted."""


class AdaptiveSampler:
    """Draws as a base sampler does, but from where error maps are high.

    Args:
        base: What is drawn while nothing is known of errors.
        maps: May be replaced while the sampler is used, case by case.
        epsilon: In [0, 1]. 0: by errors alone; 1: the base sampler, and with
            ``"loop"`` draw by draw. If no voxel is left with an error and epsilon is 0,
            the base sampler draws.
        mode: ``"direct"`` or ``"loop"``; the same distribution, see the module.
    """

    def __init__(
        self,
        base: BaseSampler,
        maps: ErrorMaps,
        *,
        epsilon: float,
        mode: Literal["direct", "loop"],
    ) -> None:
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon is {epsilon}; it must be in [0, 1]")
        self._base = base
        self._maps = maps
        self._mode = mode
        errors = np.arange(LARGEST_ERROR + 1) / LARGEST_ERROR
        self._acceptance = np.minimum(errors + epsilon, 1.0)
        self._rows: dict[tuple[str, tuple[int, ...]], _Row] = {}
        self._lock = threading.Lock()

    def draw(
        self,
        cases: Sequence[SampledCase],
        patch_size: Sequence[int],
        generator: torch.Generator,
    ) -> Draw:
        """Draw a patch.

        Args:
            cases: At least one, with different names.
            patch_size: In voxels.
            generator: The only source of randomness.
        """
        draw = self._by_loop if self._mode == "loop" else self._directly
        return draw(cases, patch_size, generator)

    def _by_loop(
        self,
        cases: Sequence[SampledCase],
        patch_size: Sequence[int],
        generator: torch.Generator,
    ) -> Draw:
        for tries in range(1, MOST_TRIES + 1):
            place = self._base.place(cases, patch_size, generator)
            error_map = self._maps.current(cases[place.case_index].name)
            chance = 1.0
            if error_map is not None:
                (error,) = error_map.read(_window_of(place.voxel)).ravel()
                chance = float(self._acceptance[error])
            # Where acceptance is certain no number is drawn, so that epsilon 1 draws
            # what the base sampler does.
            if chance >= 1 or uniform(generator) < chance or tries == MOST_TRIES:
                break
        return patch_at(cases, place, patch_size)._replace(
            error_step=None if error_map is None else error_map.step,
            acceptance=1 / tries,
        )

    def _directly(
        self,
        cases: Sequence[SampledCase],
        patch_size: Sequence[int],
        generator: torch.Generator,
    ) -> Draw:
        size = tuple(patch_size)
        rows = [self._row(case, size) for case in cases]
        totals = [row.total for row in rows]
        if not any(totals):
            draw = self._base.draw(cases, patch_size, generator)
            no_errors = rows[draw.case_index].error_map
            return draw._replace(
                error_step=None if no_errors is None else no_errors.step, acceptance=0.0
            )
        index = drawn_index(totals, generator)
        case, row = cases[index], rows[index]
        number = drawn_index(row.shares, generator)
        category, error_map = row.categories[number], row.error_map
        if error_map is None:
            # Nothing is rejected here, so the base sampler's way will do.
            voxel = self._base.voxel(case, category.voxels, generator)
        else:
            voxel = row.tables[number].voxel(
                uniform(generator),
                partial(self._weights, case, category.voxels, error_map.read),
            )
        return patch_at(cases, Place(index, category, voxel), patch_size)._replace(
            error_step=None if error_map is None else error_map.step,
            acceptance=sum(totals) / len(cases),
        )

    def _row(self, case: SampledCase, patch_size: tuple[int, ...]) -> _Row:
        """What the newest map leaves of a case; only a new map makes a new one."""
        key = case.name, patch_size
        error_map = self._maps.current(case.name)
        row = self._rows.get(key)
        if row is None or row.error_map is not error_map:
            # Others would only make the same.
            with self._lock:
                row = self._rows.get(key)
                if row is None or row.error_map is not error_map:
                    row = self._rows[key] = self._made_row(case, patch_size, error_map)
        return row

    def _made_row(
        self, case: SampledCase, patch_size: tuple[int, ...], error_map: ErrorMap | None
    ) -> _Row:
        categories = self._base.categories(case, patch_size)
        if error_map is None:
            chances = [category.chance for category in categories]
            return _Row(None, categories, chances, (), sum(chances))
        errors = _LastRead(error_map.read)
        read_once = _WithLastLabels(case)
        tables = voxel_tables(
            case.shape,
            [
                partial(self._weights, read_once, category.voxels, errors)
                for category in categories
            ],
        )
        shares = [
            category.chance * table.total / self._base.total(case, category.voxels)
            for category, table in zip(categories, tables, strict=True)
        ]
        return _Row(error_map, categories, shares, tables, sum(shares))

    def _weights(
        self, case: SampledCase, voxels: Voxels, errors: Reader, window: Window
    ) -> NDArray[np.float64]:
        """The base law's weights times the acceptance."""
        return voxels.weights(case, window) * self._acceptance[errors(window)]


class _LastRead:
    """A reader that remembers the last window, for several that look at it in turn."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._window: Sequence[slice] | None = None

    def __call__(self, window: Sequence[slice]) -> NDArray[np.uint8]:
        if window != self._window:
            self._found, self._window = self._read(window), window
        return self._found


class _WithLastLabels:
    """A case whose label map is read through `_LastRead`."""

    def __init__(self, case: SampledCase) -> None:
        self._case = case
        self._labels = _LastRead(case.read_label_map)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the case has
        return getattr(self._case, name)

    def read_label_map(self, window: Sequence[slice]) -> NDArray[np.uint8]:
        return self._labels(window)


def _window_of(voxel: tuple[int, int, int]) -> Window:
    i, j, k = (slice(index, index + 1) for index in voxel)
    return i, j, k
