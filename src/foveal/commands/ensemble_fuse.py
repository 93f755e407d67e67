"""Fuse segmentations that people or programs made of the same cases."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from foveal.case import Volume
from foveal.commands.evaluate import OnProgress
from foveal.commands.fusion_record import RECORD_FILE, Agreement, CaseRecord, Fusion
from foveal.commands.fusion_sources import FusedCase, Sources, find_sources
from foveal.commands.fusion_weights import (
    SourceWeight,
    weight_of_labels,
    weight_of_mask,
    weights_of_sources,
)
from foveal.commands.prediction_folder import ENDINGS_OF_OUTPUTS
from foveal.ensembles.staple import staple_of
from foveal.ensembles.votes import Votes, gather_votes
from foveal.ensembles.voting import Weight, majority_of, weighted_of
from foveal.errors import CaseError, DatasetError, SettingsError
from foveal.in_threads import for_each
from foveal.io.file_names import require_different_names, require_file_name
from foveal.io.files import atomic_write_text
from foveal.io.label_maps import integer_label_map, require_same_grid
from foveal.io.volumes import (
    case_stem,
    is_volume,
    read_volume,
    volume_ending,
    write_volume,
)
from foveal.preprocessing.sources import FileDigests
from foveal.unfinished import remove_abandoned, unfinished

Method = Literal["majority", "weighted", "staple"]

MAX_THREADS = 4
"""Cases in memory at once."""


def fuse(
    sources: Sequence[Path | str],
    output: Path | str,
    *,
    method: Method = "majority",
    weights: Sequence[float] | None = None,
    weights_from: Sequence[Path | str] | None = None,
    allow_missing: bool = False,
    on_progress: OnProgress | None = None,
) -> Fusion:
    """Fuse label maps, or masks per structure, that several sources hold of each case.

    Cases are matched by name, never by order: the file name without its ending, or the
    name of the case's folder of masks. Masks are fused structure by structure, so that
    those that lie over one another stay so. Every result has the grid and header of the
    first source that holds the case.

    Args:
        sources: Two or more folders, or label maps of one case.
        output: Folder, absent or empty; or a file for the label maps of one case.
        method: ``"majority"``, ``"weighted"`` or ``"staple"``.
        weights: Of each source, for ``"weighted"``.
        weights_from: In their place, a ``metrics.json`` or run per source, whose mean
            Dice are the weights.
        allow_missing: Fuse a case, or a mask, that some sources lack from the others.
        on_progress: Told cases done, cases in all and the name of the last.

    Returns:
        What is also written as ``fusion.json`` into the folder, or as
        ``NAME.fusion.json`` beside the file.

    Raises:
        DatasetError: The sources do not match, or the output is taken.
        CaseError: A file cannot be read, or the grids of a case differ.
        SettingsError: The method is unknown, or weights are wrong or unused.
        EvaluationError: Of ``weights_from``, one cannot be read.
    """
    if method not in get_args(Method):
        raise SettingsError(
            f'method "{method}" is unknown; it must be one of '
            f"{', '.join(get_args(Method))}"
        )
    paths, output = [Path(source) for source in sources], Path(output)
    found = find_sources(paths, allow_missing=allow_missing)
    measured = None if weights_from is None else [Path(one) for one in weights_from]
    fuser = _Fuser(
        method, weights_of_sources(list(found.paths), method, weights, measured)
    )
    to_file = all(path.is_file() for path in paths)
    if to_file:
        record_path = _require_free_file(output)
    else:
        record_path = output / RECORD_FILE
        _require_free_folder(output)
        _require_file_names(found, output)

    def fuse_into(folder: Path) -> Fusion:
        def fuse_case(case: FusedCase) -> CaseRecord:
            try:
                return fuser.fuse_case(case, folder, output.name if to_file else None)
            except (CaseError, SettingsError) as error:
                raise type(error)(f"case {case.name}: {error}") from error

        return Fusion(
            method=method,
            sources={name: str(path) for name, path in found.paths.items()},
            weights=fuser.weights,
            weights_from=[str(path) for path in measured or ()],
            cases=tuple(
                for_each(
                    fuse_case,
                    found.cases,
                    threads=min(MAX_THREADS, os.cpu_count() or 1),
                    name=lambda case: case.name,
                    on_progress=on_progress,
                )
            ),
        )

    # All or nothing: a half-fused folder would look like a whole one.
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(output.parent)
    with unfinished(output, Path.mkdir) as folder:
        try:
            fusion = fuse_into(folder)
            atomic_write_text(folder / record_path.name, fusion.to_json())
            if to_file:
                # The record first: no result is without one.
                (folder / record_path.name).rename(record_path)
                (folder / output.name).rename(output)
            else:
                if output.exists():
                    output.rmdir()
                folder.rename(output)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return fusion


def _require_free_file(output: Path) -> Path:
    """Refuse a file that is there or has no ending of a volume; path of its record."""
    if output.is_dir() or not is_volume(output):
        raise DatasetError(
            f"{output} is no name for a label map, but the sources are single files; "
            "give a file such as fused.nii.gz"
        )
    ending = volume_ending(output)
    if ending in ENDINGS_OF_OUTPUTS:
        raise DatasetError(
            f"no label map is written as {ending}; give "
            f"{case_stem(output)}{ENDINGS_OF_OUTPUTS[ending]}"
        )
    record = output.with_name(f"{case_stem(output)}.{RECORD_FILE}")
    for path in (output, record):
        if path.exists():
            raise DatasetError(
                f"{path} is there already and would be overwritten; give another output"
            )
    return record


def _require_free_folder(output: Path) -> None:
    if output.is_file() or is_volume(output):
        raise DatasetError(
            f"{output} names a file, but the sources are folders; give a folder"
        )
    if output.is_dir() and any(output.iterdir()):
        raise DatasetError(
            f"{output} holds files already, and nothing is overwritten; give another "
            "folder"
        )


def _require_file_names(found: Sources, output: Path) -> None:
    cases = [case.name for case in found.cases]
    for name in cases:
        require_file_name(name, "case")
    require_different_names(output, [(name, None) for name in cases], "case")
    for case in found.cases:
        own = [(structure, None) for structure in case.masks]
        require_different_names(output, own, "structure")


@dataclass
class _Fuser:
    """How every case is fused."""

    method: str
    weights: Mapping[str, SourceWeight]
    digests: FileDigests = field(default_factory=FileDigests)

    def fuse_case(self, case: FusedCase, folder: Path, name: str | None) -> CaseRecord:
        """Fuse one case and write it.

        Args:
            case: What the sources hold.
            folder: To write into.
            name: Of the label map; ``None``: that of the case, in the first's format.
        """
        outputs: dict[str, str] = {}
        agreement: dict[str, dict[str, Agreement]] = {}
        inputs: dict[str, dict[str, str]] = {}

        def fuse_files(files: Mapping[str, Path], file: str, structure: str) -> None:
            for source, path in files.items():
                inputs.setdefault(source, {})[path.name] = self.digests.digest(path)
            agreed = self._fuse_files(files, folder / file, structure)
            for source, own in agreed.items():
                agreement.setdefault(source, {}).update(own)
            outputs[file] = self.digests.digest(folder / file)

        if case.files:
            file = name or f"{case.name}{_ending(case.files)}"
            fuse_files(case.files, file, "")
        for structure, masks in case.masks.items():
            fuse_files(masks, f"{case.name}/{structure}{_ending(masks)}", structure)
        return CaseRecord(case.name, inputs, outputs, case.missing, agreement)

    def _fuse_files(
        self, files: Mapping[str, Path], target: Path, structure: str
    ) -> dict[str, dict[str, Agreement]]:
        """Fuse a label map, or one structure's masks; how each source compares."""
        stored: list[Volume] = []

        def values() -> Iterator[NDArray[Any]]:
            for source, path in files.items():
                volume = read_volume(path)
                if not stored:
                    stored.append(Volume(np.empty(0), volume.grid, volume.header))
                first = f"{structure or 'label map'} of {next(iter(files))}"
                own = f"{structure or 'label map'} of {source}"
                require_same_grid(first, stored[0].grid, own, volume.grid)
                if structure:
                    yield (volume.array > 0.5).view(np.uint8)
                else:
                    yield integer_label_map(volume.array)

        votes = gather_votes(values())
        decided, performance = self._decide(votes, list(files), structure)
        fused = votes.label_map(decided)
        write_volume(target, fused, stored[0].grid, stored[0].header)
        return _agreements(votes, decided, performance, list(files), structure)

    def _decide(
        self, votes: Votes, sources: Sequence[str], structure: str
    ) -> tuple[NDArray[np.intp], tuple[NDArray[np.float64], ...] | None]:
        """Label of each combination, and STAPLE's sensitivity and specificity."""
        if self.method == "majority":
            return majority_of(votes), None
        if self.method == "staple":
            estimated = staple_of(votes)
            performance = estimated.sensitivity, estimated.specificity
            return estimated.decided, performance
        weights: list[Weight] = [
            weight_of_mask(source, self.weights[source], structure)
            if structure
            else weight_of_labels(self.weights[source])
            for source in sources
        ]
        return weighted_of(votes, weights, sources), None


def _ending(files: Mapping[str, Path]) -> str:
    """Of the result: that of the first source's file, where results have it."""
    ending = volume_ending(next(iter(files.values())))
    return ENDINGS_OF_OUTPUTS.get(ending, ending)


def _agreements(
    votes: Votes,
    decided: NDArray[np.intp],
    performance: tuple[NDArray[np.float64], ...] | None,
    sources: Sequence[str],
    structure: str,
) -> dict[str, dict[str, Agreement]]:
    """Source to structure, or value other than 0, to how it compares."""
    dice = votes.dice(decided)
    voxels = votes.voxels
    nowhere = {structure: Agreement(0, float("nan"))} if structure else {}
    return {
        source: nowhere
        | {
            structure or str(label): Agreement(
                int(voxels[member, place]),
                float(dice[member, place]),
                *(float(values[member, place]) for values in performance or ()),
            )
            for place, label in enumerate(votes.labels)
            if label != 0
        }
        for member, source in enumerate(sources)
    }
