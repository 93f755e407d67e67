"""Which classes a data set has, and which of them training will see.

Kamnitsas et al. 2017 (and the thesis, Table 3.4): the larger the predicted part of a
patch, the nearer the classes that a step sees come to those of the data set.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal import building
from foveal.commands.cases_of_folds import cases_of
from foveal.commands.fit import Watcher
from foveal.commands.preprocess import preprocess
from foveal.commands.preview import current_error_maps, resolved
from foveal.engine.loading import PatchSource
from foveal.plugins.registration import Plugin
from foveal.sampling.adaptive import WITHOUT_ERROR_MAPS
from foveal.sampling.randomness import generator
from foveal.store.store import StoredCase


@dataclass(frozen=True)
class ClassShare:
    """How common a class is, as fractions of all voxels whose class is known."""

    name: str
    real_fraction: float
    """Of the voxels of the cases."""

    captured_fraction: float
    """Of the voxels that carry a loss in the patches."""


@dataclass(frozen=True)
class Distribution:
    """Classes of the training cases and of the patches drawn from them."""

    num_cases: int
    num_patches: int
    patch_size: tuple[int, int, int]
    predicted_size: tuple[int, int, int]
    """Voxels in the middle of a patch that carry a loss."""

    classes: tuple[ClassShare, ...]
    """Background first."""

    def as_table(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {"format_version": 1, **asdict(self)}


def distribution(
    source: Path | str,
    *,
    plan: Path | None = None,
    options: Sequence[str] = (),
    plugins: Sequence[Path | str | Plugin] = (),
    num_patches: int = 2000,
    watcher: Watcher | None = None,
) -> Distribution:
    """Compare the classes of the training cases with those that patches capture.

    Patches are drawn as by the method's first stream, before augmentation. All training
    cases are preprocessed.

    Args:
        source: A data set, a settings file that names one, or the folder of a run.
        plan: Plan file; unset: that of the run, or the data set is planned now.
        options: ``table.name=value``, for settings and plan alike.
        plugins: Files that add losses, networks, samplers or methods; they are run.
        num_patches: Drawn.
        watcher: Told of progress.

    Raises:
        FovealError: Something the user can mend; see `foveal.errors`.
    """
    watcher = watcher or Watcher()
    parts = building.parts_with(plugins)
    settings, planned, dataset, fold = resolved(
        Path(source), plan, options, parts, watcher
    )
    cases = preprocess(
        replace(dataset, cases=cases_of(dataset, fold.train)),
        planned,
        store=settings.store,
        threads=settings.training.threads,
        on_progress=watcher.on_cases,
    )
    method = building.method(settings, planned, parts)
    # Only of outlined cases is it known which class a voxel is of.
    groups = {stream.cases: cases for stream in method.streams.values()}
    maps = WITHOUT_ERROR_MAPS
    if settings.sampling.adaptive:
        maps, words = current_error_maps(Path(source), settings, groups, watcher)
        watcher.on_stage(f"patches are {words}")
    sources = building.patch_sources(
        settings, planned, method, groups, rank=0, parts=parts, maps=maps
    )
    stream = next(iter(sources.values()))
    num_classes = planned.labels.num_classes
    real = np.sum([case.class_counts for case in cases], axis=0)
    captured = captured_counts(stream, num_patches, num_classes)
    return Distribution(
        num_cases=len(cases),
        num_patches=num_patches,
        patch_size=stream.patch_size,
        predicted_size=stream.predicted_size,
        classes=tuple(
            ClassShare(name, float(there), float(seen))
            for name, there, seen in zip(
                ("background", *planned.labels.names),
                real / real.sum(),
                captured / captured.sum(),
                strict=True,
            )
        ),
    )


def captured_counts(
    stream: PatchSource, num_patches: int, num_classes: int
) -> NDArray[np.int64]:
    """Voxels per class that carry a loss in patches of labelled cases.

    Args:
        stream: Its sampler draws; augmentation is left out.
        num_patches: Drawn; a voxel counts as often as it is drawn.
        num_classes: Including background.
    """
    draws = generator(stream.seed, 0, stream.rank, stream.name, "distribution")
    corners = defaultdict(list)
    for _ in range(num_patches):
        drawn = stream.sampler.draw(stream.cases, stream.predicted_size, draws)
        corners[drawn.case_index].append(drawn.corner)
    # Case by case, so that each is read once and no two are held.
    return sum(
        (
            _counts_in(stream.cases[index], where, stream.predicted_size, num_classes)
            for index, where in corners.items()
        ),
        start=np.zeros(num_classes, np.int64),
    )


def _counts_in(
    case: StoredCase,
    corners: Sequence[Sequence[int]],
    size: Sequence[int],
    num_classes: int,
) -> NDArray[np.int64]:
    """Voxels per class in windows of a case, without ignored ones and those beyond."""
    labels = case.read_label_map(tuple(slice(0, length) for length in case.shape))
    counts = np.zeros(256, np.int64)
    for corner in corners:
        window = tuple(
            slice(max(start, 0), start + length)
            for start, length in zip(corner, size, strict=True)
        )
        counts += np.bincount(labels[window].ravel(), minlength=256)
    return counts[:num_classes]
