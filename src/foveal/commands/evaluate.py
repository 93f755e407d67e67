"""Measure predictions against reference segmentations, case by case."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveal.case import CaseFiles, Dataset
from foveal.commands.evaluation_pairs import Matched, Pair, find_pairs
from foveal.errors import CaseError, DatasetError, SettingsError, listed
from foveal.in_threads import for_each
from foveal.io.files import atomic_write_text, require_ending
from foveal.io.label_maps import require_same_grid
from foveal.io.pictures import is_picture
from foveal.io.segmentations import (
    Masks,
    Parts,
    Segmentation,
    read_listed_segmentation,
    read_segmentation,
)
from foveal.io.volumes import only_volumes
from foveal.metrics.classes import ClassCounts
from foveal.metrics.evaluation import (
    NO_VOXELS,
    Evaluation,
    Row,
    measure,
    summarise,
    summed_classes,
)

RESULT_ENDINGS = (".json", ".csv")

NOTE_ON_PICTURES = (
    "Pictures have no size: what is called mm (hd_mm, hd95_mm, assd_mm) counts pixels, "
    "and there are no volumes in ml."
)

MAX_THREADS = 4
"""Cases in memory at once; a whole-body CT with all that is made of it takes 3 GB."""

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Structure:
    """Something to measure, and what it is called on both sides."""

    reference: Parts
    prediction_values: Parts
    """If the prediction is a label map."""

    prediction_masks: Parts
    """If the prediction is a folder of masks."""


@dataclass(frozen=True)
class _Measured:
    """One case's values."""

    rows: tuple[Row, ...]

    unscored: frozenset[int | str]
    """Parts of the prediction that belong to no structure."""

    classes: Mapping[str, ClassCounts] | None
    """Voxels of background and structures; ``None`` if not all were annotated, empty if
    some overlap."""


