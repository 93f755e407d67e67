"""Begin a run with weights that were learned elsewhere."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from foveal import building
from foveal.commands.folds import finished_runs
from foveal.commands.models import read_models
from foveal.commands.out_of_fold import division
from foveal.config.networks.section import NetworkConfig
from foveal.config.plan import Plan
from foveal.engine.run_directory import (
    CrossValidationDirectory,
    RunDirectory,
    is_cross_validation,
    is_run,
)
from foveal.engine.transfer import (
    Source,
    Transfer,
    matched,
    without_slices,
    without_slices_prefix,
)
from foveal.ensembles.model_file import FORMAT
from foveal.errors import RunError, listed
from foveal.io.files import atomic_write_text
from foveal.io.foreign_weights import read_foreign_weights, texts_of_safetensors
from foveal.networks.interface import Network
from foveal.planning.splits import Fold
from foveal.plugins.parts import Parts
from foveal.settings_files import read_plan, read_settings

FORMAT_VERSION = 1
"""Of ``transfer.json``."""


@dataclass(frozen=True, eq=False)
class OpenedWeights:
    """Weights of a run, a model file or another program, and where they lie."""

    source: Source

    file: Path
    """That holds them."""

    plan: Plan | None = None
    """That they were trained by, if Foveal trained them."""

    is_classifier: bool = False
    """Whether they tell what an image shows and outline nothing."""


def begin_with_weights(
    networks: Sequence[Network],
    weights: Path,
    plan: Plan,
    parts: Parts,
    run: RunDirectory,
    on_stage: Callable[[str], None],
    *,
    keep_record: bool,
) -> None:
    """Load what fits into fresh networks, say what, and write it down.

    Args:
        networks: Of the plan, all alike, one or more; changed.
        weights: Run, exported model, or file of another program.
        plan: Of the run.
        parts: With the plugin that the weights' network comes from, if it is one's.
        run: Gets ``transfer.json``.
        on_stage: Told of every kind of layer.
        keep_record: Whether to write; one of several processes does.

    Raises:
        RunError: The weights cannot be used, or are not those that this run began with.
        PluginError: Their network is a plugin's, which was not given.
    """
    opened = opened_weights(weights, parts)
    transfer = fitting_weights(networks[0], weights, plan, opened)
    with opened.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _refuse_changed(opened.file, digest, run)
    for network in networks:
        transfer.apply(network)
    on_stage(f"transfer: weights from {opened.file}")
    for sentence in transfer.report.sentences:
        on_stage(sentence)
    if keep_record:
        record = {
            "format_version": FORMAT_VERSION,
            "weights": str(weights),
            "file": str(opened.file),
            "sha256": digest,
            **transfer.report.as_plain_values(),
        }
        atomic_write_text(run.transfer, json.dumps(record, indent=2))


def _refuse_changed(file: Path, digest: str, run: RunDirectory) -> None:
    """Refuse a file that a run, or another fold with it, began with as it was then."""
    records = [run.transfer]
    if is_cross_validation(run.path.parent):
        records += sorted(run.path.parent.glob(f"fold_*/{run.transfer.name}"))
    for record in records:
        if not record.exists():
            continue
        before = json.loads(record.read_text(encoding="utf-8"))
        if before["file"] == str(file) and before["sha256"] != digest:
            raise RunError(
                f"{file} changed since the run began (its sha256 was "
                f"{before['sha256']} and is {digest}); bring it back, or start a new "
                "run"
            )


def weights_of_fold(weights: Path, fold: int) -> Path:
    """What a fold begins with: of a cross-validation, the same fold of it.

    Raises:
        RunError: The cross-validation has no such fold.
    """
    if not is_cross_validation(weights):
        return weights
    run = CrossValidationDirectory(weights).fold(fold)
    if not is_run(run.path):
        raise RunError(
            f"transfer.weights {weights} is a cross-validation without a fold {fold}; "
            "give one with the same folds, or a single run"
        )
    return run.path


def require_readable_weights(weights: Path, fold: int, parts: Parts) -> None:
    """Refuse weights that cannot be read, before anything else is.

    Raises:
        RunError: They cannot be, or are of a cross-validation that is not finished.
        PluginError: Their network is a plugin's, which was not given.
    """
    if is_cross_validation(weights):
        finished_runs(weights)
    opened_weights(weights_of_fold(weights, fold), parts)


def require_unseen(
    weights: Path,
    fold: Fold,
    dataset: Path,
    dataset_name: str,
    on_stage: Callable[[str], None],
) -> None:
    """Refuse to validate or test patients that weights were learned from.

    Of exported files and of other programs it is not known whom they were learned from.

    Args:
        weights: As of `weights_of_fold`.
        fold: Of the run that begins with them.
        dataset: That it is trained on.
        dataset_name: As in its plan.
        on_stage: Told of names that are in another data set too, where they may be
            other people's.

    Raises:
        RunError: Names some of the patients, and what to do.
    """
    for run in _lineage(weights):
        trained_on = set(division(run).train)
        seen = sorted(trained_on.intersection((*fold.validation, *fold.test)))
        if not seen:
            continue
        there, _ = read_settings(run.settings)
        is_same_path = there.dataset is not None and (
            there.dataset.resolve() == dataset.resolve()
        )
        if not is_same_path and read_plan(run.plan).dataset_name != dataset_name:
            on_stage(
                f"transfer: {run.path} was trained on another data set with patients "
                f"of the same names as those validated or tested here ({listed(seen)})"
                "; if they are the same people, the scores flatter"
            )
            continue
        raise RunError(
            f"transfer.weights: {run.path} was trained on {len(seen)} patient(s) that "
            f"are validated or tested here ({listed(seen)}), so the scores would "
            "flatter; begin with a run that left out the same patients, such as the "
            "same fold of the same division. Of the folder of a cross-validation "
            "every fold begins with its own. If they are other people of the same "
            "names, give a file from foveal export"
        )


def _lineage(weights: Path) -> Iterator[RunDirectory]:
    """The run of the weights, the one that it began with, and so on if still there."""
    known: set[Path] = set()
    while weights.is_dir():
        runs = [path for path in (weights, *weights.iterdir()) if is_run(path)]
        if len(runs) != 1 or runs[0] in known:
            return
        known.add(runs[0])
        run = RunDirectory(runs[0])
        yield run
        settings, _ = read_settings(run.settings)
        if settings.transfer.weights is None:
            return
        weights = settings.transfer.weights
        if is_cross_validation(weights):
            number = settings.splits.fold
            weights = CrossValidationDirectory(weights).fold(number).path


def require_fitting_weights(weights: Path, plan: Plan, parts: Parts) -> None:
    """Refuse weights that a run could not begin with, before the data are read.

    Raises:
        RunError: They cannot be read, or are of another network.
        PluginError: Their network is a plugin's, which was not given.
    """
    fitting_weights(
        building.planned_network(plan, parts),
        weights,
        plan,
        opened_weights(weights, parts),
    )


def require_teacher(network: Network, weights: Path, plan: Plan, parts: Parts) -> None:
    """Refuse weights that cannot label cases before the first step.

    Args:
        network: Fresh, of the plan.
        weights: As of `weights_of_fold`.
        plan: Of the run.
        parts: With the plugin that the weights' network comes from, if it is one's.

    Raises:
        RunError: They outline nothing, or other structures, or the network has layers
            that they are not of.
    """
    opened = opened_weights(weights, parts)
    remedy = (
        "They label the unlabelled cases, so give a run or an exported model of the "
        "same network, trained to outline the same structures"
    )
    if opened.plan is None:
        raise RunError(
            f"transfer.weights {weights} are of another program, so it is not known "
            f"what they outline. {remedy}"
        )
    if opened.is_classifier:
        raise RunError(
            f"transfer.weights {weights} are of a classifier, which outlines nothing. "
            f"{remedy}"
        )
    there, here = opened.plan.labels.structures, plan.labels.structures
    if list(there.items()) != list(here.items()):
        raise RunError(
            f"transfer.weights {weights} outline {_classes_in_words(there)}, and this "
            f"run {_classes_in_words(here)}. {remedy}"
        )
    made = fitting_weights(network, weights, plan, opened).report
    afresh = [*made.not_found, *(each.name for each in made.replaced)]
    if afresh:
        raise RunError(
            f"transfer.weights {weights} lack {listed(afresh)}, which would begin "
            f"untrained. {remedy}"
        )


def _classes_in_words(structures: Mapping[str, Sequence[int]]) -> str:
    """Structures and their inside classes."""
    return ", ".join(
        f"{name} ({', '.join(map(str, classes))})"
        for name, classes in structures.items()
    )


def opened_weights(path: Path, parts: Parts) -> OpenedWeights:
    """Read weights, whatever kind of file or folder holds them.

    Raises:
        RunError: They cannot be read, or there are several models.
        PluginError: Their network is a plugin's, which was not given.
    """
    texts = {} if path.is_dir() else texts_of_safetensors(path)
    if "state" in texts and "digest" in texts:
        raise RunError(
            f"transfer.weights {path} is a checkpoint; give the folder of its run, "
            "which says what the weights are for"
        )
    if not path.is_dir() and texts.get("format") != FORMAT:
        weights = read_foreign_weights(path)
        return OpenedWeights(Source(weights, {name: name for name in weights}), path)
    models = read_models(path, parts.plugins)
    if len(models) > 1:
        raise RunError(
            f"transfer.weights {path} holds {len(models)} models; give one run, or a "
            "file that was exported from one"
        )
    (model,) = models
    # Plugins' networks and other libraries' ("monai:…") may need real memory.
    is_built_in = not model.plugins and ":" not in model.plan.network.name
    with torch.device("meta") if is_built_in else contextlib.nullcontext():
        network = building.planned_network(
            model.plan, Parts(building.BUILT_IN, model.plugins)
        )
    source = Source(
        without_slices_prefix(model.weights, network),
        dict(without_slices(network).pretrained_names()),
        len(model.plan.preprocessing.channels),
    )
    file = finished_runs(path)[0].best_or_last if path.is_dir() else path
    return OpenedWeights(source, file, model.plan, model.is_classifier)


def fitting_weights(
    network: Network, weights: Path, plan: Plan, opened: OpenedWeights
) -> Transfer:
    """What a network takes of opened weights.

    Raises:
        RunError: They are of another network; names layers, shapes and what would fit.
    """
    try:
        return matched(network, len(plan.preprocessing.channels), opened.source)
    except RunError as error:
        raise RunError(
            f"transfer.weights {weights} do not fit network {plan.network.name}: "
            f"{error}. {_to_fit(opened.plan, plan.network)}"
        ) from error


def _to_fit(there: Plan | None, here: NetworkConfig) -> str:
    """What to change, so that weights and network are alike."""
    if there is None:
        return (
            "Give weights of this kind, or choose the network that they are of with "
            "network.name and its options"
        )
    mine, theirs = here.model_dump(mode="json"), there.network.model_dump(mode="json")
    different = [
        f"network.{name}={json.dumps(value)}"
        for name, value in theirs.items()
        if mine.get(name) != value
    ]
    if not different:
        return "Give a run of this network"
    return f"Their network has {', '.join(different)}; set the same to begin with them"
