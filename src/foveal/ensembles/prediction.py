"""From the probabilities of all passes to one label map, and how sure it is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from numpy.typing import NDArray
from torch import Tensor

from foveal.case import Case
from foveal.crf.mean_field import DenseCrf, refined_probabilities
from foveal.ensembles.fused import Fused, FusedRows
from foveal.errors import CaseError
from foveal.geometry import Grid, reorientation
from foveal.inference.model import Task
from foveal.inference.predict import rows_at_once
from foveal.inference.restore import (
    decided_classes,
    label_map_of,
    structure_probabilities,
)
from foveal.postprocessing.components import with_component_rules
from foveal.postprocessing.steps import NO_STEPS, Steps
from foveal.uncertainty.expected_dice import ExpectedDice
from foveal.uncertainty.maps import mutual_information
from foveal.uncertainty.volumes import volume_of_draws

TakeRows = Callable[[FusedRows], None]
"""Receives blocks of rows, first to last."""


@dataclass(frozen=True)
class StructureFacts:
    """What is known of a predicted structure without a reference."""

    volume_ml: float
    """Of the label map."""

    volume_interval_ml: tuple[float, float] | None
    """Where the volume of one more model, or pass of the only model, would lie, see
    `volume_of_draws`; it holds ``volume_ml``. ``None``: one pass, or passes that do not
    end in label maps of their own, as a CRF or STAPLE looks at all together."""

    expected_dice: float | None
    """Dice of the label map to be expected by the networks' own probabilities, at their
    temperature and before a CRF, see `ExpectedDice`; ``None``: none of it is in the
    label map."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a case is predicted to hold."""

    label_map: NDArray[np.integer]
    """``(i, j, k)`` in stored order, with the user's label values."""

    grid: Grid
    """Of the case as stored."""

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


def predicted(
    fused: Fused,
    case: Case,
    task: Task,
    steps: Steps = NO_STEPS,
    take_rows: TakeRows | None = None,
) -> Prediction:
    """Decide what a case holds.

    Args:
        fused: All passes over the case, at the temperature of ``steps``.
        case: As `foveal.read_case` gives it.
        task: What the passes predict.
        steps: What follows the network.
        take_rows: Also gets the probabilities that are decided on, after the CRF, and
            how passes differ, which is of the networks' own probabilities.
    """
    rows = fused.rows()
    members = tuple(task.structures.values())
    turn = reorientation(case.grid, task.orientation)
    spacing_mm = turn.apply_to_grid(case.grid).spacing_mm
    expected = ExpectedDice(len(members), spacing_mm)
    # Rules look at whole structures, so that what is in them is known at the end only.
    kept = fused.kept_rows(len(members)) if steps.components else None
    if steps.crf is not None:
        _require_mask_as_chosen(case, steps)
        decided_on = _refined(rows, case, task, steps.crf)
    else:
        decided_on = ((block.probabilities, block) for block in rows)
    classes = np.empty(fused.shape, np.uint8)
    for own, block in decided_on:
        decided = decided_classes(block.probabilities, members)
        classes[block.first : block.first + decided.shape[0]] = decided
        believed = structure_probabilities(own, members)
        if kept is None:
            expected.add(believed, _masks(decided, members))
        else:
            kept.add(block.first, believed)
        if take_rows is not None:
            take_rows(block)
    ruled = with_component_rules(classes, steps.components, task.structures, spacing_mm)
    if kept is not None:
        first = 0
        for believed in kept.rows(rows_at_once(len(members), fused.shape[1:])):
            in_rows = torch.from_numpy(ruled[first : first + believed.shape[1]])
            expected.add(believed, _masks(in_rows, members))
            first += believed.shape[1]
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    shares, voxels = fused.volumes()
    counts = np.bincount(ruled.ravel(), minlength=task.num_classes)
    facts = {}
    for number, (name, own_classes) in enumerate(task.structures.items()):
        volume_ml = float(counts[list(own_classes)].sum()) * voxel_ml
        interval = None
        if len(shares) > 1 and steps.crf is None:
            draws = (voxels[:, number] * voxel_ml).tolist()
            low, high = volume_of_draws(draws, shares).interval_ml
            # Where passes disagree, their mean may outline less than each of them.
            interval = min(low, volume_ml), max(high, volume_ml)
        facts[name] = StructureFacts(volume_ml, interval, expected.values()[number])
    label_map = label_map_of(
        ruled,
        case.grid,
        task.orientation,
        task.label_values,
        background_value=task.background_value,
    )
    return Prediction(label_map, case.grid, facts)


def _require_mask_as_chosen(case: Case, steps: Steps) -> None:
    """Refuse to standardise channels over other voxels than the CRF was chosen for."""
    within_mask = steps.crf_within_mask
    if within_mask is None or within_mask == (case.mask is not None):
        return
    chosen, has = ("with", "none") if within_mask else ("without", "one")
    raise CaseError(
        f"case {case.name}: the CRF was chosen on cases {chosen} masks, and this case "
        f"has {has}, so that its intensities would be measured otherwise; predict "
        "cases like those it was chosen on, leave out --crf, or remove "
        "crf.within_mask from postprocessing.toml to try it nevertheless"
    )


def _refined(
    rows: Iterator[FusedRows],
    case: Case,
    task: Task,
    crf: DenseCrf,
) -> Iterator[tuple[Float[Tensor, "class rows j k"], FusedRows]]:
    """The network's own probabilities, and rows with those that the CRF makes of them.

    A CRF looks at the whole case, so all probabilities are held at once.
    """
    blocks = list(rows)
    own = torch.cat([block.probabilities for block in blocks], dim=1)
    turn = reorientation(case.grid, task.orientation)
    mask = None if case.mask is None else _tensor(turn.apply(case.mask))
    try:
        refined = refined_probabilities(
            own,
            _tensor(turn.apply(case.image)),
            turn.apply_to_grid(case.grid).spacing_mm,
            crf,
            mask=mask,
        )
    except ValueError as error:
        raise CaseError(f"case {case.name}: {error}") from error
    for block in blocks:
        window = slice(block.first, block.first + block.probabilities.shape[1])
        yield own[:, window], block._replace(probabilities=refined[:, window])


def _masks(
    classes: Integer[Tensor, "rows j k"], structures: Sequence[Sequence[int]]
) -> Bool[Tensor, "structure rows j k"]:
    return torch.stack([torch.isin(classes, torch.tensor(one)) for one in structures])


def _tensor(view: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(view))
