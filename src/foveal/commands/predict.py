"""Predict cases, one or thousands: label maps, and a record of what became of each."""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foveal import __version__, build
from foveal.case import Case, CaseFiles
from foveal.commands.models import Paths, StoredModel, read_models
from foveal.commands.plan import usable_threads
from foveal.engine.loop import is_out_of_memory
from foveal.ensembles.members import Ensemble
from foveal.errors import CaseError, DatasetError, FovealError, RunError
from foveal.geometry import Grid, reorientation
from foveal.inference.overlap import overlapped
from foveal.inference.record import (
    RECORD_FILE,
    InputFile,
    Outcome,
    OutputFile,
    RecordWriter,
    open_record,
    read_outcomes,
)
from foveal.inference.restore import structure_probabilities
from foveal.io.cases import read_case
from foveal.io.file_names import require_different_names, require_file_name
from foveal.io.files import replace_file
from foveal.io.inputs import cases_to_predict
from foveal.io.volumes import case_stem, volume_ending, write_volume
from foveal.planning.departures import departures, look_at
from foveal.plugins.registration import Plugin
from foveal.preprocessing.sources import FileDigests
from foveal.unfinished import remove_abandoned, unfinished

OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""What a full disk or a read-only folder raises: no later case could be written."""

NAMES_SHOWN = 5
"""Files listed in an error message."""

ENDINGS_OF_OUTPUTS = {".mhd": ".mha", ".seg.nrrd": ".nrrd"}
"""For inputs whose own ending no output takes: the first is two files, which cannot
be put into place in one step; the second says that 3D Slicer wrote it."""


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
    place = _place(cases, Path(output))
    asked = _Asked(
        models=tuple(one.digest for one in stored),
        options={"probabilities": probabilities},
        device=build.resolved_device(device),
    )
    drawn = _Drawn(
        masks=ensemble.structure_values if ensemble.separate_masks else {},
        probabilities=tuple(ensemble.structures) if probabilities else (),
    )
    if drawn.masks and place.record is None:
        raise CaseError(
            f"the model gives one mask per structure, which {output} cannot hold; give "
            "a folder"
        )
    _require_file_names(Path(output), drawn)

    def recorded_jobs() -> list[_Job]:
        earlier = _earlier_predictions(place, asked, resume=resume)
        _refuse_to_replace(cases, place, earlier, drawn)
        return [
            _Job(files, place.targets[files.name], earlier.get(files.name))
            for files in cases
        ]

    recorded_jobs()  # What is refused here leaves no trace in the folder.
    outcomes = []
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        with _record(place) as record, _staging_folder(place) as staging:
            # Again, as until now another program could predict into the folder.
            jobs = recorded_jobs()
            stages = _Stages(stored, ensemble, asked, drawn, record, staging)
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


# ------------------------------------------------------------------ before the work


@dataclass(frozen=True)
class _Asked:
    """What decides the predictions, besides the inputs."""

    models: tuple[str, ...]
    options: dict[str, Any]
    device: str


@dataclass(frozen=True)
class _Drawn:
    """What is written of every case."""

    masks: Mapping[str, Sequence[int]]
    """Structure to its label values, if each gets a mask of its own in place of a label
    map."""

    probabilities: Sequence[str]
    """Structures whose probabilities are wanted."""

    def files(self, target: Path) -> dict[tuple[str, str], Path]:
        """What (label map, mask or probabilities) of which structure to its file.

        Args:
            target: Label map of the case; with masks, its name is that of a folder.
        """
        ending, stem = volume_ending(target), case_stem(target)
        folder = target.parent / "probabilities" / stem
        files = {
            ("probabilities", name): folder / f"{name}{ending}"
            for name in self.probabilities
        }
        if not self.masks:
            return files | {("label map", ""): target}
        return files | {
            ("mask", name): target.parent / stem / f"{name}{ending}"
            for name in self.masks
        }


@dataclass(frozen=True)
class _Place:
    """Where predictions go."""

    folder: Path

    targets: dict[str, Path]
    """Case to its label map, see `_Drawn.files`."""

    record: Path | None
    """``None`` for a single file, whose folder is not Foveal's."""


