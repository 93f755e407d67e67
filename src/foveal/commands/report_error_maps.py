"""Slices of the error maps that a run kept, beside the image, for its report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveal.errors import CaseError, FovealError
from foveal.geometry import Grid
from foveal.io.volumes import read_volume
from foveal.reports.sampling_figures import CaseThroughTraining, ErrorSlice
from foveal.reports.slices import Slice, percentile_range, slab_slice
from foveal.store.store import StoredCase

MOST_VERSIONS = 4
"""Of a case's error maps, spread over the training."""


@dataclass(frozen=True, eq=False)
class KeptSlice:
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


def kept_slices(folder: Path) -> tuple[dict[str, list[KeptSlice]], list[str]]:
    """Case to some slices of its error maps, earliest first; and what is damaged."""
    found: dict[str, list[KeptSlice]] = {}
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


def _read_slice(path: Path) -> tuple[str, KeptSlice]:
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
    kept = KeptSlice(record["step"], axis, index, record["content"], grid, errors)
    return record["case"], kept


def errors_through_training(
    slices: Mapping[str, Sequence[KeptSlice]],
    stored: Mapping[str, StoredCase | None],
) -> tuple[list[CaseThroughTraining], list[str]]:
    """The slices of every case as they are drawn, and what is shown without its image.

    Args:
        slices: Case to at least one slice; all lie where the first does.
        stored: Case to its preprocessed copy; without one there is no image.
    """
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


def _image_of(kept: KeptSlice, case: StoredCase | None) -> tuple[Slice | None, str]:
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
