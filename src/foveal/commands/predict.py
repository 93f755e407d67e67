"""Predict cases, one or thousands: label maps, and a record of what became of each."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from foveal import building
from foveal.case import CaseFiles
from foveal.commands.models import Paths, read_models
from foveal.commands.plan import usable_threads
from foveal.commands.prediction_folder import (
    Asked,
    Drawn,
    earlier_predictions,
    place_of,
    record_of,
    refuse_to_replace,
    require_structure_file_names,
    staging_folder,
)
from foveal.commands.prediction_stages import Job, Stages
from foveal.ensembles.members import Ensemble
from foveal.errors import CaseError, RunError
from foveal.inference.overlap import overlapped
from foveal.inference.record import Outcome
from foveal.io.inputs import cases_to_predict
from foveal.plugins.registration import Plugin


def predict(
    models: Paths,
    inputs: Path | str | Sequence[CaseFiles],
    output: Path | str,
    *,
    probabilities: bool = False,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    plugins: Sequence[Path | str | Plugin] = (),
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[Outcome]:
    """Predict every case of an input into a folder of label maps.

    A model that was trained on one mask per structure gives a folder of masks per case.
    Label maps and masks have the grid, the file format (``.mha`` for ``.mhd``) and, for
    NIfTI, the header codes of the case's first channel; label maps have the label
    values of the training data.
    A case that cannot be predicted does not stop the others. ``predictions.jsonl`` in
    the folder gets a line for each case as it is finished, see
    `foveal.inference.record`.

    Args:
        models: A run, a folder of runs, a model file, or several of these; the
            probabilities of several are averaged.
        inputs: A volume, a folder of volumes, a data set, or cases. Which cases a data
            set excludes is logged as a warning.
        output: Folder, made if absent; or a file's name for a single case, of which no
            record is kept.
        probabilities: Also write ``probabilities/<case>/<structure>``.
        resume: Go on in a folder that holds predictions: cases predicted from the same
            files are skipped, failed ones are tried again.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        threads: CPU threads; unset: all.
        plugins: Files of the runs' networks, if plugins added them; they are run.
        on_progress: Told cases done, cases in all and the name of the last.

    Returns:
        What became of each case, in their order.

    Raises:
        RunError: A model cannot be used, the models do not agree, a cross-validation is
            unfinished, structures cannot name files, the folder holds predictions of
            others or without ``resume``, or it cannot be written to.
        CaseError: There is no case, two have one name, or something that is not a
            recorded prediction would be replaced.
        DatasetError: The input cannot be understood, or a case cannot name a file.
    """
    torch.set_num_threads(threads or usable_threads())
    stored = read_models(models, plugins)
    ensemble = Ensemble(tuple(one.model(device) for one in stored))
    cases = (
        cases_to_predict(Path(inputs), ensemble.num_channels)
        if isinstance(inputs, Path | str)
        else inputs
    )
    place = place_of(cases, Path(output))
    asked = Asked(
        models=tuple(one.digest for one in stored),
        options={"probabilities": probabilities},
        device=building.resolved_device(device),
    )
    drawn = Drawn(
        masks=ensemble.structure_values if ensemble.separate_masks else {},
        probabilities=tuple(ensemble.structures) if probabilities else (),
    )
    if drawn.masks and place.record is None:
        raise CaseError(
            f"the model gives one mask per structure, which {output} cannot hold; give "
            "a folder"
        )
    require_structure_file_names(Path(output), drawn)

    def recorded_jobs() -> list[Job]:
        earlier = earlier_predictions(place, asked, resume=resume)
        refuse_to_replace(cases, place, earlier, drawn)
        return [
            Job(files, place.targets[files.name], earlier.get(files.name))
            for files in cases
        ]

    recorded_jobs()  # What is refused here leaves no trace in the folder.
    outcomes = []
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        with record_of(place) as record, staging_folder(place) as staging:
            # Again, as until now another program could predict into the folder.
            jobs = recorded_jobs()
            stages = Stages(stored, ensemble, asked, drawn, record, staging)
            for outcome in overlapped(jobs, stages.read, stages.compute, stages.write):
                outcomes.append(outcome)
                if on_progress:
                    on_progress(len(outcomes), len(jobs), outcome.case)
    except OSError as error:
        raise RunError(
            f"{place.folder} cannot be written to ({error.strerror or error}); what is "
            "finished is kept. Make room or give another folder; in this one, --resume "
            "goes on"
        ) from error
    return outcomes