def _place(cases: Sequence[CaseFiles], output: Path) -> _Place:
    """One file per case, no two of them the same."""
    if not cases:
        raise CaseError("the input holds no case; give a volume or a folder of them")
    if len(cases) == 1 and output.suffix and not output.is_dir():
        ending = volume_ending(output)
        if ending in ENDINGS_OF_OUTPUTS:
            raise CaseError(
                f"{output} cannot be the output, as no prediction is written as "
                f"{ending}; give {case_stem(output)}{ENDINGS_OF_OUTPUTS[ending]}"
            )
        return _Place(output.parent, {cases[0].name: output}, None)
    if output.is_file():
        raise RunError(f"{output} is a file; give a folder for the label maps")
    for case in cases:
        require_file_name(case.name, "case")
    repeated = [
        name
        for name, count in Counter(case.name for case in cases).items()
        if count > 1
    ]
    if repeated:
        raise CaseError(
            f"{len(repeated)} names are those of several cases, for example "
            f"{repeated[0]}, which would be written to one file; rename the inputs"
        )
    return _Place(
        output,
        {case.name: output / f"{case.name}{_ending_of_output(case)}" for case in cases},
        output / RECORD_FILE,
    )


def _ending_of_output(case: CaseFiles) -> str:
    ending = volume_ending(case.channels[0].path)
    return ENDINGS_OF_OUTPUTS.get(ending, ending)


def _require_file_names(output: Path, drawn: _Drawn) -> None:
    """Refuse structures that cannot name files; a model may come from anybody."""
    structures = dict.fromkeys((*drawn.masks, *drawn.probabilities))
    try:
        for name in structures:
            require_file_name(name, "structure")
        require_different_names(
            output, [(name, None) for name in structures], "structure"
        )
    except DatasetError as error:
        raise RunError(
            f"the structures of this model cannot name the files to be written: {error}"
        ) from error


def _earlier_predictions(
    place: _Place, asked: _Asked, *, resume: bool
) -> dict[str, Outcome]:
    """What is recorded in the folder: the last of every case that did not fail."""
    if place.record is None:
        return {}
    outcomes = read_outcomes(place.record)
    if outcomes and not resume:
        raise RunError(
            f"{place.folder} already holds predictions, {len(outcomes)} recorded in "
            f"{RECORD_FILE}; add --resume to go on there, or give another folder"
        )
    for outcome in outcomes:
        for what, recorded, wanted in (
            ("models", outcome.models, asked.models),
            ("options", outcome.options, asked.options),
        ):
            if recorded != wanted:
                raise RunError(
                    f"the predictions in {place.folder} were made with other {what} "
                    f"({_shown(recorded)}) than those given now ({_shown(wanted)}); "
                    "resume with the same, or give another folder"
                )
    return {outcome.case: outcome for outcome in outcomes if outcome.status != "failed"}


def _shown(value: tuple[str, ...] | dict[str, Any]) -> str:
    """Digests or options, to compare by eye."""
    if isinstance(value, tuple):
        return " + ".join(value)
    return ", ".join(f"{name} = {entry}" for name, entry in value.items())


def _refuse_to_replace(
    cases: Sequence[CaseFiles],
    place: _Place,
    earlier: Mapping[str, Outcome],
    drawn: _Drawn,
) -> None:
    """Refuse targets that are inputs, shared, or not known to be Foveal's."""
    inputs = {channel.path.resolve() for case in cases for channel in case.channels}
    for case in cases:
        inputs |= {path.resolve() for path in (case.label_map, case.mask) if path}
        inputs |= {part.path.resolve() for part in case.structure_files}
    taken = []
    written: dict[str, Path] = {}
    for case in cases:
        files = drawn.files(place.targets[case.name]).values()
        for file in files:
            other = written.setdefault(str(file).casefold(), file)
            if other is not file:
                raise CaseError(
                    f"{file} and {other} would be one file where upper and lower case "
                    "are the same; rename one of the cases or structures"
                )
            if file.resolve() in inputs:
                raise CaseError(
                    f"{file} is an input and would be overwritten; give another output"
                )
        recorded = earlier[case.name].outputs if case.name in earlier else ()
        own = {place.folder / output.file for output in recorded}
        taken += [file for file in files if file.exists() and file not in own]
    if taken:
        names = ", ".join(file.name for file in taken[:NAMES_SHOWN])
        raise CaseError(
            f"{place.folder} already holds {len(taken)} files that would be "
            f"overwritten ({names}); move them, or give another output"
        )


