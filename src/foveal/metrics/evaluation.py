"""Every metric of many cases as one record: rows, their summary, and how to read it."""

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from rich import box
from rich.markup import escape
from rich.table import Table

from foveal.geometry import Grid
from foveal.metrics import overlap, surface, volume

FORMAT_VERSION = 1

DEFINITIONS = overlap.DEFINITIONS | surface.DEFINITIONS | volume.DEFINITIONS
"""Metric to what it means, in a line; the order of rows and columns."""

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

    def mean(self, structure: str, metric: str) -> float:
        """Mean over cases; NaN if the metric is defined in none.

        Raises:
            KeyError: There is no such structure or metric.
        """
        for entry in self.summary:
            if (entry.structure, entry.metric) == (structure, metric):
                return entry.mean
        raise KeyError(f"{metric} of {structure} was not measured")

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
        for structure in dict.fromkeys(entry.structure for entry in self.summary):
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
            "definitions": DEFINITIONS,
            "notes": list(self.notes),
            "rows": [_without_nan(asdict(row)) for row in self.rows],
            "summary": [_without_nan(asdict(entry)) for entry in self.summary],
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
        writer.writerow(["case", "structure", *DEFINITIONS])
        for (case, structure), values in lines.items():
            ordered = [values[metric] for metric in DEFINITIONS]
            cells = ["" if math.isnan(value) else f"{value:.10g}" for value in ordered]
            writer.writerow([case, structure, *cells])
        return text.getvalue()


def measure(
    prediction: Bool[NDArray[Any], "_ _ _"],
    reference: Bool[NDArray[Any], "_ _ _"],
    grid: Grid,
    *,
    num_ignored: int = 0,
) -> dict[str, float]:
    """Take every metric of one structure in one case.

    Args:
        prediction: Mask ``(i, j, k)`` on ``grid``.
        reference: Mask on the same grid.
        grid: Of the whole image.
        num_ignored: Voxels to leave out; they must be in neither mask.

    Returns:
        Metric to value, in the order of `DEFINITIONS`.

    Raises:
        GeometryError: The masks differ in shape.
    """
    counts = overlap.count_overlap(prediction, reference, num_ignored=num_ignored)
    distances = surface.surface_distances(prediction, reference, grid.spacing_mm)
    return {
        "dice": counts.dice,
        "iou": counts.iou,
        "sensitivity": counts.sensitivity,
        "specificity": counts.specificity,
        "precision": counts.precision,
        "hd_mm": distances.hd_mm,
        "hd95_mm": distances.hd95_mm,
        "assd_mm": distances.assd_mm,
        "prediction_volume_ml": volume.volume_ml(prediction, grid),
        "reference_volume_ml": volume.volume_ml(reference, grid),
        "prediction_voxels": float(counts.true_positives + counts.false_positives),
        "reference_voxels": float(counts.true_positives + counts.false_negatives),
    }


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


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in record.items()
    }
