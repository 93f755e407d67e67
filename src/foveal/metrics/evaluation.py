"""Every metric of many cases as one record: rows, their summary, and how to read it."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from rich import box
from rich.markup import escape
from rich.table import Table

from foveal.errors import EvaluationError
from foveal.geometry import Grid
from foveal.metrics import overlap, surface, volume
from foveal.metrics.classes import ClassCounts, class_scores

FORMAT_VERSION = 1

DEFINITIONS = overlap.DEFINITIONS | surface.DEFINITIONS | volume.DEFINITIONS
"""Metric to what it means, in a line; the order of rows and columns."""

NO_VOXELS = ClassCounts(0, 0, 0)

COLUMN_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "sensitivity",
    "precision": "precision",
    "hd95_mm": "HD95 mm",
    "assd_mm": "ASSD mm",
}
"""Metrics of `Evaluation.table`: as many as fit a terminal 80 characters wide."""


@dataclass(frozen=True)
class Row:
    """One measured value."""

    case: str
    structure: str
    metric: str

    value: float
    """NaN where the metric is not defined, see `DEFINITIONS`."""


@dataclass(frozen=True)
class Summary:
    """One metric of one structure over the cases where it is defined."""

    structure: str
    metric: str

    num_cases: int
    """Those that count: the metric is defined there."""

    mean: float
    """NaN if no case counts, as the others."""

    median: float

    std: float
    """Of a sample (n - 1); NaN for a single case."""


@dataclass(frozen=True)
class Evaluation:
    """Predictions of many cases, measured."""

    rows: tuple[Row, ...]
    """By case, then structure, then metric."""

    summary: tuple[Summary, ...]
    """By structure, then metric."""

    notes: tuple[str, ...] = ()
    """What was left out and why, in plain words."""

    classes: Mapping[str, ClassCounts] = field(default_factory=dict)
    """Voxels of background and every structure over the cases in which all structures
    were annotated, 0 if there is no such case; empty where structures overlap."""

    definitions: Mapping[str, str] = field(default_factory=lambda: DEFINITIONS)
    """Metric to what it means; those of another version where a file says so."""

    @property
    def structures(self) -> tuple[str, ...]:
        """Everything measured, in the order of the summary."""
        return tuple(dict.fromkeys(entry.structure for entry in self.summary))

    @property
    def cases(self) -> tuple[str, ...]:
        """Every case that has a row, in the order of the rows."""
        return tuple(dict.fromkeys(row.case for row in self.rows))

    def mean(self, structure: str, metric: str) -> float:
        """Mean over cases; NaN if the metric is defined in none.

        Raises:
            KeyError: There is no such structure or metric.
        """
        for entry in self.summary:
            if (entry.structure, entry.metric) == (structure, metric):
                return entry.mean
        raise KeyError(f"{metric} of {structure} was not measured")

    @property
    def class_scores(self) -> dict[str, float]:
        """Agreement over all voxels together; empty where structures overlap."""
        has_voxels = any(one.reference for one in self.classes.values())
        return class_scores(self.classes) if has_voxels else {}

    def worst(self, count: int) -> tuple[Row, ...]:
        """The ``count`` lowest Dice values of any case and structure, lowest first."""
        defined = [
            row
            for row in self.rows
            if row.metric == "dice" and not math.isnan(row.value)
        ]
        return tuple(sorted(defined, key=lambda row: row.value)[:count])

    def table(self) -> Table:
        """Means per structure, to print with rich; ``cases`` are those with a Dice."""
        by_name = {(entry.structure, entry.metric): entry for entry in self.summary}
        table = Table(
            "structure",
            title="Means over cases",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for title in ("cases", *COLUMN_TITLES.values()):
            table.add_column(title, justify="right")
        for structure in self.structures:
            means = [by_name[structure, metric].mean for metric in COLUMN_TITLES]
            table.add_row(
                escape(structure),
                str(by_name[structure, "dice"].num_cases),
                *("-" if math.isnan(mean) else f"{mean:.3f}" for mean in means),
            )
        return table

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON; NaN is ``None``."""
        return {
            "format_version": FORMAT_VERSION,
            "definitions": dict(self.definitions),
            "notes": list(self.notes),
            "classes": {name: asdict(one) for name, one in self.classes.items()},
            "class_scores": self.class_scores,
            "rows": [without_nan(asdict(row)) for row in self.rows],
            "summary": [without_nan(asdict(entry)) for entry in self.summary],
        }

    def to_json(self) -> str:
        """Everything, with the definitions; NaN is null."""
        return json.dumps(self.as_record(), indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """A line per case and structure, a column per metric; NaN is an empty cell."""
        lines: dict[tuple[str, str], dict[str, float]] = {}
        for row in self.rows:
            lines.setdefault((row.case, row.structure), {})[row.metric] = row.value
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["case", "structure", *self.definitions])
        for (case, structure), values in lines.items():
            ordered = [values[metric] for metric in self.definitions]
            cells = ["" if math.isnan(value) else f"{value:.10g}" for value in ordered]
            writer.writerow([case, structure, *cells])
        return text.getvalue()


