"""From the probabilities of all passes to one label map, and how sure it is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foveal.case import Case
from foveal.crf.mean_field import DenseCrf, refined_probabilities
from foveal.ensembles.members import Ensemble, Fused, FusedRows
from foveal.geometry import reorientation
from foveal.inference.restore import (
    decided_classes,
    label_map_of,
    structure_probabilities,
)
from foveal.postprocessing.components import with_rules
from foveal.uncertainty.expected_dice import ExpectedDice
from foveal.uncertainty.maps import mutual_information
from foveal.uncertainty.volumes import volume_of_passes

TakeRows = Callable[[FusedRows], None]
"""Receives blocks of rows, first to last."""


@dataclass(frozen=True)
class StructureFacts:
    """What is known of a predicted structure without a reference."""

    volume_ml: float
    """Of the label map."""

    volume_interval_ml: tuple[float, float] | None
    """Where the passes put the volume, see `volume_of_passes`; ``None``: one pass."""

    expected_dice: float | None
    """Dice to be expected by the network's own probabilities, before a CRF and before
    component rules; ``None``: none of it was decided on."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a case is predicted to hold."""

    label_map: NDArray[np.integer]
    """``(i, j, k)`` in stored order, with the user's label values."""

    structures: dict[str, StructureFacts]


def maps_of(
    rows: FusedRows, structures: Sequence[Sequence[int]]
) -> dict[str, Float[Tensor, "_ rows j k"]]:
    """What can be drawn of the voxels of some rows, by name.

    Args:
        rows: With a spread, or the uncertainties are left out.
        structures: Inside classes that each includes.

    Returns:
        One map per structure of ``probabilities`` and ``variance``; one of the others,
        in nats.
    """
    maps = {"probabilities": structure_probabilities(rows.probabilities, structures)}
    if rows.spread is not None:
        variance, predictive, expected = rows.spread
        maps["variance"] = variance
        maps["predictive_entropy"] = predictive[None]
        maps["expected_entropy"] = expected[None]
        maps["mutual_information"] = mutual_information(predictive, expected)[None]
    return maps


def predict_case(
    ensemble: Ensemble,
    case: Case,
    *,
    take_rows: TakeRows | None = None,
    wants_spread: bool = False,
    folder: Path | None = None,
) -> Prediction:
    """Predict a case with all passes of an ensemble.

    Args:
        ensemble: Or a single model.
        case: As `foveal.read_case` gives it.
        take_rows: Also gets the probabilities that are decided on, and how passes
            differ. These are after the temperature and the CRF; the spread is of the
            networks' own probabilities.
        wants_spread: Whether ``take_rows`` wants to know how passes differ.
        folder: For temporary files.

    Raises:
        CaseError: A model cannot take the case.
        RunError: Dropout is asked for, and a network has none.
    """
    steps = ensemble.steps
    fused = ensemble.fused(case, wants_spread=wants_spread, folder=folder)
    rows = fused.rows()
    members = tuple(ensemble.structures.values())
    expected = ExpectedDice(len(members))
    if steps.crf is not None:
        decided_on = _refined(rows, fused, case, ensemble, steps.crf)
    else:
        decided_on = ((block.probabilities, block) for block in rows)
    classes = np.empty(fused.shape, np.uint8)
    for own, block in decided_on:
        decided = decided_classes(block.probabilities, members)
        classes[block.first : block.first + decided.shape[0]] = decided
        expected.add(
            structure_probabilities(own, members),
            torch.stack([torch.isin(decided, torch.tensor(one)) for one in members]),
        )
        if take_rows is not None:
            take_rows(block)
    turn = reorientation(case.grid, ensemble.task.orientation)
    grid = turn.apply_to_grid(case.grid)
    classes = with_rules(
        classes, steps.components, ensemble.structures, grid.spacing_mm
    )
    voxel_ml = float(np.prod(grid.spacing_mm)) / 1000
    volumes = torch.stack(fused.soft_volumes) * voxel_ml
    facts = {}
    for number, (name, own_classes) in enumerate(ensemble.structures.items()):
        facts[name] = StructureFacts(
            float(np.isin(classes, own_classes).sum()) * voxel_ml,
            volume_of_passes(volumes[:, number].tolist()).interval_ml,
            expected.values()[number],
        )
    label_map = label_map_of(
        classes,
        case.grid,
        ensemble.task.orientation,
        ensemble.task.label_values,
        background_value=ensemble.task.background_value,
    )
    return Prediction(label_map, facts)


def _refined(
    rows: Iterator[FusedRows],
    fused: Fused,
    case: Case,
    ensemble: Ensemble,
    crf: DenseCrf,
) -> Iterator[tuple[Float[Tensor, "class rows j k"], FusedRows]]:
    """The network's own probabilities, and rows with those that the CRF makes of them.

    A CRF looks at the whole case, so all probabilities are held at once.
    """
    blocks = list(rows)
    own = torch.cat([block.probabilities for block in blocks], dim=1)
    turn = reorientation(case.grid, ensemble.task.orientation)
    refined = refined_probabilities(
        own,
        torch.from_numpy(np.ascontiguousarray(turn.apply(case.image))),
        turn.apply_to_grid(case.grid).spacing_mm,
        crf,
        None
        if case.mask is None
        else torch.from_numpy(np.ascontiguousarray(turn.apply(case.mask))),
    )
    for block in blocks:
        window = slice(block.first, block.first + block.probabilities.shape[1])
        yield own[:, window], block._replace(probabilities=refined[:, window])
