"""Measure predictions against reference segmentations, case by case."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from foveal.errors import CaseError, DatasetError, SettingsError
from foveal.geometry import Grid
from foveal.io.cases import integer_label_map, present_labels, require_same_grid
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_text
from foveal.io.volumes import VOLUME_ENDINGS, case_stem, is_volume, read_volume
from foveal.metrics.evaluation import Evaluation, Row, measure, summarise

RESULT_ENDINGS = (".json", ".csv")

MAX_THREADS = 4
"""Cases in memory at once; a whole-body CT with all that is made of it takes 3 GB."""

NAMES_SHOWN = 5
"""Cases listed in an error message."""

OnProgress = Callable[[int, int, str], None]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Pair:
    """A prediction and the reference to measure it against."""

    case: str
    prediction: Path
    reference: Path

    annotated_labels: tuple[int, ...] | None = None
    """Label values contoured in the reference; ``None``: all of them."""


@dataclass(frozen=True)
class _Matched:
    """Every pair, and what the data set of the references says about labels."""

    pairs: tuple[_Pair, ...]

    label_values: dict[str, int] | None = None
    """Structure name to value; ``None``: the references are no data set."""

    ignore_value: int | None = None


@dataclass(frozen=True)
class _Measured:
    """One case's values."""

    rows: tuple[Row, ...]

    unscored: frozenset[int]
    """Values of the prediction that belong to no structure."""


