"""From paths to models: the one place that knows runs, folders of runs and files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from foveal import building
from foveal.commands.folds import finished_runs
from foveal.config.plan import Plan
from foveal.config.postprocessing import PostprocessingConfig
from foveal.config.settings import Settings
from foveal.engine.checkpoints import open_checkpoint, snapshots
from foveal.engine.run_directory import RunDirectory, open_run
from foveal.ensembles.members import Ensemble
from foveal.ensembles.model_file import MemberContent, read_model_file
from foveal.ensembles.voted_passes import FusionRule
from foveal.errors import PluginError, RunError, SettingsError
from foveal.inference.model import Model
from foveal.io.weights import StoredTensors, tensors_digest
from foveal.plugins.files import read_plugins
from foveal.plugins.kept import plugins_for_network
from foveal.plugins.parts import Parts
from foveal.plugins.registration import Plugin
from foveal.settings_files import (
    changed_settings,
    parse_plan,
    parse_postprocessing,
    read_plan,
    read_postprocessing,
    read_settings,
)

Paths = Path | str | Sequence[Path | str]


@dataclass(frozen=True, eq=False)
class StoredModel:
    """One trained network with all that its predictions depend on.

    Its weights stay in their file until they are asked for, so that an ensemble holds
    those of one member at a time.
    """

    plan: Plan

    settings: Settings
    """Only those of prediction, and training's precision and layout, count."""

    weights: Mapping[str, Tensor]

    plugins: tuple[Plugin, ...] = ()
    """Of the network, if it is not built in."""

    is_classifier: bool = False
    """Whether it tells what an image shows and outlines nothing."""

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """The settings that decide a prediction."""
        numerics = building.numerics(self.settings)
        return {
            # What is unset is left out, so that a further setting changes no digest.
            "prediction": self.settings.prediction.model_dump(
                mode="json", exclude_none=True
            ),
            "training": numerics._asdict(),
        }

    @cached_property
    def digest(self) -> str:
        """Differs if predictions may differ; the data set's name does not matter."""
        content = [
            self.plan.model_dump(mode="json", exclude={"dataset_name"}),
            self.prediction_settings,
            tensors_digest(self.weights),
        ]
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def model(self, device: str = "auto") -> Model:
        """Ready to predict.

        Raises:
            RunError: It is a classifier, which outlines nothing.
        """
        if self.is_classifier:
            raise RunError(
                "the run is of a classifier, which tells what an image shows but "
                "outlines nothing; start a segmentation network from it with "
                "--set transfer.weights=RUN"
            )
        parts = Parts(building.BUILT_IN, self.plugins)
        return building.model(self.plan, self.settings, self.weights, device, parts)


class ModelsInTurn(Sequence[Model]):
    """Stored models as models, the last one asked for kept and no other."""

    def __init__(self, stored: Sequence[StoredModel], device: str) -> None:
        self._stored, self._device = tuple(stored), device
        self._place: int | None = None
        self._model: Model | None = None

    def __len__(self) -> int:
        return len(self._stored)

    @overload
    def __getitem__(self, place: int) -> Model: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Model]: ...

    def __getitem__(self, place: int | slice) -> Model | Sequence[Model]:
        """The model at a place, made now unless it was the last one."""
        if isinstance(place, slice):
            return ModelsInTurn(self._stored[place], self._device)
        if self._model is None or place != self._place:
            self._model = None  # its memory is free before the next one is made
            self._model = self._stored[place].model(self._device)
            self._place = place
        return self._model