def evaluate(
    predictions: Path | str,
    references: Path | str | None = None,
    *,
    regions: Mapping[str, Sequence[int]] | None = None,
    labels: Mapping[str, int | str] | None = None,
    prediction_labels: Mapping[str, Sequence[int | str]] | None = None,
    output: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Measure predicted segmentations against reference segmentations.

    Predictions may come from any program: a folder of label maps, or a folder per case
    with one mask per structure. Both sides are matched by case, which is the file name
    without its ending or the name of the case's folder, and must hold the same cases.
    If the references are a data set, its label names, ignore value and annotated labels
    apply, and its cases without a prediction are left out.

    A run, or a folder of runs such as a cross-validation, stands for its validation
    predictions: every case as the run predicted it that had left it out.

    Args:
        predictions: As above; or one label map.
        references: Likewise; or a data set: a folder or table as in
            `foveal.read_dataset`. Unset, for runs only: the data set of the runs.
        regions: Name to label values whose union is measured as one structure, besides
            the labels. Left out of a case where one of the values was not annotated.
        labels: Structure name to its value, or name of mask, in the references; unset:
            those of the data set, or else everything found in the references, named by
            its number or file.
        prediction_labels: Structure name to the values, or names of masks, whose union
            it is in the predictions, where they are others than in the references.
        output: File for the result, JSON or CSV by its ending; unset: none is written.
        on_progress: Told cases done, cases in all and the name of the last.

    Raises:
        DatasetError: There is nothing to measure, or the cases do not match.
        CaseError: A file cannot be read, prediction and reference lie on different
            grids, a mask is missing, or a reference has a value that its data set does
            not name.
        EvaluationError: Several runs predicted the same case.
        SettingsError: A region is empty, holds background or has the name of a label;
            a structure of ``prediction_labels`` is not measured; or ``output`` ends in
            something else.
    """
    if output is not None:
        require_ending(output, *RESULT_ENDINGS)
    matched = find_pairs(
        Path(predictions), None if references is None else Path(references)
    )
    parts, labels = _parts_of_references(labels, matched, on_progress)
    if prediction_labels is None:
        known = matched.prediction_labels
        prediction_labels = {name: known[name] for name in parts if name in known}
    structures = _structures(parts, labels, regions or {}, prediction_labels)
    if not structures:
        raise DatasetError(
            f"no reference in {references} has a labelled voxel, so there is no "
            "structure to measure; give a data set that names its labels"
        )

    def measure_pair(pair: Pair) -> _Measured:
        try:
            return _measure_case(pair, structures, matched)
        except CaseError as error:
            raise CaseError(f"case {pair.case}: {error}") from error

    measured = for_each(
        measure_pair,
        matched.pairs,
        threads=min(MAX_THREADS, os.cpu_count() or 1),
        name=lambda pair: pair.case,
        on_progress=on_progress,
    )
    rows = tuple(row for case in measured for row in case.rows)
    unscored = frozenset[int | str]().union(*(case.unscored for case in measured))
    notes = (
        *matched.notes,
        *_notes_on_regions(regions or {}, labels),
        *_notes_on_unmeasured(structures, rows),
        *_notes_on_unscored(unscored),
        *([NOTE_ON_PICTURES] if any(map(_is_picture, matched.pairs)) else []),
    )
    evaluation = Evaluation(
        rows,
        summarise(rows, structures),
        notes,
        # Without such a case there is nothing to add, which other folds may have.
        summed_classes(case.classes for case in measured if case.classes is not None)
        if any(case.classes is not None for case in measured)
        else dict.fromkeys(["background", *structures], NO_VOXELS),
    )
    if output is not None:
        is_csv = output.suffix.lower() == ".csv"
        text = evaluation.to_csv() if is_csv else evaluation.to_json()
        atomic_write_text(output, text)
    return evaluation


def _parts_of_references(
    given: Mapping[str, int | str] | None,
    matched: Matched,
    on_progress: OnProgress | None,
) -> tuple[dict[str, Parts], Mapping[str, int | str]]:
    """What each structure is the union of, and the labels that regions may unite."""
    if given is not None:
        return {name: (part,) for name, part in given.items()}, given
    if matched.dataset is not None:
        return {**matched.dataset.structures}, {**matched.dataset.label_values}

    def parts_of_reference(pair: Pair) -> frozenset[int | str]:
        try:
            return _read_reference(pair, matched).others(())
        except CaseError as error:
            raise CaseError(f"case {pair.case}: {error}") from error

    each = for_each(
        parts_of_reference,
        matched.pairs,
        threads=min(MAX_THREADS, os.cpu_count() or 1),
        name=lambda pair: pair.case,
        on_progress=on_progress,
    )
    found = sorted(set[int | str]().union(*each), key=_values_first)
    return {str(part): (part,) for part in found}, {str(part): part for part in found}


def _values_first(part: int | str) -> tuple[int, str]:
    return (part, "") if isinstance(part, int) else (0, part)


def _structures(
    parts: Mapping[str, Parts],
    labels: Mapping[str, int | str],
    regions: Mapping[str, Sequence[int]],
    prediction_labels: Mapping[str, Sequence[int | str]],
) -> dict[str, _Structure]:
    """Everything that is measured, by name; regions last."""
    for name, values in regions.items():
        if not values or 0 in values:
            raise SettingsError(
                f"region {name} = {list(values)} must hold label values other than 0, "
                "which is background"
            )
        if name in parts:
            raise SettingsError(
                f"region {name} has the name of a label; give it a name of its own"
            )
    measured = [*parts, *regions]
    unknown = sorted(set(prediction_labels) - set(measured))
    if unknown:
        raise SettingsError(
            f"the labels of the predictions name {listed(unknown)}, but what is "
            f"measured is {listed(measured)}; correct the name"
        )
    name_of = {part: name for name, part in labels.items()}
    structures = {}
    for name, own in parts.items():
        there = tuple(prediction_labels.get(name, own))
        masks = tuple(prediction_labels.get(name, (name,)))
        structures[name] = _Structure(own, there, masks)
    for name, values in regions.items():
        # A region is the union of what its labels are, unless it is named itself.
        united = [(name_of.get(value, str(value)), value) for value in values]
        there = _union(
            prediction_labels.get(label, (value,)) for label, value in united
        )
        masks = _union(prediction_labels.get(label, (label,)) for label, _ in united)
        structures[name] = _Structure(
            tuple(values),
            tuple(prediction_labels.get(name, there)),
            tuple(prediction_labels.get(name, masks)),
        )
    return structures


def _union(parts: Iterable[Sequence[int | str]]) -> Parts:
    return tuple(dict.fromkeys(part for some in parts for part in some))


def _measure_case(
    pair: Pair, structures: Mapping[str, _Structure], matched: Matched
) -> _Measured:
    """Measure every structure that was annotated in a case."""
    background_value = matched.dataset.background_value if matched.dataset else 0
    prediction = read_segmentation(pair.prediction, background_value)
    reference = _read_reference(pair, matched)
    try:
        require_same_grid("reference", reference.grid, "prediction", prediction.grid)
    except CaseError as error:
        raise CaseError(f"{error}, by nearest neighbour") from error
    ignored = None
    if matched.dataset is not None:
        _require_known_labels(reference, matched.dataset)
        if matched.dataset.ignore_value is not None:
            ignored = reference.mask((matched.dataset.ignore_value,))
    drawn = _drawn(pair, reference, matched)
    as_masks = isinstance(prediction, Masks)
    rows = []
    union = np.zeros((2, *reference.grid.shape), dtype=bool)
    counts: dict[str, ClassCounts] = {}
    scored = set[int | str]()
    for name, structure in structures.items():
        parts = structure.prediction_masks if as_masks else structure.prediction_values
        scored.update(parts)
        if drawn is not None and not _is_drawn(structure.reference, drawn):
            continue
        masks = prediction.mask(parts), reference.mask(structure.reference)
        if ignored is not None:
            masks = masks[0] & ~ignored, masks[1]
        metrics = measure(
            *masks,
            reference.grid,
            num_ignored=0 if ignored is None else int(np.count_nonzero(ignored)),
            has_size=not _is_picture(pair),
        )
        rows += [
            Row(pair.case, name, metric, value) for metric, value in metrics.items()
        ]
        counts[name] = _agreement(*masks)
        union |= masks
    classes = None
    if counts.keys() == structures.keys():
        outside = ~union if ignored is None else ~union & ~ignored
        classes = _with_background(counts, union, outside)
    return _Measured(tuple(rows), prediction.others(scored), classes)


def _agreement(predicted: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> ClassCounts:
    return ClassCounts(
        int(np.count_nonzero(drawn)),
        int(np.count_nonzero(predicted)),
        int(np.count_nonzero(predicted & drawn)),
    )


def _with_background(
    counts: Mapping[str, ClassCounts],
    union: NDArray[np.bool_],
    outside: NDArray[np.bool_],
) -> dict[str, ClassCounts]:
    """Counts with those of the background; none if structures overlap.

    Args:
        counts: Of every structure.
        union: Of all structures, ``(prediction or reference, i, j, k)``.
        outside: Voxels outside of each union that are not ignored.
    """
    predicted, drawn = (np.count_nonzero(mask) for mask in union)
    all_counts = counts.values()
    if predicted < sum(one.predicted for one in all_counts) or drawn < sum(
        one.reference for one in all_counts
    ):
        return {}
    return {"background": _agreement(*outside), **counts}


def _is_picture(pair: Pair) -> bool:
    """Whether the voxels of a case are pixels, without a size."""
    if isinstance(pair.reference, CaseFiles):
        return is_picture(pair.reference.channels[0].path)
    if pair.reference.is_dir():
        return any(map(is_picture, only_volumes(pair.reference.iterdir())))
    return is_picture(pair.reference)


def _read_reference(pair: Pair, matched: Matched) -> Segmentation:
    if isinstance(pair.reference, Path):
        return read_segmentation(pair.reference)
    label_values = matched.dataset.label_values if matched.dataset else {}
    return read_listed_segmentation(pair.reference, label_values)


def _drawn(
    pair: Pair, reference: Segmentation, matched: Matched
) -> list[frozenset[str]] | None:
    """What was drawn, each as its parts in text; ``None``: all there is.

    Of a folder of masks those that have a file: an empty mask says that the structure
    is not there, a missing one that nobody drew it.
    """
    if isinstance(reference, Masks):
        return [frozenset({name}) for name in reference.files]
    if isinstance(pair.reference, Path) or pair.reference.annotated is None:
        return None
    structures = matched.dataset.structures if matched.dataset else {}
    return [frozenset(map(str, structures[name])) for name in pair.reference.annotated]


def _is_drawn(parts: Parts, drawn: Sequence[frozenset[str]]) -> bool:
    """Whether a structure is a union of what was drawn.

    A region that was drawn whole tells nothing of what is inside it.
    """
    wanted = frozenset(map(str, parts))
    return frozenset[str]().union(*(one for one in drawn if one <= wanted)) == wanted


def _require_known_labels(reference: Segmentation, dataset: Dataset) -> None:
    """Refuse values that the data set of the references does not name."""
    known = {*dataset.label_values.values(), dataset.ignore_value}
    known |= {value for values in dataset.structures.values() for value in values}
    unknown = sorted(reference.others(part for part in known if part is not None))
    if unknown:
        raise CaseError(
            f"reference has the values {unknown}, but the labels of its data set are "
            f"{dataset.label_values}; name them there or correct the file"
        )


def _notes_on_regions(
    regions: Mapping[str, Sequence[int]], labels: Mapping[str, int | str]
) -> list[str]:
    return [
        f"Region {name}: value {value} is no label of the references."
        for name, values in regions.items()
        for value in sorted(set(values) - set(labels.values()))
    ]


def _notes_on_unmeasured(structures: Iterable[str], rows: Iterable[Row]) -> list[str]:
    absent = set(structures) - {row.structure for row in rows}
    return [
        f"Structure {name} was measured in no case: no reference has it drawn."
        for name in structures
        if name in absent
    ]


def _notes_on_unscored(parts: Iterable[int | str]) -> list[str]:
    if not parts:
        return []
    names = listed([str(part) for part in sorted(parts, key=_values_first)])
    return [f"Not measured, as in no structure: {names} of the predictions."]
