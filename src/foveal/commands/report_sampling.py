"""Where the patches of a run came from, for its report: error maps, places, numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveal.case import CaseFiles, Dataset
from foveal.commands.preprocess import stored_copy
from foveal.commands.report_curves import Series
from foveal.commands.reported_run import LogRow, ReportedRun
from foveal.commands.run_words import Facts, duration
from foveal.config.plan import Plan
from foveal.config.sampling import ErrorMapsConfig
from foveal.errors import CaseError, FovealError
from foveal.geometry import Grid
from foveal.io.volumes import read_volume
from foveal.reports import figures
from foveal.reports.page import Curve, Picture, Sampling
from foveal.reports.patches import projections
from foveal.reports.sampling_figures import (
    CaseThroughTraining,
    DrawnPart,
    DrawnThroughTraining,
    ErrorSlice,
    drawn_places_picture,
    error_maps_picture,
)
from foveal.reports.slices import Slice, percentile_range, slab_slice
from foveal.store.store import Store, StoredCase, default_store_root

MOST_VERSIONS = 4
"""Of a case's error maps, spread over the training."""

MOST_CASES = 2
"""In which is shown where patches were drawn."""

HARDEST_CASES = 3
"""That are named."""

Centres = dict[str, list[tuple[int, tuple[int, int, int]]]]
"""Case to the steps and voxels of the patches drawn from it."""


def sampling_of(
    runs: Sequence[ReportedRun], dataset: Dataset | None, plan: Plan
) -> list[tuple[str, Sampling]]:
    """What each run wrote down of its patches, under the run's name.

    Nothing is preprocessed for it: what the store does not hold is not shown.

    Args:
        runs: Those that wrote nothing down, as before there was such a log, are left
            out.
        dataset: ``None``: it is not there any more.
        plan: Of the runs.
    """
    files = {case.name: case for case in dataset.cases} if dataset else {}
    found = [(run.name, _sampling(run, files, plan)) for run in runs]
    return [(name, sampling) for name, sampling in found if sampling is not None]


def sampling_facts(run: ReportedRun) -> Facts:
    """How adaptive sampling went, in words; empty for a run without it."""
    if not run.settings.sampling.adaptive:
        return []
    chosen = run.settings.error_maps or ErrorMapsConfig()
    law = (
        "Patches came from where the network erred: one is accepted with probability "
        f"min(1, E + {chosen.epsilon:g}), where E is 1 - p(true class) of the voxel it "
        "lies around."
    )
    words = [law]
    refreshes = run.rows("refresh")
    if refreshes:
        cases = sum(len(row.get("cases", {})) for row in refreshes)
        seconds = sum(row.get("seconds", 0.0) for row in refreshes)
        words.append(
            f"{len(refreshes):,} refreshes made {cases:,} error maps in "
            f"{duration(seconds)}."
        )
    else:
        words.append("No error map was made yet.")
    words += _acceptance_words(run.rows("step"))
    difficulty = latest_difficulty(refreshes)
    if difficulty:
        hardest = sorted(difficulty, key=lambda name: (-difficulty[name], name))
        words.append(
            "Mean error in the structures by the latest maps: "
            f"{np.mean(list(difficulty.values())):.2f} over {len(difficulty)} cases; "
            "highest in "
            + ", ".join(
                f"{name} ({difficulty[name]:.2f})" for name in hardest[:HARDEST_CASES]
            )
            + "."
        )
    return [("Adaptive sampling", " ".join(words))]


