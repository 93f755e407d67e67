"""Put what was trained into one file, and say what a person should know of it."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foveal import __version__
from foveal.case import Dataset
from foveal.commands.folds import finished_runs, is_finished
from foveal.commands.models import (
    ModelsInTurn,
    StoredModel,
    postprocessing_of,
    read_each,
)
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.checkpoints import load_checkpoint
from foveal.engine.run_directory import RunDirectory
from foveal.ensembles.members import Ensemble
from foveal.ensembles.model_file import (
    MemberContent,
    ModelContent,
    read_model_file,
    write_model_file,
)
from foveal.errors import FovealError, RunError
from foveal.io.datasets import read_dataset
from foveal.metrics.evaluation import read_evaluation
from foveal.planning.splits import read_splits
from foveal.plugins.files import read_plugins
from foveal.plugins.registration import Plugin
from foveal.settings_files import read_plan, read_settings, to_toml

CARD_VERSION = 1

Card = dict[str, Any]


def export(
    run: Path | str,
    model: Path | str,
    *,
    plugins: Sequence[Path | str | Plugin] = (),
) -> Card:
    """Write one file with what `foveal.predict` needs, and nothing of any patient.

    It holds weights, plan, the settings of prediction and a model card: counts, ranges
    and mean scores, but no name of a case, a patient, a data set or a folder. It
    predicts what the run predicts, to the bit.

    Args:
        run: A run, or a folder of runs, which become one file.
        model: File to be made, of any name.
        plugins: File of the run's network, if a plugin added it; it is run. Whoever
            predicts with the model needs it too: only its hash goes into the model.

    Returns:
        The model card.

    Raises:
        RunError: ``run`` is no run, has no checkpoint, its runs do not agree or are an
            unfinished cross-validation, or ``model`` exists.
        EvaluationError: The validation scores of a run are damaged.
        PluginError: The network is a plugin's, which was not given.
    """
    target = Path(model)
    if target.exists():
        raise RunError(f"{target} exists already; give another name or remove it")
    given = read_plugins(plugins)
    each = read_each(run, given)
    stored = [one for _, found in each for one in found]
    # Refuses what does not agree.
    Ensemble(ModelsInTurn(stored, "cpu"))
    card = _card(finished_runs(Path(run)))
    # Which cases it was chosen on is nobody's business who gets the model.
    follows = postprocessing_of(each).effects.model_dump(
        mode="json", exclude_none=True, exclude_defaults=True
    )
    members = [_content(one) for one in stored]
    write_model_file(target, ModelContent(members, card, follows))
    return card


def model_card(model: Path | str) -> Card:
    """What a person should know of a model before using it.

    Args:
        model: A model file, a run or a folder of runs.

    Raises:
        RunError: It is none of these, damaged, or an unfinished cross-validation.
        EvaluationError: The validation scores of a run are damaged.
    """
    path = Path(model)
    if path.is_file():
        return dict(read_model_file(path).card)
    return _card(finished_runs(path))


def _content(stored: StoredModel) -> MemberContent:
    # A data set is often called after its folder, which may tell of a patient or site.
    plan = stored.plan.model_copy(update={"dataset_name": ""})
    return MemberContent(
        to_toml(plan),
        stored.prediction_settings,
        stored.weights,
        tuple((plugin.path.name, plugin.digest) for plugin in stored.plugins),
    )


def _card(runs: Sequence[RunDirectory]) -> Card:
    plans = [read_plan(run.plan) for run in runs]
    plan = plans[0]
    return {
        "format_version": CARD_VERSION,
        "foveal": __version__,
        "exported": datetime.now(UTC).date().isoformat(),
        "structures": {
            name: list(values) for name, values in plan.labels.structure_values.items()
        },
        "one_mask_per_structure": plan.labels.separate_masks,
        "channels": [channel.name for channel in plan.preprocessing.channels],
        "members": [
            {**_training(run, own), "validation": _validation(run)}
            for run, own in zip(runs, plans, strict=True)
        ],
    }


def _training(run: RunDirectory, plan: Plan) -> Card:
    """How much and what a run was trained on, in numbers."""
    settings, _ = read_settings(run.settings)
    fold = read_splits(run.splits).folds[settings.splits.fold]
    dataset = _dataset(settings)
    usual = plan.fingerprint
    # Pictures have no mm to tell of.
    sized = None if usual is None or usual.are_pictures else usual
    return {
        "network": plan.network.name,
        "steps": load_checkpoint(run.best_or_last)[1]["step"],
        "planned_steps": settings.training.steps,
        "is_finished": is_finished(run),
        "seed": settings.training.seed,
        "fold": settings.splits.fold,
        "training_patients": len(fold.train),
        "training_cases": _num_cases(dataset, fold.train),
        "validation_patients": len(fold.validation),
        "validation_cases": _num_cases(dataset, fold.validation),
        "spacing_mm_range": None if sized is None else sized.spacing_mm_range,
        "extent_mm_range": None if sized is None else sized.extent_mm_range,
        "intensity_ranges": None if usual is None else usual.intensity_ranges,
        "orientations": None if usual is None else usual.orientations,
    }


def _dataset(settings: Settings) -> Dataset | None:
    """The data set of a run, if it is still where it was."""
    if settings.dataset is None:
        return None
    try:
        return read_dataset(settings.dataset)
    except FovealError:
        return None


def _num_cases(dataset: Dataset | None, patients: Sequence[str]) -> int | None:
    """Labelled cases of some patients; ``None``: the data set is not there to ask."""
    if dataset is None:
        return None
    wanted = set(patients)
    return sum(case.patient in wanted for case in dataset.labelled)


def _validation(run: RunDirectory) -> dict[str, dict[str, Card]]:
    """Structure and metric to mean, median and number of cases; empty if not measured.

    The checkpoint was chosen on these cases, so the figures are optimistic.
    """
    if not run.metrics.exists():
        return {}
    figures: dict[str, dict[str, Card]] = {}
    for entry in read_evaluation(run.metrics).summary:
        figures.setdefault(entry.structure, {})[entry.metric] = {
            "mean": _without_nan(entry.mean),
            "median": _without_nan(entry.median),
            "cases": entry.num_cases,
        }
    return figures


def _without_nan(value: float) -> float | None:
    """``None`` for NaN, which JSON does not have."""
    return None if math.isnan(value) else value