def load_model(
    model: Paths,
    *,
    device: str = "auto",
    mirror: bool = False,
    dropout_passes: int | None = None,
    weights: Sequence[float] | None = None,
    fusion: FusionRule = "mean",
    memory_bytes: int | None = None,
    postprocessing: Path | str | None = None,
    plugins: Sequence[Path | str | Plugin] = (),
) -> Ensemble:
    """Load what was trained once, to predict many cases.

    Args:
        model: A run, a folder of runs, a model file that `foveal.export` wrote, or
            several of these; the probabilities of several are averaged.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        mirror: Also see every case reversed along the axes that the plan names.
        dropout_passes: See every case so many times with dropout on, at least 2.
        weights: Of the models in their average or vote; unset: all alike.
        fusion: ``"mean"`` of the probabilities, vote of the ``"majority"``, vote by
            ``weights`` (``"weighted"``), or ``"staple"``.
        memory_bytes: That the process may take; what does not fit waits on disk.
            Unset: most of what the machine has free.
        postprocessing: See `foveal.predict`.
        plugins: Files of the models' networks, if plugins added them; they are run.

    Raises:
        RunError: It is none of these, is damaged, or the models do not agree.
        PluginError: A network is a plugin's, which was not given.
        SettingsError: What follows the networks is not clear, or damaged.
    """
    each = read_each(model, plugins)
    stored = [one for _, found in each for one in found]
    return Ensemble(
        ModelsInTurn(stored, device),
        mirror=mirror,
        dropout_passes=dropout_passes,
        weights=None if weights is None else tuple(weights),
        fusion=fusion,
        memory_bytes=memory_bytes,
        steps=building.steps(postprocessing_of(each, postprocessing)),
    )


def postprocessing_of(
    models: Sequence[tuple[Path, Sequence[StoredModel]]],
    chosen: Path | str | None = None,
) -> PostprocessingConfig:
    """What follows the networks of all that is given.

    Args:
        models: As `read_each` gives them.
        chosen: A file to use in place of their own, or ``"none"``.

    Raises:
        SettingsError: They have unlike ones, one was chosen with other models than are
            there now, or the file is absent or damaged.
    """
    if chosen is not None:
        if str(chosen) == "none":
            return PostprocessingConfig()
        if not Path(chosen).exists():
            raise SettingsError(
                f"{chosen} does not exist; give a postprocessing.toml as the tune "
                "commands write it, or none"
            )
        return read_postprocessing(Path(chosen))
    own = {str(path): _own_postprocessing(path, found) for path, found in models}
    if not own:
        return PostprocessingConfig()
    first, *others = own.values()
    if any(other.effects != first.effects for other in others):
        raise SettingsError(
            f"{', '.join(own)} have different postprocessing; choose one with "
            "--postprocessing FILE, or --postprocessing none"
        )
    return first


def _own_postprocessing(
    path: Path, stored: Sequence[StoredModel]
) -> PostprocessingConfig:
    if path.is_file():
        table = read_model_file(path).postprocessing
        return parse_postprocessing(table, f"what follows the networks of {path}")
    own = read_postprocessing(RunDirectory(path).postprocessing)
    if own.made_of and own.effects != PostprocessingConfig():
        _require_made_of(path, own.made_of, stored)
    return own


def _require_made_of(
    path: Path, made_of: Sequence[str], stored: Sequence[StoredModel]
) -> None:
    if tuple(made_of) != tuple(model.digest for model in stored):
        raise SettingsError(
            f"postprocessing.toml of {path} was chosen with other weights or settings "
            "of prediction than are used now; run foveal calibrate, tune-crf or "
            "tune-components again, or give --postprocessing FILE, or none"
        )


def read_models(
    paths: Paths, plugins: Sequence[Path | str | Plugin] = ()
) -> tuple[StoredModel, ...]:
    """Read every model that paths stand for, in this order.

    Raises:
        RunError: A path is no run, folder of runs or model file, is damaged, or is a
            cross-validation of which a fold is not finished.
        PluginError: A network is a plugin's, which was not given.
    """
    return tuple(stored for _, found in read_each(paths, plugins) for stored in found)


def read_each(
    paths: Paths,
    plugins: Sequence[Path | str | Plugin] = (),
    *,
    snapshots: bool = False,
) -> tuple[tuple[Path, tuple[StoredModel, ...]], ...]:
    """Every path with the models that it stands for, in this order.

    Raises:
        RunError: As `read_models`, or as `read_snapshots` for snapshots.
        PluginError: A network is a plugin's, which was not given.
    """
    given = read_plugins(plugins)
    listed = [paths] if isinstance(paths, Path | str) else paths
    read = _snapshots_at if snapshots else _models_at
    return tuple((Path(path), tuple(read(Path(path), given))) for path in listed)


