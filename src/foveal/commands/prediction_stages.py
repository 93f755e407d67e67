"""One case after another from its files to its prediction: read, compute, write."""

import errno
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foveal import __version__
from foveal.case import Case, CaseFiles
from foveal.commands.models import StoredModel
from foveal.commands.prediction_folder import Asked, Drawn
from foveal.engine.loop import is_out_of_memory
from foveal.ensembles.fused import FusedRows
from foveal.ensembles.members import Ensemble
from foveal.ensembles.prediction import Prediction, StructureFacts, maps_of
from foveal.errors import CaseError, FovealError
from foveal.geometry import reorientation
from foveal.inference.record import InputFile, Outcome, OutputFile, RecordWriter
from foveal.io.cases import read_case
from foveal.io.files import replace_file
from foveal.io.volumes import write_volume
from foveal.planning.departures import departures, look_at
from foveal.preprocessing.sources import FileDigests

OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""What a full disk or a read-only folder raises: no later case could be written."""


DIGITS = 4
"""After the point, of what the record tells of structures."""


@dataclass(eq=False)
class Job:
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
    header: object = None
    prediction: Prediction | None = None
    maps: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict)
    """What else is written of it, `Drawn.maps`: stored order, in a temporary file."""

    error: str = ""
    seconds: float = 0.0


class Stages:
    """Read, compute, write; each keeps what is a case's own fault to the case."""

    def __init__(
        self,
        stored: Sequence[StoredModel],
        ensemble: Ensemble,
        asked: Asked,
        drawn: Drawn,
        record: RecordWriter | None,
        staging: Path,
    ) -> None:
        self._stored, self._ensemble, self._asked = stored, ensemble, asked
        self._drawn = drawn
        self._record, self._staging = record, staging
        self._digests = FileDigests()

    def read(self, job: Job) -> Job:
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
                replace(job.files, weight_map=None),  # only training uses it
                resample_channels=self._ensemble.resample_channels,
            )
            job.reasons = self._departures(case)
            job.case = case
        except (FovealError, OSError, MemoryError) as error:
            job.error = _words(job.files.name, error)
        job.seconds += time.perf_counter() - start
        return job

    def compute(self, job: Job) -> Job:
        """Predict a case that was read."""
        case, job.case = job.case, None
        if case is None:
            return job
        start = time.perf_counter()
        try:
            self._predict(job, case)
        except (FovealError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            job.error = _words(job.files.name, error)
        job.seconds += time.perf_counter() - start
        return job

    def write(self, job: Job) -> Outcome:
        """Write a prediction and its line of the record."""
        if job.is_finished and job.earlier is not None:
            return job.earlier
        start = time.perf_counter()
        staged: dict[Path, Path] = {}
        try:
            if job.prediction is not None:
                staged = self._staged(job, job.prediction)
        except (FovealError, OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno in OUTPUT_ERRORS:
                raise
            job.error = _words(job.files.name, error)
        job.seconds += time.perf_counter() - start
        outcome = self._outcome(job, staged)
        job.prediction, job.maps = None, {}
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
            for number, channel in files.numbered_channels.items()
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
        if len(case.image) != len(self._ensemble.task.channel_names):
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

    def _predict(self, job: Job, case: Case) -> None:
        turn = reorientation(case.grid, self._ensemble.task.orientation)
        shape = turn.apply_to_grid(case.grid).shape
        wanted, names = self._drawn.maps, list(self._ensemble.structures)
        gathered = [_array_on_disk(shape, self._staging) for _ in wanted]

        def take_rows(block: FusedRows) -> None:
            rows = slice(block.first, block.first + block.probabilities.shape[1])
            maps = maps_of(block, tuple(self._ensemble.structures.values()))
            for place, (what, structure) in enumerate(wanted):
                number = names.index(structure) if structure else 0
                gathered[place][rows] = maps[what][number].numpy()

        job.prediction = self._ensemble.prediction(
            case,
            take_rows=take_rows if wanted else None,
            wants_spread=any(what != "probabilities" for what, _ in wanted),
            folder=self._staging,
        )
        job.header = case.header
        job.maps = {
            name: turn.undo(values)
            for name, values in zip(wanted, gathered, strict=True)
        }

    def _staged(self, job: Job, prediction: Prediction) -> dict[Path, Path]:
        """Write the files of a case aside; each to where it belongs."""
        folder = Path(tempfile.mkdtemp(dir=self._staging))
        staged = {}
        for (what, structure), path in self._drawn.files(job.target).items():
            array: NDArray[Any]
            if what == "label map":
                array = prediction.label_map
            elif what == "mask":
                values = self._drawn.masks[structure]
                array = np.isin(prediction.label_map, values)
            else:
                array = job.maps[what, structure]
            temporary = folder / path.relative_to(job.target.parent)
            write_volume(temporary, array, prediction.grid, job.header)
            staged[temporary] = path
        return staged

    def _outcome(self, job: Job, staged: Mapping[Path, Path]) -> Outcome:
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
            structures={}
            if job.prediction is None or job.error
            else {
                name: _rounded(facts)
                for name, facts in job.prediction.structures.items()
            },
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _rounded(facts: StructureFacts) -> dict[str, Any]:
    """As the record keeps them; a tenth of a microlitre is less than a voxel."""
    interval = facts.volume_interval_ml
    expected = facts.expected_dice
    return {
        "volume_ml": round(facts.volume_ml, DIGITS),
        "volume_interval_ml": None
        if interval is None
        else (round(interval[0], DIGITS), round(interval[1], DIGITS)),
        "expected_dice": None if expected is None else round(expected, DIGITS),
    }


def _kept_outputs(job: Job) -> list[Path]:
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
