"""Where predictions go, and what there may not be replaced."""

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.case import CaseFiles
from foveal.errors import CaseError, DatasetError, RunError
from foveal.inference.record import (
    RECORD_FILE,
    Outcome,
    RecordWriter,
    open_record,
    read_outcomes,
)
from foveal.io.file_names import require_different_names, require_file_name
from foveal.io.volumes import case_stem, is_volume, volume_ending
from foveal.unfinished import remove_abandoned, unfinished

NAMES_SHOWN = 5
"""Files listed in an error message."""

ENDINGS_OF_OUTPUTS = {".mhd": ".mha", ".seg.nrrd": ".nrrd"}
"""For inputs whose own ending no output takes: the first is two files, which cannot
be put into place in one step; the second says that 3D Slicer wrote it."""


@dataclass(frozen=True)
class Asked:
    """What decides the predictions, besides the inputs."""

    models: tuple[str, ...]
    options: dict[str, Any]
    device: str


@dataclass(frozen=True)
class Drawn:
    """What is written of every case."""

    masks: Mapping[str, Sequence[int]]
    """Structure to its label values, if each gets a mask of its own in place of a label
    map."""

    maps: Sequence[tuple[str, str]] = ()
    """What else, as `foveal.ensembles.prediction.maps_of` names it, of which structure;
    of none where there is one map for all."""

    def files(self, target: Path) -> dict[tuple[str, str], Path]:
        """What (label map, mask or a name of ``maps``) of which structure to its file.

        Args:
            target: Label map of the case; with masks, its name is that of a folder.
        """
        ending, stem = volume_ending(target), case_stem(target)
        # A PNG holds whole numbers only.
        of_numbers = ".tif" if ending == ".png" else ending
        files = {
            (what, name): target.parent
            / _folder_of_map(what, stem, is_of_structure=bool(name))
            / f"{name or what}{of_numbers}"
            for what, name in self.maps
        }
        if not self.masks:
            return files | {("label map", ""): target}
        return files | {
            ("mask", name): target.parent / stem / f"{name}{ending}"
            for name in self.masks
        }


def _folder_of_map(what: str, stem: str, *, is_of_structure: bool) -> Path:
    if what == "probabilities":
        return Path(what, stem)
    of_case = Path("uncertainty", stem)
    return of_case / what if is_of_structure else of_case


@dataclass(frozen=True)
class Place:
    """Where predictions go."""

    folder: Path

    targets: dict[str, Path]
    """Case to its label map, see `Drawn.files`."""

    record: Path | None
    """``None`` for a single file, whose folder is not Foveal's."""


def place_of(cases: Sequence[CaseFiles], output: Path) -> Place:
    """One file per case, no two of them the same.

    Raises:
        CaseError: There is no case, two have one name, or no prediction can have the
            ending of a single file.
        DatasetError: A case cannot name a file.
        RunError: Several cases are to go into one file.
    """
    if not cases:
        raise CaseError("the input holds no case; give a volume or a folder of them")
    if len(cases) == 1 and output.suffix and not output.is_dir():
        ending = volume_ending(output)
        if ending in ENDINGS_OF_OUTPUTS:
            raise CaseError(
                f"{output} cannot be the output, as no prediction is written as "
                f"{ending}; give {case_stem(output)}{ENDINGS_OF_OUTPUTS[ending]}"
            )
        return Place(output.parent, {cases[0].name: output}, None)
    if output.is_file() or (is_volume(output) and not output.is_dir()):
        raise RunError(
            f"{output} names a file, but there are {len(cases)} cases; give a folder "
            "for the label maps"
        )
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
    return Place(
        output,
        {case.name: output / f"{case.name}{_ending_of_output(case)}" for case in cases},
        output / RECORD_FILE,
    )


def _ending_of_output(case: CaseFiles) -> str:
    ending = volume_ending(case.channels[0].path)
    return ENDINGS_OF_OUTPUTS.get(ending, ending)


def require_structure_file_names(output: Path, drawn: Drawn) -> None:
    """Refuse structures that cannot name files; a model may come from anybody.

    Raises:
        RunError: A name holds a folder, for example, or two are alike.
    """
    of_maps = (name for _, name in drawn.maps if name)
    structures = dict.fromkeys((*drawn.masks, *of_maps))
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


def earlier_predictions(
    place: Place, asked: Asked, *, resume: bool
) -> dict[str, Outcome]:
    """What is recorded in the folder: the last of every case that did not fail.

    Raises:
        RunError: There are predictions without ``resume``, of other models or options,
            or the record is damaged.
    """
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


def refuse_to_replace(
    cases: Sequence[CaseFiles],
    place: Place,
    earlier: Mapping[str, Outcome],
    drawn: Drawn,
) -> None:
    """Refuse targets that are inputs, shared, or not known to be Foveal's.

    Raises:
        CaseError: Names such a target.
    """
    inputs = {channel.path.resolve() for case in cases for channel in case.channels}
    for case in cases:
        others = case.label_map, case.mask, case.weight_map
        inputs |= {path.resolve() for path in others if path}
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


def record_of(place: Place) -> contextlib.AbstractContextManager[RecordWriter | None]:
    """The record, held against other programs while it is open; none of a single file.

    Raises:
        RunError: Another program predicts into the folder.
    """
    if place.record is None:
        return contextlib.nullcontext()
    return open_record(place.record)


@contextlib.contextmanager
def staging_folder(place: Place) -> Iterator[Path]:
    """A folder for what is not whole yet; gone afterwards."""
    remove_abandoned(place.folder)
    with unfinished(place.folder / "predictions", Path.mkdir) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
