"""Predict cases, one or thousands: label maps, and a record of what became of each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from foveal import building
from foveal.case import CaseFiles
from foveal.commands.export import model_card
from foveal.commands.models import (
    ModelsInTurn,
    Paths,
    StoredModel,
    postprocessing_of,
    read_each,
)
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
from foveal.config.postprocessing import PostprocessingConfig
from foveal.ensembles.members import Ensemble
from foveal.ensembles.voted_passes import FusionRule
from foveal.errors import CaseError, RunError, SettingsError
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
    uncertainty: bool = False,
    mirror: bool = False,
    dropout_passes: int | None = None,
    crf: bool = False,
    postprocessing: Path | str | None = None,
    snapshots: bool = False,
    fusion: FusionRule = "mean",
    memory_bytes: int | None = None,
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
    the folder gets a line for each case as it is finished, with the volume of every
    structure and the Dice to be expected of it, see `foveal.inference.record`.

    Args:
        models: A run, a folder of runs, a model file, or several of these; the
            probabilities of several are averaged.
        inputs: A volume, a folder of volumes, a data set, or cases. Which cases a data
            set excludes is logged as a warning.
        output: Folder, made if absent; or a file's name for a single case, of which no
            record is kept.
        probabilities: Also write ``probabilities/<case>/<structure>``.
        uncertainty: Also write ``uncertainty/<case>/``: the predictive entropy and, of
            several passes, the expected entropy, the mutual information and
            ``variance/<structure>``.
        mirror: Every model also sees the case reversed along the axes that its plan
            names (``mirroring.axes``), in all combinations; left and right change
            places as they did in training.
        dropout_passes: Passes of every model with dropout on, at least 2.
        crf: Refine by the CRF that `foveal tune-crf` chose.
        postprocessing: File in place of the models' own ``postprocessing.toml``; or
            ``"none"``, to see what the networks say.
        snapshots: Average the snapshots that a cyclic schedule has kept in each run, in
            place of the best checkpoint.
        fusion: ``"mean"`` of the passes' probabilities; the class that the
            ``"majority"`` of them says; the same ``"weighted"`` by the mean Dice that
            each model reached in validation; or ``"staple"``. Of votes the
            probabilities are shares of votes, of STAPLE the chances that it estimates.
        memory_bytes: That the process may take; what does not fit waits on disk, and
            the next case is not read ahead. Unset: most of what the machine has free.
        resume: Go on in a folder that holds predictions: cases predicted from the same
            files are skipped, failed ones are tried again.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        threads: CPU threads; unset: all.
        plugins: Files of the runs' networks, if plugins added them; they are run.
        on_progress: Told cases done, cases in all and the name of the last.

    Returns:
        What became of each case, in their order.

    Raises:
        RunError: A model cannot be used or is given twice, the models do not agree, a
            cross-validation is unfinished, dropout is asked of a network that has none,
            structures cannot name files, the folder holds predictions of others or
            without ``resume``, or it cannot be written to.
        CaseError: There is no case, two have one name, or something that is not a
            recorded prediction would be replaced.
        DatasetError: The input cannot be understood, or a case cannot name a file.
        SettingsError: What follows the networks is not clear or damaged, or there is no
            CRF in it that could be used.
    """
    torch.set_num_threads(threads or usable_threads())
    each = read_each(models, plugins, snapshots=snapshots)
    _require_different(each)
    stored = tuple(model for _, found in each for model in found)
    follows = postprocessing_of(each, postprocessing)
    if crf and follows.crf is None:
        raise SettingsError(_no_crf(postprocessing))
    weights = None
    if fusion != "mean":
        _require_probabilities_unused(fusion, crf=crf, uncertainty=uncertainty)
    if fusion == "weighted":
        weights = _validated_weights(models, snapshots=snapshots)
    ensemble = Ensemble(
        ModelsInTurn(stored, device),
        weights=weights,
        fusion=fusion,
        mirror=mirror,
        dropout_passes=dropout_passes,
        memory_bytes=memory_bytes,
        steps=building.steps(follows, use_crf=crf),
    )
    cases = (
        cases_to_predict(Path(inputs), len(ensemble.task.channel_names))
        if isinstance(inputs, Path | str)
        else inputs
    )
    place = place_of(cases, Path(output))
    asked = Asked(
        models=tuple(one.digest for one in stored),
        options={
            "probabilities": probabilities,
            # What is not asked for is left out, so that a further option makes no
            # earlier record another one.
            **{
                name: value
                for name, value in (
                    ("uncertainty", uncertainty),
                    ("mirror", mirror),
                    ("dropout_passes", dropout_passes),
                    ("crf", crf),
                    ("fusion", "" if fusion == "mean" else fusion),
                    ("weights", list(weights or ())),
                    ("postprocessing", _effects(follows, crf=crf)),
                )
                if value
            },
        },
        device=building.resolved_device(device),
    )
    drawn = Drawn(
        masks=ensemble.structure_values if ensemble.task.separate_masks else {},
        maps=[
            *_maps_of_structures("probabilities", ensemble, wanted=probabilities),
            *_uncertainties(ensemble, wanted=uncertainty),
        ],
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
            # What the next case will take is not known before it is read.
            in_turn = overlapped(
                jobs,
                stages.read,
                stages.compute,
                stages.write,
                reads_ahead=memory_bytes is None,
            )
            for outcome in in_turn:
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


def _require_different(each: Sequence[tuple[Path, Sequence[StoredModel]]]) -> None:
    """Refuse a model that is given twice: it would agree with itself."""
    paths: dict[str, Path] = {}
    for path, found in each:
        digests = {model.digest for model in found}
        for other in (paths[digest] for digest in digests if digest in paths):
            named = f"{path} is given twice"
            if path != other:
                named = f"{other} and {path} hold the same model"
            raise RunError(
                f"{named}, which would count double and agree with itself; leave one "
                "of the two out"
            )
        paths.update(dict.fromkeys(digests, path))


def _no_crf(postprocessing: Path | str | None) -> str:
    if postprocessing is None:
        return (
            "no CRF was chosen for this model; run foveal tune-crf RUN first, or give "
            "--postprocessing FILE with a table [crf]"
        )
    if str(postprocessing) == "none":
        return "--postprocessing none leaves out the CRF too; leave out it or --crf"
    return (
        f"{postprocessing} has no table [crf]; add one, as foveal tune-crf RUN writes "
        "it, or leave out --crf"
    )


def _require_probabilities_unused(
    fusion: FusionRule, *, crf: bool, uncertainty: bool
) -> None:
    for what, is_asked in (("crf", crf), ("uncertainty", uncertainty)):
        if is_asked:
            raise SettingsError(
                f"--{what} is made of the networks' probabilities, which --fusion "
                f"{fusion} gives up for votes; leave one of the two out"
            )


def _validated_weights(models: Paths, *, snapshots: bool) -> tuple[float, ...]:
    """Mean Dice over structures that each model reached in its validation cases."""
    if snapshots:
        raise SettingsError(
            "snapshots were not validated one by one, so their votes have no weights; "
            "take --fusion majority"
        )
    paths = [models] if isinstance(models, Path | str) else models
    weights = []
    for path in paths:
        for number, member in enumerate(model_card(path)["members"]):
            means = [one["dice"]["mean"] for one in member["validation"].values()]
            if not means or any(not mean for mean in means):
                raise SettingsError(
                    f"network {number} of {path} has no validated Dice above 0 of "
                    "every structure, so its vote has no weight; take --fusion "
                    "majority, or leave it out"
                )
            weights.append(fmean(means))
    return tuple(weights)


def _effects(follows: PostprocessingConfig, *, crf: bool) -> dict[str, Any]:
    """What is done after the networks, as the record tells it."""
    table = follows.effects.model_dump(
        mode="json", exclude_none=True, exclude_defaults=True
    )
    if not crf:
        table.pop("crf", None)
    return table


def _maps_of_structures(
    what: str, ensemble: Ensemble, *, wanted: bool
) -> list[tuple[str, str]]:
    return [(what, name) for name in ensemble.structures] if wanted else []


def _uncertainties(ensemble: Ensemble, *, wanted: bool) -> list[tuple[str, str]]:
    """Of one pass, nothing but its entropy says anything."""
    if not wanted:
        return []
    if ensemble.num_passes == 1:
        return [("predictive_entropy", "")]
    return [
        ("predictive_entropy", ""),
        ("expected_entropy", ""),
        ("mutual_information", ""),
        *_maps_of_structures("variance", ensemble, wanted=True),
    ]
