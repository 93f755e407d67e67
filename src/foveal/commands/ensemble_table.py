"""Members and ensembles of 2, 3, … of them in the validation cases.

In the manner of table 4.2 of Kamnitsas's thesis (Imperial College London 2019).
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foveal.case import Case, CaseFiles, Dataset
from foveal.commands.cases_of_folds import cases_of
from foveal.commands.evaluate import evaluate
from foveal.commands.fit import Watcher
from foveal.commands.models import ModelsInTurn, StoredModel, stored_model_of
from foveal.commands.plan import usable_threads
from foveal.commands.prediction_folder import Drawn, place_of
from foveal.config.ensemble import EnsembleConfig
from foveal.engine.ensemble_directory import EnsembleDirectory, MemberOutcome
from foveal.ensembles.growing import growing_label_maps
from foveal.ensembles.members import Ensemble
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_text
from foveal.io.volumes import write_volume
from foveal.metrics.comparison import Difference, System, compare_systems
from foveal.metrics.evaluation import Evaluation, without_nan
from foveal.planning.splits import read_splits
from foveal.plugins.registration import Plugin

FORMAT_VERSION = 1

SHOWN = ("dice", "sensitivity")
"""Metrics of the table."""


@dataclass(frozen=True)
class Score:
    """One metric of one structure over the validation cases. NaN: not defined."""

    structure: str
    metric: str
    mean: float
    std: float
    num_cases: int


@dataclass(frozen=True)
class SystemScores:
    """How well one member did, or the first few together."""

    name: str

    members: tuple[str, ...]
    """Whose probabilities are averaged; one for a member itself."""

    entered: bool
    """Whether all of them passed the entry rule."""

    scores: tuple[Score, ...]
    """By structure, then metric."""

    def find(self, structure: str, metric: str) -> Score:
        """The score of one metric of one structure.

        Raises:
            KeyError: It was not measured.
        """
        for score in self.scores:
            if (score.structure, score.metric) == (structure, metric):
                return score
        raise KeyError(f"{metric} of {structure} was not measured")


@dataclass(frozen=True)
class EnsembleTable:
    """Members and ensembles in numbers."""

    region: str
    threshold_dice: float
    outcomes: tuple[MemberOutcome, ...]
    structures: tuple[str, ...]

    systems: tuple[SystemScores, ...]
    """Measured members in the order of the file, then ensembles of the first two that
    entered, of the first three, and so on."""

    best_member: str
    """Of those that entered, by the Dice of the region. Chosen by the cases that it is
    measured on, so what the ensemble gains over it is seen small rather than large."""

    against_best: tuple[Difference, ...]
    """The whole ensemble less the best member; empty for an ensemble of one."""

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON; NaN is ``None``."""
        record: dict[str, Any] = without_nan(asdict(self))
        return {"format_version": FORMAT_VERSION, **record}


def ensemble_table(
    folder: EnsembleDirectory,
    config: EnsembleConfig,
    outcomes: Sequence[MemberOutcome],
    plugins: Sequence[Plugin],
    watcher: Watcher,
) -> EnsembleTable:
    """Predict the validation cases with ensembles of all sizes, and measure them.

    What is predicted already by the same weights is not predicted again.

    Args:
        folder: Gets ``validation``, ``ensembles``, ``metrics.json``, ``table.json``.
        config: Of the ensemble.
        outcomes: Of all members; at least one entered.
        plugins: Of the members' networks.
        watcher: Told of progress.

    Raises:
        FovealError: A case or a member cannot be read.
    """
    dataset = read_dataset(config.dataset)
    entered = [outcome.name for outcome in outcomes if outcome.entered]
    stored = [stored_model_of(folder.member(name), plugins) for name in entered]
    watcher.on_stage(
        f"predicting the validation cases with {len(entered)} member(s), one after "
        "another"
    )
    fold = read_splits(folder.splits).folds[config.fold]
    cases = cases_of(dataset, fold.validation)
    _predict(folder, entered, stored, cases, watcher)
    watcher.on_stage("measuring ensembles of all sizes")
    of_members = {
        outcome.name: evaluate(folder.member(outcome.name).path, regions=config.regions)
        for outcome in outcomes
        if outcome.dice is not None
    }
    of_ensembles = {
        count: _measured_ensemble(path, stored[0], config, dataset)
        for count, path in _folders(folder, len(entered)).items()
    }
    whole = of_ensembles[len(entered)]
    atomic_write_text(folder.metrics, whole.to_json())
    best = max(
        (outcome for outcome in outcomes if outcome.entered),
        key=lambda outcome: outcome.dice or 0.0,
    ).name
    table = EnsembleTable(
        region=config.entry.region,
        threshold_dice=config.entry.threshold_dice,
        outcomes=tuple(outcomes),
        structures=whole.structures,
        systems=(
            *(
                _scores(name, (name,), measured, entered=name in entered)
                for name, measured in of_members.items()
            ),
            *(
                _scores(
                    f"first {count}", tuple(entered[:count]), measured, entered=True
                )
                for count, measured in of_ensembles.items()
                if count > 1
            ),
        ),
        best_member=best,
        against_best=_against(of_members[best], whole) if len(entered) > 1 else (),
    )
    text = json.dumps(table.as_record(), indent=2, allow_nan=False)
    atomic_write_text(folder.table, text + "\n")
    return table