# ------------------------------------------------------------------------- the work


@dataclass(eq=False)
class _Job:
    """One case on its way from file to file."""

    files: CaseFiles
    target: Path

    earlier: Outcome | None
    """A prediction of this case that is recorded already."""

    is_finished: bool = False
    """The earlier prediction is still there and right."""

    inputs: tuple[InputFile, ...] = ()
    case: Case | None = None
    reasons: list[str] = field(default_factory=list)
    prediction: "_Prediction | None" = None
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class _Prediction:
    """What is written of a case."""

    label_map: NDArray[np.integer]
    grid: Grid
    header: object

    probabilities: dict[str, NDArray[np.float32]]
    """Structure to ``(i, j, k)``, in a temporary file; empty unless asked for."""


def _record(place: _Place) -> contextlib.AbstractContextManager[RecordWriter | None]:
    if place.record is None:
        return contextlib.nullcontext()
    return open_record(place.record)


@contextlib.contextmanager
def _staging_folder(place: _Place) -> Iterator[Path]:
    """A folder for what is not whole yet; gone afterwards."""
    remove_abandoned(place.folder)
    with unfinished(place.folder / "predictions", Path.mkdir) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Stages:
    """Read, compute, write; each keeps what is a case's own fault to the case."""

    def __init__(
        self,
        stored: Sequence[StoredModel],
        ensemble: Ensemble,
        asked: _Asked,
        drawn: _Drawn,
        record: RecordWriter | None,
        staging: Path,
    ) -> None:
        self._stored, self._ensemble, self._asked = stored, ensemble, asked
        self._drawn = drawn
        self._record, self._staging = record, staging
        self._digests = FileDigests()

    def read(self, job: _Job) -> _Job:
        """Read a case, unless its prediction is there already."""
        start = time.perf_counter()
        try:
            job.inputs = self._input_files(job.files)
            if job.earlier is not None:
                folder = job.target.parent
                files = [folder / output.file for output in job.earlier.outputs]
                is_there = all(file.exists() for file in files)
                if is_there and job.earlier.is_of(job.inputs):
                    job.is_finished = True
                    return job
                self._refuse_to_replace_changed(folder, job.earlier)
            case = read_case(
                job.files, resample_channels=self._ensemble.resample_channels
            )
            job.reasons = self._departures(case)
            job.case = case
        except (FovealError, OSError, MemoryError) as error:
            job.error = _words(job.files.name, error)
        job.seconds += time.perf_counter() - start
        return job

    def compute(self, job: _Job) -> _Job:
        """Predict a case that was read."""
        case, job.case = job.case, None
        if case is None:
            return job
        start = time.perf_counter()
        try:
            job.prediction = self._prediction(case)
        except (FovealError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            job.error = _words(job.files.name, error)
        job.seconds += time.perf_counter() - start
        return job

    def write(self, job: _Job) -> Outcome:
        """Write a prediction and its line of the record."""
        if job.is_finished and job.earlier is not None:
            return job.earlier
        start = time.perf_counter()
        staged: dict[Path, Path] = {}
        try:
            if job.prediction is not None:
                staged = self._staged(job.prediction, job.target)
        except (FovealError, OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno in OUTPUT_ERRORS:
                raise
            job.error = _words(job.files.name, error)
        job.prediction = None
        job.seconds += time.perf_counter() - start
        outcome = self._outcome(job, staged)
        if staged:
            # The record is written first: a kill in between must leave no older file
            # under the line of this one.
            for path in _kept_outputs(job):
                path.unlink()
        if self._record is not None:
            self._record.append(outcome)
        for temporary, path in staged.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(temporary, path)
        return outcome

    def _input_files(self, files: CaseFiles) -> tuple[InputFile, ...]:
        paths = {
            f"channel {number}": channel.path
            for number, channel in enumerate(files.channels)
        }
        if files.mask is not None:
            paths["mask"] = files.mask
        try:
            return tuple(
                InputFile(role, path.name, self._digests.digest(path))
                for role, path in paths.items()
            )
        except OSError as error:
            raise CaseError(
                f"case {files.name}: {error.filename} cannot be read "
                f"({error.strerror}); correct the path or take the case out"
            ) from error

    def _refuse_to_replace_changed(self, folder: Path, earlier: Outcome) -> None:
        for output in earlier.outputs:
            path = folder / output.file
            if path.exists() and self._digests.digest(path) != output.blake2b:
                raise CaseError(
                    f"case {earlier.case} is to be predicted again, but its "
                    f"prediction {output.file} was changed since it was written, "
                    "perhaps corrected by hand; move it away first"
                )

    def _departures(self, case: Case) -> list[str]:
        """Where a case is unlike the training cases of any of the models."""
        if len(case.image) != self._ensemble.num_channels:
            return []
        seen = look_at(case)
        found = [
            reason
            for one in self._stored
            for reason in departures(
                seen, one.plan.fingerprint, one.plan.preprocessing.channels
            )
        ]
        return list(dict.fromkeys(found))

    def _prediction(self, case: Case) -> _Prediction:
        if not self._asked.options["probabilities"]:
            return _Prediction(self._ensemble.predict(case), case.grid, case.header, {})
        turn = reorientation(case.grid, self._ensemble.orientation)
        structures = self._ensemble.structures
        shape = (len(structures), *turn.apply_to_grid(case.grid).shape)
        gathered = _array_on_disk(shape, self._staging)

        def take_rows(start: int, block: torch.Tensor) -> None:
            gathered[:, start : start + block.shape[1]] = structure_probabilities(
                block, tuple(structures.values())
            ).numpy()

        label_map = self._ensemble.predict(case, take_rows)
        volumes = zip(structures, gathered, strict=True)
        return _Prediction(
            label_map,
            case.grid,
            case.header,
            {structure: turn.undo(values) for structure, values in volumes},
        )

    def _staged(self, prediction: _Prediction, target: Path) -> dict[Path, Path]:
        """Write the files of a case aside; each to where it belongs."""
        folder = Path(tempfile.mkdtemp(dir=self._staging))
        staged = {}
        for (what, structure), path in self._drawn.files(target).items():
            array = self._array(prediction, what, structure)
            temporary = folder / path.relative_to(target.parent)
            write_volume(temporary, array, prediction.grid, prediction.header)
            staged[temporary] = path
        return staged

    def _array(
        self, prediction: _Prediction, what: str, structure: str
    ) -> NDArray[Any]:
        if what == "probabilities":
            return prediction.probabilities[structure]
        if what == "mask":
            return np.isin(prediction.label_map, self._drawn.masks[structure])
        return prediction.label_map

    def _outcome(self, job: _Job, staged: Mapping[Path, Path]) -> Outcome:
        status: Literal["done", "suspect", "failed"] = "done"
        reasons = tuple(job.reasons)
        if job.error:
            status = "failed"
            reasons = (job.error,)
            kept = ", ".join(path.name for path in _kept_outputs(job))
            if kept:
                reason = (
                    f"an earlier prediction, {kept}, is still there; it may be of "
                    "other input than there is now"
                )
                reasons = (job.error, reason)
        elif reasons:
            status = "suspect"
        return Outcome(
            case=job.files.name,
            status=status,
            outputs=tuple(
                OutputFile(
                    path.relative_to(job.target.parent).as_posix(),
                    FileDigests().digest(temporary),
                )
                for temporary, path in staged.items()
            ),
            reasons=reasons,
            inputs=job.inputs,
            models=self._asked.models,
            options=self._asked.options,
            device=self._asked.device,
            foveal=__version__,
            seconds=round(job.seconds, 3),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _kept_outputs(job: _Job) -> list[Path]:
    """What is still there of an earlier prediction."""
    outputs = () if job.earlier is None else job.earlier.outputs
    paths = [job.target.parent / output.file for output in outputs]
    return [path for path in paths if path.exists()]


def _array_on_disk(shape: tuple[int, ...], folder: Path) -> NDArray[np.float32]:
    """Zeros in a temporary file, which is gone when the array is.

    Raises:
        OSError: The disk is too full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            # A disk that is full would otherwise end the program when it is written to.
            size = int(np.prod(shape)) * np.dtype(np.float32).itemsize
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.float32, "w+", shape=shape)


def _words(case: str, error: BaseException) -> str:
    """An error as a reason in the record, which names the case already."""
    if isinstance(error, FovealError):
        return str(error).removeprefix(f"case {case}: ")
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'} cannot be read or written ({error})"
    return (
        f"memory ran out ({error}); predict it on a machine with more memory, or with "
        "other programs closed"
    )