def _acceptance_words(rows: Sequence[LogRow]) -> list[str]:
    words = []
    rates = [row["acceptance"] for row in rows if "acceptance" in row]
    if rates:
        tenth = max(len(rates) // 10, 1)
        words.append(
            f"Of the base sampler's draws {np.mean(rates[:tenth]):.0%} were accepted "
            f"in the first tenth of the steps and {np.mean(rates[-tenth:]):.0%} in the "
            "last."
        )
    ages = [row["map_age_steps"] for row in rows if "map_age_steps" in row]
    if ages:
        words.append(
            f"The maps in use were {np.mean(ages):.0f} steps old on average, "
            f"{max(ages):.0f} at most."
        )
    return words


def latest_difficulty(refreshes: Sequence[LogRow]) -> dict[str, float]:
    """Case to the mean error in its structures when it was last predicted."""
    latest = {}
    for row in refreshes:
        for name, told in row.get("cases", {}).items():
            latest[name] = float(told["difficulty"])
    return latest


def _sampling(
    run: ReportedRun, files: Mapping[str, CaseFiles], plan: Plan
) -> Sampling | None:
    slices, notes = _kept_slices(run.directory.error_maps)
    centres = drawn_centres(run.rows("step"))
    parts = thirds(run.steps_done)
    drawn = sorted(centres, key=lambda name: _unfit(name, centres, parts, slices))
    drawn = drawn[:MOST_CASES]
    curves = _curves(run)
    if not (slices or notes or drawn or curves):
        return None
    stored: dict[str, StoredCase | None] = {}
    for name in (*slices, *drawn):
        if name in slices:
            stored[name] = _stored_content(run, name, slices[name][0].content)
        elif name in files:
            stored[name] = stored_copy(files[name], plan, store=run.settings.store)
    labels = dict(enumerate(plan.labels.names, start=1))
    pictures = []
    if slices:
        shown, more_notes = _errors_through_training(slices, stored)
        notes += more_notes
        pictures.append(
            Picture(
                "Error maps through training",
                "One slice of training cases: where the network was wrong after so "
                "many steps. White: wrong, the true class had probability 0; black: "
                "right. Before its first map a case counts as wrong everywhere.",
                error_maps_picture(shown, labels),
            )
        )
    seen, more_notes = _drawn_through_training(drawn, centres, parts, stored)
    notes += more_notes
    if seen:
        pictures.append(
            Picture(
                "Where patches were drawn",
                "Voxels that patches of a case were drawn around, early and late, "
                "seen through the whole case: the brighter, the more. The outlines are "
                "those of the structures before and behind the slice.",
                drawn_places_picture(seen, labels),
            )
        )
    return Sampling(pictures, curves, notes)


def _stored_content(run: ReportedRun, name: str, content: str) -> StoredCase | None:
    """The preprocessed case that an error map is of; ``None``: it is gone."""
    try:
        store = Store(run.settings.store or default_store_root())
        return store.open(content, name=name, patient=name)
    except CaseError:
        return None


# ------------------------------------------------------------------------- error maps


@dataclass(frozen=True, eq=False)
class _KeptSlice:
    """One `.png` of an error map and what its `.json` says."""

    step: int
    axis: int
    index: int
    content: str
    """What the store calls the case's preprocessed content."""

    grid: Grid
    """Of the whole volume."""

    errors: Slice
    """In [0, 1]."""


def _kept_slices(folder: Path) -> tuple[dict[str, list[_KeptSlice]], list[str]]:
    """Case to some slices of its error maps, earliest first; and what is damaged."""
    found: dict[str, list[_KeptSlice]] = {}
    notes = []
    paths_of_cases = [sorted(case.glob("step_*.png")) for case in _folders(folder)]
    for paths in paths_of_cases:
        for path in spread(paths, MOST_VERSIONS):
            try:
                name, kept = _read_slice(path)
            except (OSError, ValueError, KeyError, TypeError, FovealError):
                notes.append(
                    f"Not shown: {path.parent.name}/{path.name} or the .json beside "
                    "it is damaged or missing."
                )
            else:
                found.setdefault(name, []).append(kept)
    return found, notes


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir())


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of them: the first, the last and some evenly between."""
    places = np.linspace(0, len(paths) - 1, min(most, len(paths)))
    return [paths[place] for place in np.rint(places).astype(int).tolist()]


def _read_slice(path: Path) -> tuple[str, _KeptSlice]:
    """Name of a case, and a slice of its errors.

    Raises:
        OSError: Or ValueError, KeyError, TypeError, FovealError: a file is damaged.
    """
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    axis, index = int(record["slice"]["axis"]), int(record["slice"]["index"])
    if axis not in (0, 1, 2):
        raise ValueError(f"{path} was cut across axis {axis}")
    i, j, k = (int(length) for length in record["shape"])
    affine = np.array(record["slice"]["affine"], np.float64).reshape(4, 4)
    grid = Grid((i, j, k), affine)
    # The file holds the other two axes, in their order.
    pixels = read_volume(path).array[..., 0]
    expected = tuple(np.delete(grid.shape, axis).tolist())
    if pixels.dtype != np.uint8 or pixels.shape != expected:
        raise ValueError(f"{path} is not a slice of errors")
    slab = np.expand_dims(pixels, axis).astype(np.float32) / np.float32(255)
    errors = slab_slice(slab, None, grid, axis)
    kept = _KeptSlice(record["step"], axis, index, record["content"], grid, errors)
    return record["case"], kept


def _errors_through_training(
    slices: Mapping[str, Sequence[_KeptSlice]],
    stored: Mapping[str, StoredCase | None],
) -> tuple[list[CaseThroughTraining], list[str]]:
    shown, notes = [], []
    for name, kept in slices.items():
        image, problem = _image_of(kept[0], stored.get(name))
        if image is None:
            notes.append(f"The error maps of {name} are shown alone: {problem}")
        shown.append(
            CaseThroughTraining(
                case=name,
                shown=image,
                display_range=(0, 1)
                if image is None
                else percentile_range(image.image),
                errors=[ErrorSlice(one.step, one.errors.image) for one in kept],
                pixel_mm=kept[0].errors.pixel_mm,
            )
        )
    return shown, notes


def _image_of(kept: _KeptSlice, case: StoredCase | None) -> tuple[Slice | None, str]:
    """The slice of image and reference, or why there is none."""
    if case is None or case.shape != kept.grid.shape:
        return None, "the store has no preprocessed copy of the case any more."
    window = [slice(0, length) for length in case.shape]
    window[kept.axis] = slice(kept.index, kept.index + 1)
    try:
        image, labels = case.read_image(window)[0], case.read_label_map(window)
    except CaseError as error:
        return None, str(error)
    return slab_slice(image, labels, kept.grid, kept.axis), ""


# ---------------------------------------------------------------- where they were drawn


def drawn_centres(rows: Sequence[LogRow]) -> Centres:
    """Where the patches of each case lay, by the rows of the steps.

    Args:
        rows: Those without ``patches`` tell nothing.
    """
    centres: Centres = {}
    for row in rows:
        for drawn in row.get("patches", {}).values():
            for case, i, j, k in drawn:
                centres.setdefault(case, []).append((row["step"], (i, j, k)))
    return centres


def thirds(steps: int) -> list[range]:
    """The first and the last third of the steps; all of them if there are few."""
    third = steps // 3
    return [range(third), range(steps - third, steps)] if third else [range(steps)]


def _unfit(
    name: str,
    centres: Centres,
    parts: Sequence[range],
    slices: Mapping[str, object],
) -> tuple[bool, int, str]:
    """Sorts cases: those whose errors are shown, then those drawn in all parts."""
    missing = sum(not _within(centres[name], part) for part in parts)
    return name not in slices, missing, name


def _within(
    centres: Sequence[tuple[int, tuple[int, int, int]]], steps: range
) -> list[tuple[int, int, int]]:
    return [voxel for step, voxel in centres if step in steps]


def _drawn_through_training(
    names: Sequence[str],
    centres: Centres,
    parts: Sequence[range],
    stored: Mapping[str, StoredCase | None],
) -> tuple[list[DrawnThroughTraining], list[str]]:
    seen, notes = [], []
    for name in names:
        case = stored.get(name)
        if case is None:
            notes.append(
                f"Where the patches of {name} lay is not shown: the store has no "
                "preprocessed copy of the case any more."
            )
            continue
        whole = [slice(0, length) for length in case.shape]
        try:
            channel = case.read_image(whole)[0]
            labels = _labels_of(case, whole)
        except CaseError as error:
            notes.append(f"Where the patches of {name} lay is not shown: {error}")
            continue
        drawn_parts = []
        for steps in parts:
            voxels = _within(centres[name], steps)
            drawn_parts.append(
                DrawnPart(
                    f"steps {steps.start:,} to {steps.stop - 1:,}",
                    len(voxels),
                    projections(channel, labels, voxels, case.grid),
                )
            )
        seen.append(DrawnThroughTraining(name, percentile_range(channel), drawn_parts))
    return seen, notes


def _labels_of(case: StoredCase, whole: Sequence[slice]) -> NDArray[np.uint8]:
    """Inside labels; an unlabelled case has no outlines."""
    if case.label_map is None:
        return np.zeros(case.shape, np.uint8)
    return case.read_label_map(whole)


# ----------------------------------------------------------------------------- curves


def _curves(run: ReportedRun) -> list[Curve]:
    """Acceptance, age of the maps and errors, as far as logged."""
    steps, refreshes = run.rows("step"), run.rows("refresh")
    refreshes = [row for row in refreshes if row.get("cases")]
    curves = []
    acceptance = _series(steps, "acceptance")
    if acceptance[0]:
        svg = figures.plain_curves({"": acceptance}, "accepted share", 1)
        caption = "Of the base sampler's draws; 1 while there are no error maps."
        curves.append(Curve("Acceptance", caption, svg))
    ages = _series(steps, "map_age_steps")
    if ages[0]:
        svg = figures.plain_curves({"": ages}, "age in steps", None)
        caption = "Of the error maps that patches were drawn by."
        curves.append(Curve("Age of the error maps", caption, svg))
    if refreshes:
        curves.append(
            Curve(
                "Errors of training cases",
                "Mean of the cases of each refresh, 1 - p(true class).",
                figures.plain_curves(error_series(refreshes), "mean error", None),
            )
        )
    return curves


def _series(rows: Sequence[LogRow], key: str) -> Series:
    known = [row for row in rows if key in row]
    return [row["step"] for row in known], [row[key] for row in known]


def error_series(refreshes: Sequence[LogRow]) -> dict[str, Series]:
    """Mean errors of the cases of every refresh, in their structures and anywhere.

    Args:
        refreshes: Rows that tell of at least one case.
    """
    steps = [row["step"] for row in refreshes]

    def means(key: str) -> list[float | None]:
        return [
            float(np.mean([told[key] for told in row["cases"].values()]))
            for row in refreshes
        ]

    return {
        "in the structures": (steps, means("difficulty")),
        "in all voxels": (steps, means("mean_error")),
    }