def _folders(folder: EnsembleDirectory, num_entered: int) -> dict[int, Path]:
    """Number of members to where what they predict together is kept."""
    smaller = {count: folder.of_first(count) for count in range(2, num_entered)}
    return smaller | {num_entered: folder.validation}


def _predict(
    folder: EnsembleDirectory,
    entered: Sequence[str],
    stored: Sequence[StoredModel],
    cases: Sequence[CaseFiles],
    watcher: Watcher,
) -> None:
    """Label maps of ensembles of all sizes; those that are there stay."""
    _keep_only_of(folder, entered, [one.digest for one in stored])
    device = stored[0].settings.training.device
    torch.set_num_threads(stored[0].settings.training.threads or usable_threads())
    ensemble = Ensemble(ModelsInTurn(stored, device))
    drawn = Drawn(
        masks=ensemble.structure_values if ensemble.task.separate_masks else {}
    )
    targets = {
        count: place_of(cases, path).targets
        for count, path in _folders(folder, len(entered)).items()
    }
    for number, files in enumerate(cases, start=1):
        wanted = {
            count: drawn.files(of_case[files.name])
            for count, of_case in targets.items()
        }
        missing = [
            path
            for paths in wanted.values()
            for path in paths.values()
            if not path.exists()
        ]
        if missing:
            case = read_case(files, resample_channels=ensemble.resample_channels)
            growing = growing_label_maps(ensemble, case, folder.made_of.parent)
            for count, label_map in enumerate(growing, start=1):
                for (_, structure), path in wanted.get(count, {}).items():
                    _write(path, label_map, case, drawn.masks.get(structure))
        if watcher.on_cases:
            watcher.on_cases(number, len(cases), files.name)


def _keep_only_of(
    folder: EnsembleDirectory, entered: Sequence[str], digests: Sequence[str]
) -> None:
    """Remove what other members, or these with other weights, have predicted."""
    made_of = dict(zip(entered, digests, strict=True))
    text = json.dumps(list(made_of.items()), indent=2) + "\n"
    path = folder.made_of
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    for old in (path.parent, folder.validation):
        shutil.rmtree(old, ignore_errors=True)
    atomic_write_text(path, text)


def _write(
    path: Path,
    label_map: NDArray[np.integer],
    case: Case,
    values: Sequence[int] | None,
) -> None:
    """Write a label map, or the mask of one structure in it."""
    array = label_map if values is None else np.isin(label_map, values)
    write_volume(path, array, case.grid, case.header)


def _measured_ensemble(
    path: Path, member: StoredModel, config: EnsembleConfig, dataset: Dataset
) -> Evaluation:
    labels = member.plan.labels
    values = {name: labels.structure_values[name] for name in dataset.structures}
    return evaluate(
        path,
        config.dataset,
        regions=config.regions,
        prediction_labels=None if labels.separate_masks else values,
    )


def _scores(
    name: str, members: tuple[str, ...], measured: Evaluation, *, entered: bool
) -> SystemScores:
    return SystemScores(
        name,
        members,
        entered,
        tuple(
            Score(one.structure, one.metric, one.mean, one.std, one.num_cases)
            for structure in measured.structures
            for metric in SHOWN
            for one in measured.summary
            if (one.structure, one.metric) == (structure, metric)
        ),
    )


def _against(best: Evaluation, whole: Evaluation) -> tuple[Difference, ...]:
    """The whole ensemble against its best member, paired by case."""
    systems = (System("best member", (best,)), System("ensemble", (whole,)))
    return compare_systems(systems, SHOWN).differences
