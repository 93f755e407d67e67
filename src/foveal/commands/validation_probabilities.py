"""Class probabilities of the validation cases, predicted once and kept.

What follows a network is chosen by them: a temperature, a CRF, rules for components.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from foveal import building
from foveal.case import CaseFiles
from foveal.commands.cases_of_folds import cases_of
from foveal.commands.folds import finished_runs
from foveal.commands.models import ModelsInTurn, stored_model_of
from foveal.commands.out_of_fold import dataset_of
from foveal.engine.ensemble_directory import (
    EnsembleDirectory,
    entered_runs,
    is_ensemble,
)
from foveal.engine.run_directory import RunDirectory
from foveal.ensembles.members import Ensemble
from foveal.errors import EvaluationError
from foveal.geometry import reorientation
from foveal.inference.predict import rows_at_once
from foveal.inference.restore import decided_classes
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_path, atomic_write_text
from foveal.planning.splits import read_splits
from foveal.plugins.files import read_plugins
from foveal.plugins.registration import Plugin
from foveal.preprocessing.labels import annotated_structures
from foveal.preprocessing.pipeline import reference_classes
from foveal.preprocessing.sources import FileDigests
from foveal.settings_files import read_plan, read_settings
from foveal.uncertainty.temperature import tempered


@dataclass(frozen=True, eq=False)
class ValidationCase:
    """A case that its predictor was not trained on, on its own voxels.

    All arrays are brought to the plan's orientation.
    """

    files: CaseFiles

    probabilities: Float[NDArray[np.float32], "class i j k"]
    """As the networks gave them, of sum 1; in half precision on the way."""

    image: Float[NDArray[np.float32], "channel i j k"]
    """As read."""

    spacing_mm: tuple[float, float, float]
    mask: NDArray[np.bool_] | None

    reference: NDArray[np.uint8]
    """Inside classes, 255 where not known."""

    annotated: tuple[bool, ...] | None
    """Per structure, whether it was contoured; ``None``: all."""

    num_cases: int
    """Validation cases in all."""

    def rows(self) -> Iterator[tuple[slice, Float[Tensor, "class rows j k"]]]:
        """Consecutive rows and their probabilities, a few at a time."""
        num_classes, length, *row_shape = self.probabilities.shape
        count = rows_at_once(num_classes, row_shape)
        for first in range(0, length, count):
            rows = slice(first, first + count)
            yield rows, torch.from_numpy(self.probabilities[:, rows])

    def decided(
        self, structures: Mapping[str, Sequence[int]], temperature: float = 1.0
    ) -> UInt8[NDArray[np.uint8], "i j k"]:
        """Inside classes, as prediction decides on them.

        Args:
            structures: Name to inside classes, in the order of the plan.
            temperature: Of the probabilities that are decided on.
        """
        members = tuple(structures.values())
        return np.concatenate(
            [
                decided_classes(tempered(block, temperature), members)
                .numpy()
                .astype(np.uint8)
                for _, block in self.rows()
            ]
        )


@dataclass(frozen=True)
class _Predictor:
    """One run, or the members of an ensemble, and the cases that they left out."""

    runs: tuple[RunDirectory, ...]
    cases: tuple[CaseFiles, ...]

    folder: Path
    """Of the probabilities."""


class ValidationCases:
    """Validation cases of a run, a cross-validation or an ensemble, one after another.

    Can be gone through several times; what is predicted once is kept beside the
    validation predictions, as long as weights and scans stay the same.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        plugins: Sequence[Path | str | Plugin] = (),
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        """Find the cases; nothing is predicted yet.

        Args:
            path: Of the run, the cross-validation or the ensemble.
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
            plugins: Files of the networks, if plugins added them; they are run.
            on_progress: Told cases done, cases in all and the name of the last.

        Raises:
            RunError: The path is none of these, or is not finished.
            EvaluationError: There is no validation case.
        """
        self._predictors = _predictors(path)
        self._device, self._on_progress = device, on_progress
        self._plugins, self._digests = read_plugins(plugins), FileDigests()
        self._plan = read_plan(self._predictors[0].runs[0].plan)
        self._recipe = building.preprocessing_recipe(self._plan)
        if not len(self):
            raise EvaluationError(
                f"{path} has no validation case to choose by; train with splits.folds "
                "of at least 2"
            )

    def __len__(self) -> int:
        return sum(len(one.cases) for one in self._predictors)

    @property
    def structures(self) -> Mapping[str, tuple[int, ...]]:
        """Name to inside classes, in the order of the plan."""
        return self._plan.labels.structures

    @property
    def digests(self) -> tuple[str, ...]:
        """Of all models, in the order in which `foveal.predict` has them."""
        return tuple(
            stored_model_of(run, self._plugins).digest
            for predictor in self._predictors
            for run in predictor.runs
        )

    @property
    def num_channels(self) -> int:
        """Of every case's image."""
        return len(self._recipe.channels)

    def __iter__(self) -> Iterator[ValidationCase]:
        done = 0
        for predictor in self._predictors:
            stored = [stored_model_of(run, self._plugins) for run in predictor.runs]
            ensemble = Ensemble(ModelsInTurn(stored, self._device))
            _keep_only_of(predictor.folder, [one.digest for one in stored])
            for files in predictor.cases:
                yield self._case(files, ensemble, predictor.folder)
                done += 1
                if self._on_progress:
                    self._on_progress(done, len(self), files.name)

    def _case(
        self, files: CaseFiles, ensemble: Ensemble, folder: Path
    ) -> ValidationCase:
        case = read_case(files, resample_channels=ensemble.resample_channels)
        path = folder / f"{files.name}.npy"
        made_of = path.with_suffix(".json")
        inputs = json.dumps([self._digests.digest(one) for one in _inputs(files)])
        if not (made_of.exists() and made_of.read_text(encoding="utf-8") == inputs):
            made_of.unlink(missing_ok=True)
            rows = list(ensemble.probabilities(case))
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, torch.cat(rows, dim=1).half().numpy())
            atomic_write_text(made_of, inputs)
        turn = reorientation(case.grid, self._recipe.orientation)
        reference = reference_classes(case, self._recipe, files.annotated)
        if reference is None:
            raise EvaluationError(f"case {files.name} has no reference any more")
        probabilities = np.load(path).astype(np.float32)
        # Half precision took the sum of 1 away.
        probabilities /= probabilities.sum(axis=0)
        return ValidationCase(
            files=files,
            probabilities=probabilities,
            image=np.ascontiguousarray(turn.apply(case.image)),
            spacing_mm=turn.apply_to_grid(case.grid).spacing_mm,
            mask=None
            if case.mask is None
            else np.ascontiguousarray(turn.apply(case.mask)),
            reference=np.ascontiguousarray(reference),
            annotated=annotated_structures(files.annotated, list(self.structures)),
            num_cases=len(self),
        )


