"""Report of a folder of predictions: new cases, the most doubtful first."""

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveal import __version__
from foveal.errors import CaseError, FovealError, RunError, listed
from foveal.inference.record import RECORD_FILE, InputFile, Outcome, read_outcomes
from foveal.io.cases import read_case
from foveal.io.label_maps import require_same_grid
from foveal.io.volumes import case_stem, read_volume
from foveal.preprocessing.sources import FileDigests
from foveal.reports import trust_figures
from foveal.reports.page import Overlay, number
from foveal.reports.predictions_page import (
    PredictedCase,
    PredictedStructure,
    PredictionsPage,
    doubtful_first,
    render_predictions,
)
from foveal.reports.slices import percentile_range

NUM_PICTURES = 6
"""Cases shown, the most doubtful."""

FOOTER = f"Made by Foveal {__version__}. This file needs no network."


def is_folder_of_predictions(folder: Path) -> bool:
    """Whether ``foveal predict`` wrote into a folder."""
    return (folder / RECORD_FILE).is_file()


def predictions_report(folder: Path, images: Path | None = None) -> str:
    """HTML of the report of a folder of predictions.

    Args:
        folder: That ``foveal predict`` wrote.
        images: Folder in or below which the predicted images lie, for pictures. They
            are known by their content, wherever they are.

    Raises:
        RunError: The record is damaged, or ``images`` is no folder.
    """
    if images is not None and not images.is_dir():
        raise RunError(f"{images} is no folder; give the one that was predicted from")
    newest = {one.case: one for one in read_outcomes(folder / RECORD_FILE)}
    failed = [one for one in newest.values() if one.status == "failed"]
    predicted = {one.case: one for one in newest.values() if one.status != "failed"}
    cases = doubtful_first([_predicted_case(one) for one in predicted.values()])
    overlays, notes = _pictures(folder, images, cases, predicted)
    page = PredictionsPage(
        title=f"Predictions in {folder.resolve().name}",
        subtitle="Which of them to look at first",
        headlines=_headlines(cases),
        warnings=[f"{one.case} failed: {'; '.join(one.reasons)}" for one in failed],
        cases=cases,
        overlays=overlays,
        notes=notes,
        footer=FOOTER,
    )
    return render_predictions(page)


def _predicted_case(outcome: Outcome) -> PredictedCase:
    structures = []
    for name, facts in outcome.structures.items():
        interval = facts["volume_interval_ml"]
        structures.append(
            PredictedStructure(
                name,
                facts["expected_dice"],
                facts["volume_ml"],
                None if interval is None else (interval[0], interval[1]),
            )
        )
    return PredictedCase(outcome.case, tuple(structures), outcome.reasons)


def _headlines(cases: Sequence[PredictedCase]) -> list[tuple[str, str, str]]:
    headlines = [("cases predicted", f"{len(cases):,}", "")]
    suspect = sum(bool(case.remarks) for case in cases)
    headlines.append(
        ("suspect", f"{suspect:,}", "unlike the training cases, see remarks")
    )
    known = [case for case in cases if case.structures]
    if known:
        first = known[0]
        if first.mean is None:
            headlines.append(("nothing found in", first.name, "look at it first"))
        else:
            headlines.append(("lowest expected Dice", number(first.mean), first.name))
    return headlines


def _pictures(
    folder: Path,
    images: Path | None,
    cases: Sequence[PredictedCase],
    outcomes: dict[str, Outcome],
) -> tuple[list[Overlay], list[str]]:
    """Pictures of the most doubtful cases, and which could not be made and why."""
    if not cases:
        return [], ["No case has been predicted yet."]
    notes = []
    silent = [case.name for case in cases if not case.structures]
    if silent:
        notes.append(
            f"Nothing is known of how sure these are, as another version of Foveal "
            f"predicted them: {listed(silent)}. Predict them again."
        )
    if images is None:
        notes.append(
            "No pictures: add --images FOLDER, the folder that was predicted from."
        )
        return [], notes
    digests = FileDigests()
    overlays = []
    for case in cases[:NUM_PICTURES]:
        try:
            path = _channel(outcomes[case.name].inputs, images, digests)
            overlays.append(_overlay(case, outcomes[case.name], folder, path))
        except FovealError as error:
            notes.append(f"No picture of {case.name}: {error}")
    return overlays, notes


def _channel(inputs: Sequence[InputFile], images: Path, digests: FileDigests) -> Path:
    """File of a case's first channel.

    Raises:
        CaseError: It is not in the folder.
    """
    # The first that there is.
    channels = [one for one in inputs if one.role.startswith("channel ")][:1]
    for one in channels:
        for path in sorted(images.rglob(glob.escape(one.file))):
            if digests.digest(path) == one.blake2b:
                return path
    raise CaseError(
        "the image that it was predicted from, "
        f"{''.join(one.file for one in channels) or 'whose name is not recorded'}, "
        f"is not in {images}, or was changed"
    )


def _overlay(
    case: PredictedCase, outcome: Outcome, folder: Path, channel: Path
) -> Overlay:
    """Picture of a case's most doubtful slice.

    Raises:
        CaseError: A file cannot be read, or they lie on different grids.
    """
    image = read_case(channel)
    labels, doubt = _outputs(outcome, folder)
    volumes = [read_volume(path) for path in labels]
    require_same_grid("image", image.grid, "prediction", volumes[0].grid)
    numbers: NDArray[np.int32] = volumes[0].array.astype(np.int32)
    # A label map has its own numbers; of masks, each gets one.
    for place, mask in enumerate(volumes[1:], start=2):
        numbers[mask.array > 0] = place
    found = trust_figures.most_doubtful_slice(
        image.image[0],
        numbers,
        None if doubt is None else read_volume(doubt).array,
        image.grid,
    )
    why = "most of what was found" if doubt is None else "most entropy around it"
    what = (
        "Nothing was found"
        if case.lowest is None
        else f"Expected Dice {number(case.mean)}, lowest for {case.lowest.name} "
        f"({number(case.lowest.expected_dice)})"
    )
    return Overlay(
        case=case.name,
        caption=f"{what}: {found.shown.plane} slice {found.axis} = {found.index}, "
        f"counted from 0, with {why}.",
        png=trust_figures.doubtful_picture(found, percentile_range(found.shown.image)),
    )


def _outputs(outcome: Outcome, folder: Path) -> tuple[list[Path], Path | None]:
    """Label map, or a mask per structure; and the entropy, if it was made."""
    labels, doubt = [], None
    for output in outcome.outputs:
        path = Path(output.file)
        if path.parts[0] == "uncertainty":
            if case_stem(path) == "predictive_entropy":
                doubt = folder / path
        elif path.parts[0] != "probabilities":
            labels.append(folder / path)
    if not labels or not all(path.exists() for path in labels):
        raise CaseError("its label map is not in the folder any more")
    return labels, doubt if doubt is not None and doubt.exists() else None