def measure(
    prediction: Bool[NDArray[Any], "_ _ _"],
    reference: Bool[NDArray[Any], "_ _ _"],
    grid: Grid,
    *,
    num_ignored: int = 0,
    has_size: bool = True,
) -> dict[str, float]:
    """Take every metric of one structure in one case.

    Args:
        prediction: Mask ``(i, j, k)`` on ``grid``.
        reference: Mask on the same grid.
        grid: Of the whole image.
        num_ignored: Voxels to leave out; they must be in neither mask.
        has_size: Whether voxels have a size. Those of pictures have none: volumes are
            NaN, and distances count pixels.

    Returns:
        Metric to value, in the order of `DEFINITIONS`.

    Raises:
        GeometryError: The masks differ in shape.
    """
    counts = overlap.count_overlap(prediction, reference, num_ignored=num_ignored)
    distances = surface.surface_distances(prediction, reference, grid.spacing_mm)
    volumes = [
        volume.volume_ml(mask, grid) if has_size else float("nan")
        for mask in (prediction, reference)
    ]
    return {
        "dice": counts.dice,
        "iou": counts.iou,
        "sensitivity": counts.sensitivity,
        "specificity": counts.specificity,
        "precision": counts.precision,
        "hd_mm": distances.hd_mm,
        "hd95_mm": distances.hd95_mm,
        "assd_mm": distances.assd_mm,
        "prediction_volume_ml": volumes[0],
        "reference_volume_ml": volumes[1],
        "prediction_voxels": float(counts.true_positives + counts.false_positives),
        "reference_voxels": float(counts.true_positives + counts.false_negatives),
    }


def read_evaluation(path: Path) -> Evaluation:
    """Read the JSON file that `Evaluation.to_json` gave.

    The summary is made anew from the rows.

    Raises:
        EvaluationError: The file is absent, damaged or of another version.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = record["format_version"]
        rows = tuple(
            Row(row["case"], row["structure"], row["metric"], _with_nan(row["value"]))
            for row in record["rows"]
        )
        structures = dict.fromkeys(entry["structure"] for entry in record["summary"])
        definitions = dict(record["definitions"])
        notes = tuple(record["notes"])
        classes = {
            name: ClassCounts(**counts)
            for name, counts in record.get("classes", {}).items()
        }
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read ({error.strerror}); give a metrics.json, which "
            "foveal evaluate -o writes"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} is damaged or no metrics.json ({error!r}); measure again with "
            "foveal evaluate -o metrics.json"
        ) from error
    if version != FORMAT_VERSION:
        raise EvaluationError(
            f"{path} has format version {version}, this Foveal reads {FORMAT_VERSION}; "
            "measure again with foveal evaluate"
        )
    return Evaluation(rows, summarise(rows, structures), notes, classes, definitions)


def joined(evaluations: Mapping[str, Evaluation]) -> Evaluation:
    """Put evaluations of different cases together, in order of case.

    Args:
        evaluations: By the name that a message calls them, such as ``"fold_0"``.

    Raises:
        EvaluationError: A case is in two of them, or their definitions or structures
            differ.
    """
    first_name, first = next(iter(evaluations.items()))
    measured_by: dict[str, str] = {}
    for name, evaluation in evaluations.items():
        if evaluation.definitions != first.definitions:
            raise EvaluationError(
                f"{first_name} and {name} were measured by different definitions; "
                "measure both again with this version of Foveal"
            )
        if evaluation.structures != first.structures:
            raise EvaluationError(
                f"{first_name} has the structures {list(first.structures)} but {name} "
                f"{list(evaluation.structures)}; only runs of one task go together"
            )
        for case in evaluation.cases:
            other = measured_by.setdefault(case, name)
            if other != name:
                raise EvaluationError(
                    f"case {case} was measured in {other} and in {name}; out of fold, "
                    "every case is predicted by one run only. Evaluate or report each "
                    "run by itself"
                )
    rows = [row for evaluation in evaluations.values() for row in evaluation.rows]
    rows.sort(key=lambda row: row.case)
    notes = dict.fromkeys(
        note for evaluation in evaluations.values() for note in evaluation.notes
    )
    return Evaluation(
        tuple(rows),
        summarise(rows, first.structures),
        tuple(notes),
        summed_classes(each.classes for each in evaluations.values()),
        first.definitions,
    )


def summed_classes(
    each: Iterable[Mapping[str, ClassCounts]],
) -> dict[str, ClassCounts]:
    """Counts of all together; empty if any part of them lacks its counts."""
    total: dict[str, ClassCounts] = {}
    for counts in each:
        if not counts:
            return {}
        total = {name: one + total.get(name, NO_VOXELS) for name, one in counts.items()}
    return total


def summarise(rows: Iterable[Row], structures: Iterable[str]) -> tuple[Summary, ...]:
    """Summarise every metric over cases.

    Args:
        rows: Of all cases, in any order.
        structures: In the order wanted; one without rows counts no cases.
    """
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if not math.isnan(row.value):
            values.setdefault((row.structure, row.metric), []).append(row.value)
    return tuple(
        _summary(structure, metric, values.get((structure, metric), []))
        for structure in structures
        for metric in DEFINITIONS
    )


def _summary(structure: str, metric: str, values: list[float]) -> Summary:
    """Summarise values that are not NaN."""
    nan = float("nan")
    return Summary(
        structure=structure,
        metric=metric,
        num_cases=len(values),
        mean=float(np.mean(values)) if values else nan,
        median=float(np.median(values)) if values else nan,
        std=float(np.std(values, ddof=1)) if len(values) > 1 else nan,
    )


def _with_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def without_nan(value: Any) -> Any:  # noqa: ANN401 - anything JSON can hold
    """The same with ``None`` for every NaN, however deep, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
