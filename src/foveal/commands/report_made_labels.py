"""Labels that a run made for cases of its own, for its report."""

from collections.abc import Mapping, Sequence
from typing import Any

from foveal.commands.report_curves import Series
from foveal.commands.reported_run import LogRow, ReportedRun
from foveal.commands.run_words import Facts, duration
from foveal.reports import figures
from foveal.reports.page import Curve


def made_labels_facts(run: ReportedRun) -> Facts:
    """How often cases were labelled and what was found; empty for most runs."""
    rows = _labellings(run)
    if not rows:
        return []
    first, last = rows[0]["labels"], rows[-1]["labels"]
    seconds = sum(row["seconds"] for row in rows)
    made = (
        f"{first['cases']} cases without an outline were labelled by the network, "
        f"{_times(len(rows))} in {duration(seconds)}."
    )
    words = [made, f"At first: {_found_words(first)}."]
    if len(rows) > 1:
        words.append(f"At step {rows[-1]['step']:,}: {_found_words(last)}.")
    refused = [row for row in rows if row["labels"]["lost"]]
    if refused:
        words.append(
            "Not used, as too little of a structure was left: those of step "
            + ", ".join(
                f"{row['step']:,} ({', '.join(row['labels']['lost'])})"
                for row in refused
            )
            + "."
        )
    return [("Labels made", " ".join(words))]


def made_labels_warnings(run: ReportedRun) -> list[str]:
    """Labels that were made and not used."""
    return [
        f"Step {row['step']:,}: {row['note']}."
        for row in _labellings(run)
        if "note" in row
    ]


def made_labels_curves(run: ReportedRun) -> list[Curve]:
    """Voxels of every structure in the labels, where they were made more than once."""
    rows = _labellings(run)
    if len(rows) < 2:
        return []
    svg = figures.plain_curves(volume_series(rows), "share of the first", None)
    caption = (
        "Voxels of the structures in labels that the network made, against the first; "
        "also those that were not used."
    )
    return [Curve("Labels made", caption, svg)]


def volume_series(rows: Sequence[LogRow]) -> dict[str, Series]:
    """Structure to steps and its voxels in the labels, over those in the first.

    Args:
        rows: At least one; a structure that the first lack is left out.
    """
    first: Mapping[str, int] = rows[0]["labels"]["voxels"]
    steps = [row["step"] for row in rows]
    return {
        name: (steps, [row["labels"]["voxels"][name] / voxels for row in rows])
        for name, voxels in first.items()
        if voxels
    }


def _labellings(run: ReportedRun) -> list[LogRow]:
    return [row for row in run.rows("refresh") if "labels" in row]


def _found_words(labels: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{name} {count:,}" for name, count in labels["voxels"].items())
    return f"{labels['labelled_share']:.1%} of the voxels; {counts} voxels"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
