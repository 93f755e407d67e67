"""Pictures of where predictions of validation cases are wrong, for a report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.case import (
    Case,
    CaseFiles,
    Dataset,
    StructureFile,
    meaning_of_values,
)
from foveal.config.plan import LabelsConfig, Plan
from foveal.errors import CaseError
from foveal.io.cases import read_case
from foveal.io.label_maps import read_reference, require_same_grid
from foveal.io.volumes import case_stem, only_volumes, read_volume
from foveal.reports import figures
from foveal.reports.page import Overlay, number
from foveal.reports.scores import CaseScores, RunScores
from foveal.reports.views import worst_view

NUM_OVERLAYS = 6
"""Cases shown as pictures."""

SOFT_TISSUE_HU = (-160.0, 240.0)
"""Window in which a CT is shown."""


def overlays_of(
    scores: RunScores, dataset: Dataset, plan: Plan, predictions: Mapping[str, Path]
) -> tuple[list[Overlay], list[str]]:
    """Pictures of the worst cases, and which could not be made and why."""
    files = {case.name: case for case in dataset.cases}
    overlays, notes = [], []
    for case in scores.cases[:NUM_OVERLAYS]:
        structure = case.worst_structure
        if structure is None:
            continue
        if case.name not in predictions or case.name not in files:
            where = "data set" if case.name in predictions else "validation folder"
            notes.append(f"No picture of {case.name}: it is not in the {where}.")
            continue
        try:
            overlays.append(
                _overlay(
                    case, structure, files[case.name], predictions[case.name], plan
                )
            )
        except CaseError as error:
            notes.append(f"No picture of {case.name}: {error}")
    return overlays, notes


def _overlay(
    scores: CaseScores, structure: str, files: CaseFiles, prediction: Path, plan: Plan
) -> Overlay:
    """Picture of the slice where a case's worst structure has most errors.

    Raises:
        CaseError: A file cannot be read, or the prediction is on another grid.
    """
    case = read_case(files, resample_channels=plan.preprocessing.resample_channels)
    structures = plan.labels.structure_values
    drawn = frozenset(structures if files.annotated is None else files.annotated)
    numbers: dict[frozenset[str], int] = {}
    expected = numbered(label_map_of(case), case.meaning(structures), drawn, numbers)
    found = numbered(*predicted(prediction, case, plan.labels), drawn, numbers)
    if plan.labels.ignore_value is not None and case.combinations is None:
        found[case.label_map == plan.labels.ignore_value] = 0
    shown = [number for names, number in numbers.items() if structure in names]
    view = worst_view(case.first_channel, expected, found, case.grid, shown)
    dice = scores.structures[structure]["dice"]
    where = (
        f": {view.plane} slice {view.axis} = {view.index}, counted from 0, where most "
        "of it is wrong"
    )
    if 1 in case.grid.shape:
        where = ""  # There is one slice.
    return Overlay(
        case=scores.name,
        caption=f"{structure} is worst here, Dice {number(dice)}{where}. "
        f"Mean Dice of the case {number(scores.mean_dice)}.",
        png=figures.overlay(view, display_range(case, plan)),
    )


def label_map_of(case: Case) -> NDArray[Any]:
    """Reference of a case.

    Raises:
        CaseError: There is none.
    """
    if case.label_map is None:
        raise CaseError("its data set has no reference for it any more")
    return case.label_map


def predicted(
    prediction: Path, case: Case, labels: LabelsConfig
) -> tuple[NDArray[Any], dict[int, frozenset[str]]]:
    """Label map of a prediction, and the structures its numbers stand for.

    Raises:
        CaseError: A file cannot be read, or lies on another grid than the case.
    """
    if prediction.is_dir():
        masks = tuple(
            StructureFile(case_stem(file), file)
            for file in only_volumes(sorted(prediction.iterdir()))
        )
        files = CaseFiles(case.name, case.name, (), structure_files=masks)
        label_map, combinations = read_reference(files, case.grid)
        return label_map, dict(enumerate(combinations or ()))
    predicted = read_volume(prediction)
    require_same_grid("image", case.grid, "prediction", predicted.grid)
    meaning = meaning_of_values(labels.structure_values)
    # Of the value of background there is nothing to say, as of 0.
    return predicted.array, meaning | {labels.background_value: frozenset()}


def numbered(
    label_map: NDArray[Any],
    meaning: Mapping[int, frozenset[str]],
    drawn: frozenset[str],
    numbers: dict[frozenset[str], int],
) -> NDArray[np.int32]:
    """Label map in which a number stands for the same structures in every label map.

    Args:
        label_map: ``(i, j, k)``.
        meaning: Structures that each of its numbers stands for.
        drawn: Structures that count; the others are background.
        numbers: Structures that lie over one another to their number, from 1; those
            that are not there yet are added.
    """
    numbered = np.zeros(label_map.shape, np.int32)
    for value, names in meaning.items():
        if names & drawn:
            number = numbers.setdefault(names & drawn, len(numbers) + 1)
            numbered[label_map == value] = number
    return numbered


def display_range(case: Case, plan: Plan) -> tuple[float, float]:
    """Intensities of the first channel that are shown black and white."""
    if plan.preprocessing.channels[0].normalisation == "ct":
        return SOFT_TISSUE_HU
    inside = case.first_channel[case.first_channel != 0]
    values: NDArray[np.float32] = inside if inside.size else case.first_channel
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)
