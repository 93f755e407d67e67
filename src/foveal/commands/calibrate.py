"""Find the temperature that makes a run's probabilities mean what they say.

Chosen on validation cases, and shown on cases that it was not chosen on.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from foveal.case import IGNORED
from foveal.commands.calibration_record import (
    CalibrationRecord,
    CaseFit,
    DicePair,
    Measured,
    curve,
    reliability,
    write_calibration,
)
from foveal.commands.choosing import LARGEST_P, Structures
from foveal.commands.plan import usable_threads
from foveal.commands.validation_probabilities import ValidationCase, ValidationCases
from foveal.config.postprocessing import (
    EvidenceConfig,
    PostprocessingConfig,
    TemperatureConfig,
)
from foveal.engine.run_directory import RunDirectory
from foveal.errors import EvaluationError
from foveal.inference.errors import case_dice
from foveal.inference.restore import (
    decided_classes,
    structure_probabilities,
)
from foveal.metrics.calibration import (
    ALL_CLASSES,
    Calibration,
    case_calibration,
    near_foreground,
    shown_classes,
    summed,
)
from foveal.metrics.comparison import FEWEST_CASES, wilcoxon_p
from foveal.plugins.registration import Plugin
from foveal.settings_files import write_postprocessing
from foveal.uncertainty.expected_dice import BAND_MM, ExpectedDice
from foveal.uncertainty.maps import entropy
from foveal.uncertainty.sparsification import sparsification
from foveal.uncertainty.temperature import (
    SMALLEST,
    DrawnVoxels,
    draw_voxels,
    fitted_temperature,
    tempered,
    voxels_per_case,
)

MOST_FOLDS = 5
"""Parts of the patients; a temperature is shown on each as the others chose it."""


def calibrate(
    path: Path | str,
    *,
    device: str = "auto",
    threads: int | None = None,
    plugins: Sequence[Path | str | Plugin] = (),
    on_progress: Callable[[int, int, str], None] | None = None,
) -> CalibrationRecord:
    """Choose a temperature on validation cases, and keep it if it helps.

    ``validation/calibration.json`` in the folder says how far the probabilities can be
    trusted without and with it. ``[temperature]`` in its ``postprocessing.toml``, which
    ``foveal predict`` follows, is replaced, or removed if a temperature does not help.

    Args:
        path: A run, a cross-validation or an ensemble.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        threads: CPU threads; unset: all.
        plugins: Files of the runs' networks, if plugins added them; they are run.
        on_progress: Told cases done, cases in all and the name of the last.

    Raises:
        RunError: The path is none of these, or cannot predict.
        EvaluationError: The validation cases are of a single patient, or none of their
            voxels is near foreground.
        CaseError: A case cannot be read.
    """
    torch.set_num_threads(threads or usable_threads())
    folder = Path(path)
    cases = ValidationCases(
        folder, device=device, plugins=plugins, on_progress=on_progress
    )
    record = calibrated(cases, cases.structures)
    write_calibration(folder / "validation" / "calibration.json", record)
    chosen = None
    if record.is_used:
        evidence = EvidenceConfig(
            cases=tuple(one.case for one in record.cases),
            score="nll",
            score_before=round(record.nll_before, 6),
            score_after=round(record.nll_after, 6),
            p_value=record.p_value,
        )
        chosen = TemperatureConfig(
            value=round(record.temperature, 4), evidence=evidence
        )
    write_postprocessing(
        RunDirectory(folder).postprocessing,
        PostprocessingConfig(made_of=cases.digests, temperature=chosen),
    )
    return record


def calibrated(
    cases: Iterable[ValidationCase], structures: Structures
) -> CalibrationRecord:
    """Choose a temperature, and measure without and with it.

    Args:
        cases: Gone through twice, one case in memory at a time.
        structures: In the order of the plan.

    Raises:
        EvaluationError: As `calibrate`.
    """
    first = [_first_look(case, structures) for case in cases]
    first = [one for one in first if len(one.drawn.labels)]
    _require_several_patients(first)
    folds = _folds([one.patient for one in first])
    without = [
        fitted_temperature([one.drawn for one in first if folds[one.patient] != fold])
        for fold in range(max(folds.values()) + 1)
    ]
    temperatures = {one.name: without[folds[one.patient]] for one in first}
    after = [
        _look(case, structures, temperatures[case.files.name])
        for case in cases
        if case.files.name in temperatures
    ]
    before = [one.look for one in first]
    fits = tuple(
        CaseFit(
            one.name,
            temperatures[one.name],
            one.look.near[ALL_CLASSES].nll,
            later.near[ALL_CLASSES].nll,
        )
        for one, later in zip(first, after, strict=True)
    )
    changes = np.array([one.nll_after - one.nll_before for one in fits])
    p_value = wilcoxon_p(changes)
    helps = changes.mean() < 0 and (
        len(fits) < FEWEST_CASES or bool(p_value < LARGEST_P)
    )
    uncertainty, wrong = (
        np.concatenate([getattr(one, name) for one in first])
        for name in ("uncertainty", "is_wrong")
    )
    return CalibrationRecord(
        temperature=fitted_temperature([one.drawn for one in first]),
        is_used=bool(helps),
        p_value=None if math.isnan(p_value) else p_value,
        band_mm=BAND_MM,
        near=Measured(
            reliability(summed(one.near for one in before)),
            reliability(summed(one.near for one in after)),
        ),
        everywhere=Measured(
            reliability(summed(one.everywhere for one in before)),
            reliability(summed(one.everywhere for one in after)),
        ),
        cases=fits,
        dice=tuple(_dice_pairs(first, after)),
        sparsification=curve(sparsification(uncertainty, wrong)),
    )


@dataclass(frozen=True, eq=False)
class _Look:
    """What is measured of a case at one temperature."""

    near: dict[str, Calibration]
    everywhere: dict[str, Calibration]
    expected_dice: dict[str, float | None]


@dataclass(frozen=True, eq=False)
class _FirstLook:
    """What is kept of a case that was seen as the network left it."""

    name: str
    patient: str
    drawn: DrawnVoxels
    uncertainty: NDArray[np.float32]
    """Predictive entropy of the drawn voxels."""

    is_wrong: NDArray[np.bool_]
    look: _Look
    dice: dict[str, float | None]


def _first_look(case: ValidationCase, structures: Structures) -> _FirstLook:
    """Measure a case at temperature 1, and draw voxels to choose another by."""
    reference = case.reference
    decided = case.decided(structures)
    near = near_foreground(reference, decided, case.spacing_mm, BAND_MM)
    counted = torch.from_numpy(near & (reference != IGNORED))
    most = voxels_per_case(case.num_cases, len(case.probabilities))
    places = draw_voxels(counted, most, seed=0).numpy()
    flat = case.probabilities.reshape(len(case.probabilities), -1)
    probabilities = torch.from_numpy(flat[:, places])
    labels = reference.reshape(-1)[places]
    shown = shown_classes(len(flat), structures, case.annotated)
    drawn = DrawnVoxels(
        probabilities.T.contiguous(),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(shown),
    )
    return _FirstLook(
        name=case.files.name,
        patient=case.files.patient,
        drawn=drawn,
        uncertainty=entropy(probabilities[:, :, None, None]).flatten().numpy(),
        is_wrong=shown[decided.reshape(-1)[places]] != labels,
        look=_look(case, structures, 1.0, near),
        dice=case_dice(decided, reference, case.annotated, structures),
    )


def _look(
    case: ValidationCase,
    structures: Structures,
    temperature: float,
    near: NDArray[np.bool_] | None = None,
) -> _Look:
    """Measure a case at a temperature.

    Args:
        case: To measure.
        structures: Likewise.
        temperature: 1: as the network left it.
        near: Voxels near foreground; unset: looked for.
    """
    if near is None:
        decided = case.decided(structures)
        near = near_foreground(case.reference, decided, case.spacing_mm, BAND_MM)
    members = tuple(structures.values())
    expected = ExpectedDice(len(members), case.spacing_mm)
    parts: dict[str, list[dict[str, Calibration]]] = {"near": [], "everywhere": []}
    for rows, block in case.rows():
        # Sure zeros count as in the choice of the temperature.
        likely = block.clamp_min(SMALLEST)
        likely = tempered(likely / likely.sum(dim=0), temperature)
        for name, counted in (("near", near[rows]), ("everywhere", None)):
            parts[name].append(
                case_calibration(
                    likely.numpy(),
                    case.reference[rows],
                    structures,
                    case.annotated,
                    counted,
                )
            )
        # As in a prediction.
        block = tempered(block, temperature)
        decided_here = decided_classes(block, members)
        expected.add(
            structure_probabilities(block, members),
            torch.stack(
                [torch.isin(decided_here, torch.tensor(list(one))) for one in members]
            ),
        )
    return _Look(
        near=summed(parts["near"]),
        everywhere=summed(parts["everywhere"]),
        expected_dice=dict(zip(structures, expected.values(), strict=True)),
    )


def _require_several_patients(cases: Sequence[_FirstLook]) -> None:
    if not cases:
        raise EvaluationError(
            "no validation case has foreground in its reference or its prediction, so "
            "there is nothing to choose a temperature on; train for longer, or "
            "validate on other cases"
        )
    patients = {one.patient for one in cases}
    if len(patients) < 2:
        raise EvaluationError(
            f"all validation cases with foreground are of patient {patients.pop()}; a "
            "temperature must be shown on patients that it was not chosen on, so give "
            "the run at least two validation patients (splits.folds)"
        )


def _folds(patients: Sequence[str]) -> dict[str, int]:
    """Patient to a part of them, of at most `MOST_FOLDS`, as equal as may be."""
    ordered = sorted(set(patients))
    number = min(len(ordered), MOST_FOLDS)
    return {patient: place % number for place, patient in enumerate(ordered)}


def _dice_pairs(
    first: Sequence[_FirstLook], after: Sequence[_Look]
) -> Iterator[DicePair]:
    """True and expected Dice of what was annotated and found."""
    for one, later in zip(first, after, strict=True):
        for structure, dice in one.dice.items():
            expected = one.look.expected_dice[structure]
            then = later.expected_dice[structure]
            if dice is not None and expected is not None and then is not None:
                yield DicePair(one.name, structure, dice, expected, then)


def gain_in_words(record: CalibrationRecord) -> str:
    """One sentence on what the temperature is good for."""
    before, after = record.nll_before, record.nll_after
    meaning = "surer than right" if record.temperature > 1 else "less sure than right"
    change = f"NLL near foreground {before:.4f} before and {after:.4f} after"
    test = "" if record.p_value is None else f", p = {record.p_value:.3g}"
    if record.is_used:
        return (
            f"Temperature {record.temperature:.3f}: over all classes together the "
            f"network is {meaning}; in cases that it was not chosen on, {change}{test}."
        )
    return (
        f"No temperature is kept: {record.temperature:.3f}, chosen on all cases, does "
        f"not help reliably in cases that it was not chosen on ({change}{test})."
    )