def evaluate(
    predictions: Path | str,
    references: Path | str,
    *,
    regions: Mapping[str, Sequence[int]] | None = None,
    labels: Mapping[str, int] | None = None,
    output: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Measure predicted label maps against reference label maps.

    Two folders are matched by case, which is the file name without its ending, and must
    hold the same cases. If the references are a data set, its label names, ignore value
    and annotated labels apply, and its cases without a prediction are left out.

    Args:
        predictions: Folder of label maps, or one label map.
        references: Folder of label maps, one label map, or a data set: a folder or
            table as in `foveal.read_dataset`.
        regions: Name to label values whose union is measured as one structure, besides
            the labels. Left out of a case where one of the values was not annotated.
        labels: Structure name to label value; unset: those of the data set, or else
            every value found in the references, named by its number.
        output: File for the result, JSON or CSV by its ending; unset: none is written.
        on_progress: Told cases done, cases in all and the name of the last.

    Raises:
        DatasetError: There is nothing to measure, or the cases do not match.
        CaseError: A file cannot be read, prediction and reference lie on different
            grids, or a reference has a value that its data set does not name.
        SettingsError: A region is empty, holds background or has the name of a label;
            or ``output`` ends in something else.
    """
    if output is not None:
        _require_result_ending(output)
    matched = _match(Path(predictions), Path(references))
    label_values = matched.label_values if labels is None else labels
    if label_values is None:
        label_values = _found_labels(matched.pairs, on_progress)
    structures = _structures(label_values, regions or {})
    if not structures:
        raise DatasetError(
            f"no reference in {references} has a labelled voxel, so there is no "
            "structure to measure; give a data set that names its labels"
        )

    def measure_pair(pair: _Pair) -> _Measured:
        return _measure_case(pair, structures, matched)

    measured = _for_each(measure_pair, matched.pairs, on_progress)
    rows = tuple(row for case in measured for row in case.rows)
    unscored = frozenset[int]().union(*(case.unscored for case in measured))
    notes = (
        *_notes_on_regions(regions or {}, label_values),
        *_notes_on_unscored(unscored),
    )
    evaluation = Evaluation(rows, summarise(rows, structures), notes)
    if output is not None:
        is_csv = output.suffix.lower() == ".csv"
        text = evaluation.to_csv() if is_csv else evaluation.to_json()
        atomic_write_text(output, text)
    return evaluation


def _match(predictions: Path, references: Path) -> _Matched:
    """Find what belongs together; see `evaluate` for the three forms."""
    for path in (predictions, references):
        if not path.exists():
            raise DatasetError(f"{path} does not exist; correct the path")
    if references.is_file() and is_volume(references):
        return _match_files(predictions, references)
    if references.is_dir() and any(is_volume(path) for path in references.iterdir()):
        return _match_folders(predictions, references)
    return _match_dataset(predictions, references)


def _match_files(prediction: Path, reference: Path) -> _Matched:
    """Pair two files, whatever their names."""
    if prediction.is_dir():
        raise DatasetError(
            f"predictions {prediction} is a folder but references {reference} is one "
            "file; give two folders, two files, or a data set as references"
        )
    return _Matched((_Pair(case_stem(prediction), prediction, reference),))


def _match_folders(predictions: Path, references: Path) -> _Matched:
    """Pair the files of two folders by case; both must hold the same cases."""
    predicted, expected = _label_maps(predictions), _label_maps(references)
    without_reference = sorted(predicted.keys() - expected.keys())
    without_prediction = sorted(expected.keys() - predicted.keys())
    if without_reference:
        raise DatasetError(
            f"no reference in {references} for {_listed(without_reference)}"
            + f"; no prediction for {_listed(without_prediction)}"
            * bool(without_prediction)
            + "; a prediction must have the same name as its reference"
        )
    if without_prediction:
        raise DatasetError(
            f"every prediction has a reference, but there is no prediction in "
            f"{predictions} for {_listed(without_prediction)}; predict these cases, or "
            "to measure only some, give a data set or a folder of theirs as references"
        )
    return _Matched(
        tuple(
            _Pair(case, predicted[case], expected[case]) for case in sorted(predicted)
        )
    )


def _match_dataset(predictions: Path, references: Path) -> _Matched:
    """Find the reference of each prediction in a data set."""
    predicted, dataset = _label_maps(predictions), read_dataset(references)
    by_name = {case.name: case for case in dataset.cases}
    pairs = []
    without_reference = []
    for case in sorted(predicted):
        if case not in by_name or (reference := by_name[case].label_map) is None:
            without_reference.append(case)
            continue
        names = by_name[case].annotated
        annotated = None if names is None else _values_of(names, dataset.structures)
        pairs.append(_Pair(case, predicted[case], reference, annotated))
    if without_reference:
        raise DatasetError(
            f"data set {references} has no labelled case for the predictions "
            f"{_listed(without_reference)}; a prediction must have the name of its case"
        )
    return _Matched(tuple(pairs), dataset.label_values, dataset.ignore_value)


def _values_of(
    names: Sequence[str], structures: Mapping[str, Sequence[int]]
) -> tuple[int, ...]:
    """Label values of some structures."""
    return tuple(value for name in names for value in structures[name])


def _label_maps(path: Path) -> dict[str, Path]:
    """Case to file of a folder, or of a single file."""
    if path.is_file():
        return {case_stem(path): path}
    by_case: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if not is_volume(file):
            continue
        case = case_stem(file)
        if case in by_case:
            raise DatasetError(
                f"{by_case[case]} and {file} both belong to case {case}; remove one"
            )
        by_case[case] = file
    if not by_case:
        raise DatasetError(
            f"{path} holds no label maps; files must end in {', '.join(VOLUME_ENDINGS)}"
        )
    return by_case


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _found_labels(
    pairs: Sequence[_Pair], on_progress: OnProgress | None
) -> dict[str, int]:
    """Every value of the references but background, named by its number."""

    def values_of_reference(pair: _Pair) -> frozenset[int]:
        return _values_in(_read_label_map(pair.case, pair.reference)[0])

    found = set[int]().union(*_for_each(values_of_reference, pairs, on_progress))
    return {str(value): value for value in sorted(found)}


def _structures(
    labels: Mapping[str, int], regions: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Name to values of everything that is measured: labels, then regions."""
    structures: dict[str, tuple[int, ...]] = {
        name: (value,) for name, value in labels.items()
    }
    for name, values in regions.items():
        if not values or 0 in values:
            raise SettingsError(
                f"region {name} = {list(values)} must hold label values other than 0, "
                "which is background"
            )
        if name in structures:
            raise SettingsError(
                f"region {name} has the name of a label; give it a name of its own"
            )
        structures[name] = tuple(values)
    return structures


def _measure_case(
    pair: _Pair, structures: Mapping[str, Sequence[int]], matched: _Matched
) -> _Measured:
    """Measure every structure that was annotated in a case."""
    prediction, prediction_grid = _read_label_map(pair.case, pair.prediction)
    reference, grid = _read_label_map(pair.case, pair.reference)
    try:
        require_same_grid("reference", grid, "prediction", prediction_grid)
    except CaseError as error:
        raise CaseError(f"case {pair.case}: {error}") from error
    num_ignored = 0
    if matched.ignore_value is not None:
        ignored = reference == matched.ignore_value
        num_ignored = int(np.count_nonzero(ignored))
        prediction[ignored] = 0
        reference[ignored] = 0
    _require_known_labels(pair.case, reference, matched)
    annotated = pair.annotated_labels
    rows = []
    for structure, values in structures.items():
        if annotated is not None and not set(values) <= set(annotated):
            continue
        metrics = measure(
            _mask(prediction, values),
            _mask(reference, values),
            grid,
            num_ignored=num_ignored,
        )
        rows += [
            Row(pair.case, structure, name, value) for name, value in metrics.items()
        ]
    scored = set[int]().union(*structures.values())
    return _Measured(tuple(rows), _values_in(prediction) - scored)


def _require_known_labels(
    case: str, reference: NDArray[np.int32], matched: _Matched
) -> None:
    """Refuse values that the data set of the references does not name."""
    if matched.label_values is None:
        return
    known = set(matched.label_values.values())
    unknown = sorted(_values_in(reference) - known)
    if unknown:
        raise CaseError(
            f"case {case}: reference has the values {unknown}, but the labels of its "
            f"data set are {matched.label_values}; name them there or correct the file"
        )


def _read_label_map(case: str, path: Path) -> tuple[NDArray[np.int32], Grid]:
    """Label map in an array of its own, which may be written to, and its grid."""
    try:
        volume = read_volume(path)
        return integer_label_map(volume.array), volume.grid
    except CaseError as error:
        raise CaseError(f"case {case}: {error}") from error


def _values_in(label_map: NDArray[np.int32]) -> frozenset[int]:
    """Values that occur, background left out."""
    # The foreground is small, so picking it first saves counting all voxels.
    return frozenset(present_labels(label_map[label_map != 0]))


def _mask(label_map: NDArray[np.int32], values: Sequence[int]) -> NDArray[np.bool_]:
    """Where a label map has one of the values."""
    mask: NDArray[np.bool_] = label_map == values[0]
    for value in values[1:]:
        mask |= label_map == value
    return mask


def _for_each(
    function: Callable[[_Pair], _Result],
    pairs: Sequence[_Pair],
    on_progress: OnProgress | None,
) -> list[_Result]:
    """Results in the order of ``pairs``, made in threads; the first error ends it."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        futures = {pool.submit(function, pair): pair for pair in pairs}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if on_progress is not None:
                    on_progress(done, len(pairs), futures[future].case)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _notes_on_regions(
    regions: Mapping[str, Sequence[int]], labels: Mapping[str, int]
) -> list[str]:
    return [
        f"Region {name}: value {value} is no label of the references."
        for name, values in regions.items()
        for value in sorted(set(values) - set(labels.values()))
    ]


def _notes_on_unscored(values: Iterable[int]) -> list[str]:
    return [
        f"Value {value} of the predictions was not measured: it is in no structure."
        for value in sorted(values)
    ]


def _require_result_ending(path: Path) -> None:
    if path.suffix.lower() not in RESULT_ENDINGS:
        raise SettingsError(
            f"result file {path} must end in {' or '.join(RESULT_ENDINGS)}"
        )
