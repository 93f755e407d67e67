"""Show training patches before, or after, training: what they hold, where they lie."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from foveal import building
from foveal.case import CaseFiles, Dataset
from foveal.commands.beginning import require_domains, require_weight_maps
from foveal.commands.cases_of_folds import cases_of, files_of_streams
from foveal.commands.fit import Watcher
from foveal.commands.landmarks import with_landmarks_of_files
from foveal.commands.newest_error_maps import current_error_maps, with_newest_maps
from foveal.commands.preprocess import preprocess
from foveal.commands.resolving import (
    dataset_path,
    plan_of_fold,
    resolved_plan,
    resolved_settings,
    resolved_splits,
)
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.loading import PatchSource, ReadPatch
from foveal.engine.run_directory import is_run, open_run
from foveal.errors import SettingsError
from foveal.geometry import Grid
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_bytes, require_ending
from foveal.planning.splits import Fold, read_splits
from foveal.plugins.kept import require_kept
from foveal.plugins.parts import Parts
from foveal.plugins.registration import Plugin
from foveal.reports.patches import (
    DrawnCase,
    ShownPatch,
    patches_picture,
    projections,
    seen_through,
)
from foveal.reports.slices import fullest_slice, percentile_range
from foveal.reports.views import planes_of
from foveal.sampling.adaptive import WITHOUT_ERROR_MAPS
from foveal.sampling.randomness import generator
from foveal.settings_files import changed_plan, choose_settings, read_plan
from foveal.store.store import StoredCase

MOST_PATCHES = 6
"""Of a batch, on the picture."""

MOST_FURTHER_CHANNELS = 3
"""Shown in the axial plane, beside the three planes of the first channel."""

MOST_CASES = 3
"""In which is shown where patches are drawn."""

NUM_DRAWS = 500
"""Patches drawn in each of them."""


def preview(
    source: Path | str,
    output: Path | str = "preview.png",
    *,
    plan: Path | None = None,
    options: Sequence[str] = (),
    plugins: Sequence[Path | str | Plugin] = (),
    step: int = 0,
    watcher: Watcher | None = None,
) -> Path:
    """Draw the patches of one training step, and where patches of their cases lie.

    The patches are those that training with the same settings takes at that step, to
    the voxel; only the cases that they come from are preprocessed. Landmarks that the
    plan asks for are learned from all training cases. With adaptive sampling the
    patches are those of the newest error maps of a run, and of none of a data set, and
    every case is preprocessed.

    Args:
        source: A data set, a settings file that names one, or the folder of a run.
        output: PNG, replaced if there.
        plan: Plan file; unset: that of the run, or the data set is planned now.
        options: ``table.name=value``, for settings and plan alike.
        plugins: Files that add losses, networks, samplers or methods; they are run. A
            run needs those that it was begun with.
        step: Counted from 0.
        watcher: Told of progress.

    Returns:
        The picture.

    Raises:
        FovealError: Something the user can mend; see `foveal.errors`.
    """
    path = Path(output)
    require_ending(path, ".png")
    watcher = watcher or Watcher()
    parts = building.parts_with(plugins)
    settings, planned, dataset, fold = resolved(
        Path(source), plan, options, parts, watcher
    )
    method = building.method(settings, planned, parts)
    require_weight_maps(settings, cases_of(dataset, fold.train))
    require_domains(settings, cases_of(dataset, fold.train))
    cases = {
        name: CasesOnUse(files, dataset, planned, settings, watcher)
        for name, files in files_of_streams(method, dataset, fold).items()
    }
    maps = WITHOUT_ERROR_MAPS
    title = f"{dataset.name}: patches of step {step}, augmented"
    if settings.sampling.adaptive:
        maps, words = current_error_maps(Path(source), settings, cases, watcher)
        title += f"; {words}"
    sources = building.patch_sources(
        settings, planned, method, cases, rank=0, parts=parts, maps=maps
    )
    if any(predicts_less(stream) for stream in sources.values()):
        title += "; the network predicts what is framed"
    patches: list[ShownPatch] = []
    drawn: dict[str, DrawnCase] = {}
    for stream in sources.values():
        read = with_newest_maps(partial(stream.read, step), maps, watcher)
        watcher.on_stage(f"drawing the patches of step {step}")
        patches += _shown_patches(stream, read, step)
        for case in {patch.case.name: patch.case for patch in read}.values():
            if len(drawn) < MOST_CASES and case.class_counts and case.name not in drawn:
                drawn[case.name] = with_newest_maps(
                    partial(_drawn_case, stream, case, planned.labels.structures, step),
                    maps,
                    watcher,
                )
    picture = patches_picture(
        title,
        patches,
        list(drawn.values()),
        dict(enumerate(planned.labels.names, start=1)),
        planned.labels.structures,
    )
    atomic_write_bytes(path, picture)
    return path


class CasesOnUse(Sequence[StoredCase]):
    """The cases of a fold, each preprocessed when it is first asked for."""

    def __init__(
        self,
        files: Sequence[CaseFiles],
        dataset: Dataset,
        plan: Plan,
        settings: Settings,
        watcher: Watcher,
    ) -> None:
        """Take the cases to train on, in the order in which training has them."""
        self._files = files
        self._dataset = dataset
        self._plan = plan
        self._settings = settings
        self._watcher = watcher
        self._stored: dict[int, StoredCase] = {}

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> StoredCase: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[StoredCase]: ...

    def __getitem__(self, index: int | slice) -> StoredCase | Sequence[StoredCase]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if index not in self._stored:
            (self._stored[index],) = preprocess(
                replace(self._dataset, cases=(self._files[index],)),
                self._plan,
                store=self._settings.store,
                threads=1,
                on_progress=self._watcher.on_cases,
            )
        return self._stored[index]


def resolved(
    source: Path,
    plan: Path | None,
    options: Sequence[str],
    parts: Parts,
    watcher: Watcher,
) -> tuple[Settings, Plan, Dataset, Fold]:
    """Settings, plan and patients, as training has them."""
    if not is_run(source):
        settings, entries = resolved_settings(
            source, None, None, None, options, plan, parts
        )
        dataset = _dataset(settings, watcher)
        splits = resolved_splits(dataset, settings)
        planned = resolved_plan(dataset, settings, plan, entries, parts, watcher)
        division = splits.folds[settings.splits.fold]
        planned = plan_of_fold(planned, settings, dataset, division, parts, watcher)
        return settings, planned, dataset, division
    if plan is not None:
        raise SettingsError(
            f"{source} is a run, which has a plan of its own; leave out --plan, or "
            "give the data set in place of the run"
        )
    run = open_run(source)
    require_kept(run, parts.plugins)
    settings, entries = choose_settings(
        run.settings, options, {}, sections=parts.sections, plan=run.plan
    )
    planned = changed_plan(
        read_plan(run.plan, parts.plan_model), entries, parts.plan_model
    )
    dataset = _dataset(settings, watcher)
    folds = read_splits(run.splits).folds
    if settings.splits.fold >= len(folds):
        raise SettingsError(
            f"splits.fold {settings.splits.fold}: the run has {len(folds)} folds, "
            "counted from 0"
        )
    division = folds[settings.splits.fold]
    planned = with_landmarks_of_files(planned)
    planned = plan_of_fold(planned, settings, dataset, division, parts, watcher)
    return settings, planned, dataset, division


def _dataset(settings: Settings, watcher: Watcher) -> Dataset:
    dataset = read_dataset(dataset_path(settings))
    if dataset.left_out:
        watcher.on_stage(dataset.left_out)
    return dataset


# ------------------------------------------------------------------------- the patches


def _shown_patches(
    stream: PatchSource, read: Sequence[ReadPatch], step: int
) -> list[ShownPatch]:
    batch = stream.batch(step, list(read), torch.device("cpu"))
    shown = []
    for number, patch in enumerate(read[:MOST_PATCHES]):
        # Mirrored and deformed patches keep the directions of their case.
        grid = Grid(stream.patch_size, patch.case.grid.affine)
        labels = None
        if batch.label_map is not None:
            # Other labels carry no loss.
            labels = np.zeros(stream.patch_size, np.uint8)
            window = stream.predicted_window
            labels[window] = batch.label_map[number].numpy()[window]
        channels = batch.image[number].float().numpy()
        slices = [
            fullest_slice(channels[0], labels, grid, plane=plane)
            for plane in planes_of(grid)
        ]
        ranges = [percentile_range(channels[0])] * len(slices)
        for channel in channels[1 : 1 + MOST_FURTHER_CHANNELS]:
            slices.append(
                fullest_slice(channel, labels, grid, plane=planes_of(grid)[-1])
            )
            ranges.append(percentile_range(channel))
        shown.append(
            ShownPatch(
                f"{patch.case.name}, corner {_numbers(patch.corner)}; "
                + _changes(patch),
                list(zip(slices, ranges, strict=True)),
                {
                    plane: seen_through(stream.predicted_window, grid, plane)
                    for plane in planes_of(grid)
                }
                if predicts_less(stream)
                else {},
            )
        )
    return shown


def predicts_less(stream: PatchSource) -> bool:
    """Whether the network puts out fewer voxels than a patch has."""
    return stream.predicted_size != stream.patch_size


def _changes(patch: ReadPatch) -> str:
    """What was done to the geometry of a patch."""
    words = []
    if patch.transform.deformation is not None:
        words.append("turned, scaled or bent")
    if patch.transform.mirrored_axes:
        words.append(f"mirrored along axis {_numbers(patch.transform.mirrored_axes)}")
    return ", ".join(words) or "in place"


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


# -------------------------------------------------------------- where they are drawn


def _drawn_case(
    stream: PatchSource,
    case: StoredCase,
    structures: Mapping[str, Sequence[int]],
    step: int,
) -> DrawnCase:
    """Draw many patches of one case, before augmentation: what is predicted of them."""
    size = stream.predicted_size
    draws = generator(stream.seed, step, stream.rank, stream.name, "preview")
    corners = [
        stream.sampler.draw([case], size, draws).corner for _ in range(NUM_DRAWS)
    ]
    centres = np.add(corners, np.array(size) // 2).tolist()
    whole = tuple(slice(0, length) for length in case.shape)
    channel, labels = case.read_image(whole)[0], case.read_label_map(whole)
    seen = projections(channel, labels, centres, case.grid)
    display_range = percentile_range(channel)
    return DrawnCase(
        case=case.name,
        num_draws=NUM_DRAWS,
        projections=[(one, display_range) for one in seen],
        shares={
            name: _share_with(np.isin(labels, classes), corners, size)
            for name, classes in structures.items()
            if any(case.class_counts[number] > 0 for number in classes)
        },
    )


def _share_with(
    is_there: NDArray[np.bool_],
    corners: Sequence[Sequence[int]],
    patch_size: Sequence[int],
) -> float:
    """Share of the patches that hold a voxel of a structure."""
    return sum(
        bool(
            is_there[
                tuple(
                    slice(max(start, 0), start + size)
                    for start, size in zip(corner, patch_size, strict=True)
                )
            ].any()
        )
        for corner in corners
    ) / len(corners)