def _predictors(path: Path) -> tuple[_Predictor, ...]:
    if is_ensemble(path):
        folder = EnsembleDirectory(path)
        runs = entered_runs(path)
        return (_Predictor(runs, _left_out(runs[0]), _folder(folder.validation)),)
    return tuple(
        _Predictor((run,), _left_out(run), _folder(run.validation))
        for run in finished_runs(path)
    )


def _folder(validation: Path) -> Path:
    return validation / "probabilities_of_classes"


def _left_out(run: RunDirectory) -> tuple[CaseFiles, ...]:
    """Labelled cases of the patients that a run validates on."""
    settings, _ = read_settings(run.settings)
    fold = read_splits(run.splits).folds[settings.splits.fold]
    return cases_of(read_dataset(dataset_of([run])), fold.validation)


def _inputs(files: CaseFiles) -> list[Path]:
    """What a prediction is made from."""
    channels = [channel.path for channel in files.channels]
    return channels if files.mask is None else [*channels, files.mask]


def _keep_only_of(folder: Path, digests: Sequence[str]) -> None:
    """Remove what other weights have predicted."""
    text = json.dumps(list(digests)) + "\n"
    made_of = folder / "made_of.json"
    if made_of.exists() and made_of.read_text(encoding="utf-8") == text:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    atomic_write_text(made_of, text)
