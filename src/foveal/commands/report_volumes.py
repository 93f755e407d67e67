"""Dice and volume of every case for the report: does the network miss small ones?"""

from foveal.reports.page import Curve
from foveal.reports.scores import RunScores
from foveal.reports.volume_figures import CaseVolumes, dice_and_volumes


def volumes_of(scores: RunScores | None) -> list[Curve]:
    """A figure for each structure that was measured in a case; nothing before that.

    Pictures have no volume in ml; of these pixels are counted.
    """
    if scores is None:
        return []
    figures = []
    for structure in scores.structures:
        in_ml = scores.values(structure, "reference_volume_ml")
        unit, ending = ("ml", "volume_ml") if in_ml else ("voxels", "voxels")
        cases = _cases(scores, structure, ending)
        if cases:
            figures.append(
                Curve(structure, _caption(cases, unit), dice_and_volumes(cases, unit))
            )
    return figures


def _cases(scores: RunScores, structure: str, ending: str) -> list[CaseVolumes]:
    found = []
    for case in scores.cases:
        own = case.structures.get(structure, {})
        reference = own.get(f"reference_{ending}")
        prediction = own.get(f"prediction_{ending}")
        if reference is not None and prediction is not None:
            found.append(CaseVolumes(case.name, own["dice"], reference, prediction))
    return found


def _caption(cases: list[CaseVolumes], unit: str) -> str:
    reference = sum(one.reference for one in cases) / len(cases)
    prediction = sum(one.prediction for one in cases) / len(cases)
    means = f"Mean volume {reference:.3g} {unit}, predicted {prediction:.3g} {unit}"
    if reference == 0:
        return f"{means}."
    return f"{means} ({100 * (prediction / reference - 1):+.1f} %)."