def stored_model_of(run: RunDirectory, plugins: Sequence[Plugin] = ()) -> StoredModel:
    """The best predictor of a run.

    Args:
        run: Its copies of plugins are never run.
        plugins: Only that of the network is needed, if the run has one of its own.

    Raises:
        RunError: The run has no checkpoint yet, or it is damaged.
        PluginError: That plugin was not given, or another one.
    """
    run = open_run(run.path)
    path = run.best_or_last
    try:
        opened = open_checkpoint(path)
    except RunError as error:
        # Never other weights unasked: the scores of the run are of the best ones.
        raise RunError(
            f"{error}; copy the run again from where it was trained, or delete this "
            "file to predict with the next of best, last and previous"
        ) from error
    return _stored_model(run, opened, plugins)


def read_snapshots(
    paths: Paths, plugins: Sequence[Path | str | Plugin] = ()
) -> tuple[StoredModel, ...]:
    """The snapshots of every run that paths stand for, in order of step.

    Raises:
        RunError: As `read_models`; or a run has no snapshots, or is a model file, which
            holds none.
        PluginError: A network is a plugin's, which was not given.
    """
    each = read_each(paths, plugins, snapshots=True)
    return tuple(stored for _, found in each for stored in found)


def _snapshots_at(path: Path, plugins: Sequence[Plugin]) -> list[StoredModel]:
    if not path.is_dir():
        raise RunError(
            f"{path} is no run, and only runs have snapshots; give the folder that "
            "foveal train wrote with schedule.name=cyclic"
        )
    stored = []
    for run in finished_runs(path):
        found = snapshots(run.checkpoints)
        if not found:
            raise RunError(
                f"{run.path} has no snapshots; train with schedule.name=cyclic, or "
                "leave out --snapshots"
            )
        opened = open_run(run.path)
        stored += [
            _stored_model(opened, open_checkpoint(each), plugins) for each in found
        ]
    return stored


def _stored_model(
    run: RunDirectory,
    checkpoint: tuple[StoredTensors, Mapping[str, Any]],
    plugins: Sequence[Plugin],
) -> StoredModel:
    """The predictor in a checkpoint of a run, as `open_checkpoint` gives it."""
    settings, _ = read_settings(run.settings)
    plan = read_plan(run.plan)
    needed = plugins_for_network(run, plan.network.name, plugins)
    tensors, state = checkpoint
    # Before the task was kept there were no plugins' classifiers.
    known = building.METHODS.get(settings.method.name)
    task = state.get("task", known.task if known else "segmentation")
    return StoredModel(
        plan,
        settings,
        tensors.under("predictor."),
        needed,
        is_classifier=task == "classification",
    )


def _models_at(path: Path, plugins: Sequence[Plugin]) -> list[StoredModel]:
    if not path.exists():
        raise RunError(
            f"{path} does not exist; give a run (the folder that foveal train wrote), "
            "a folder of runs, an ensemble, or a model file that foveal export wrote"
        )
    if path.is_dir():
        return [stored_model_of(run, plugins) for run in finished_runs(path)]
    content = read_model_file(path)
    return [
        StoredModel(
            parse_plan(member.plan, f"the plan in {path}"),
            changed_settings(Settings(), member.settings),
            member.weights,
            _given_plugins(path, member, plugins),
        )
        for member in content.members
    ]


def _given_plugins(
    path: Path, member: MemberContent, plugins: Sequence[Plugin]
) -> tuple[Plugin, ...]:
    """Plugins that a network of a model file needs, among those given."""
    by_digest = {plugin.digest: plugin for plugin in plugins}
    for name, digest in member.plugins:
        if digest not in by_digest:
            raise PluginError(
                f"the network of {path} comes from the plugin {name} (blake2b "
                f"{digest}), which a model file does not hold; get that file from "
                "whoever made the model and, if you trust it, add --plugin FILE"
            )
    return tuple(by_digest[digest] for _, digest in member.plugins)
