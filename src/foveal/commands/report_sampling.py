"""Where the patches of a run came from, for its report: error maps, places, numbers."""

from collections.abc import Mapping, Sequence

import numpy as np

from foveal.case import CaseFiles, Dataset
from foveal.commands.preprocess import stored_copy
from foveal.commands.report_curves import Series
from foveal.commands.report_drawn_places import (
    drawn_centres,
    drawn_through_training,
    thirds,
    unfitness,
)
from foveal.commands.report_error_maps import errors_through_training, kept_slices
from foveal.commands.reported_run import LogRow, ReportedRun
from foveal.commands.run_words import Facts, duration
from foveal.config.plan import Plan
from foveal.errors import CaseError
from foveal.reports import figures
from foveal.reports.page import Curve, Picture, Sampling
from foveal.reports.sampling_figures import drawn_places_picture, error_maps_picture
from foveal.store.store import Store, StoredCase, default_store_root

MOST_CASES = 2
"""In which is shown where patches were drawn."""

WITHOUT_MAPS = (
    "No error map was made so far: all patches came from the base sampler, as without "
    "adaptive sampling."
)

HARDEST_CASES = 3
"""That are named."""


def sampling_of(
    runs: Sequence[ReportedRun], dataset: Dataset | None, plan: Plan
) -> list[tuple[str, Sampling]]:
    """What each run wrote down of its patches, under the run's name.

    Nothing is preprocessed for it: what the store does not hold is not shown.

    Args:
        runs: Those that wrote nothing down, as before there was such a log, are left
            out.
        dataset: ``None``: it is not there any more.
        plan: Of the runs.
    """
    files = {case.name: case for case in dataset.cases} if dataset else {}
    found = [(run.name, _sampling(run, files, plan)) for run in runs]
    return [(name, sampling) for name, sampling in found if sampling is not None]


def sampling_facts(run: ReportedRun) -> Facts:
    """How adaptive sampling went, in words; empty for a run without it."""
    if not run.settings.sampling.adaptive:
        return []
    chosen = run.settings.error_map_rules
    law = (
        "Patches came from where the network erred: one is accepted with probability "
        f"min(1, E + {chosen.epsilon:g}), where E is 1 - p(true class) of the voxel it "
        "lies around."
    )
    words = [law]
    refreshes = [
        row for row in run.rows("refresh") if "cases" in row or "labels" not in row
    ]
    cases = sum(len(row.get("cases", {})) for row in refreshes)
    if cases:
        seconds = sum(row.get("seconds", 0.0) for row in refreshes)
        words.append(
            f"{len(refreshes):,} refreshes made {cases:,} error maps in "
            f"{duration(seconds)}."
        )
    else:
        words.append(WITHOUT_MAPS)
    words += _acceptance_words(run.rows("step"))
    difficulty = latest_difficulty(refreshes)
    if difficulty:
        hardest = sorted(difficulty, key=lambda name: (-difficulty[name], name))
        words.append(
            "Mean error in the structures by the latest maps: "
            f"{np.mean(list(difficulty.values())):.2f} over {len(difficulty)} cases; "
            "highest in "
            + ", ".join(
                f"{name} ({difficulty[name]:.2f})" for name in hardest[:HARDEST_CASES]
            )
            + "."
        )
    return [("Adaptive sampling", " ".join(words))]


def _acceptance_words(rows: Sequence[LogRow]) -> list[str]:
    words = []
    rates = [row["acceptance"] for row in rows if "acceptance" in row]
    if rates:
        tenth = max(len(rates) // 10, 1)
        words.append(
            f"Of the base sampler's draws {np.mean(rates[:tenth]):.0%} were accepted "
            f"in the first tenth of the steps and {np.mean(rates[-tenth:]):.0%} in the "
            "last."
        )
    ages = [row["map_age_steps"] for row in rows if "map_age_steps" in row]
    if ages:
        words.append(
            f"The maps in use were {np.mean(ages):.0f} steps old on average, "
            f"{max(ages):.0f} at most."
        )
    return words


def latest_difficulty(refreshes: Sequence[LogRow]) -> dict[str, float]:
    """Case to the mean error in its structures when it was last predicted."""
    latest = {}
    for row in refreshes:
        for name, told in row.get("cases", {}).items():
            latest[name] = float(told["difficulty"])
    return latest


def _sampling(
    run: ReportedRun, files: Mapping[str, CaseFiles], plan: Plan
) -> Sampling | None:
    slices, notes = kept_slices(run.directory.error_maps)
    if run.settings.sampling.adaptive and not latest_difficulty(run.rows("refresh")):
        notes.append(f"Warning: {WITHOUT_MAPS}")
    centres = drawn_centres(run.rows("step"))
    parts = thirds(run.steps_done)
    drawn = sorted(centres, key=lambda name: unfitness(name, centres, parts, slices))
    drawn = drawn[:MOST_CASES]
    curves = _curves(run)
    if not (slices or notes or drawn or curves):
        return None
    stored: dict[str, StoredCase | None] = {}
    for name in (*slices, *drawn):
        if name in slices:
            stored[name] = _stored_content(run, name, slices[name][0].content)
        elif name in files:
            stored[name] = stored_copy(files[name], plan, store=run.settings.store)
    labels = dict(enumerate(plan.labels.names, start=1))
    pictures = []
    if slices:
        shown, more_notes = errors_through_training(slices, stored)
        notes += more_notes
        pictures.append(
            Picture(
                "Error maps through training",
                "One slice of training cases: where the network was wrong after so "
                "many steps. White: wrong, the true class had probability 0; black: "
                "right. Before its first map a case counts as wrong everywhere. "
                f"{_rows([one.case for one in shown])}",
                error_maps_picture(shown, labels),
            )
        )
    seen, more_notes = drawn_through_training(drawn, centres, parts, stored)
    notes += more_notes
    if seen:
        pictures.append(
            Picture(
                "Where patches were drawn",
                "Voxels that patches of a case were drawn around, early and late, "
                "seen through the whole case: the brighter, the more. The outlines are "
                "those of the structures before and behind the slice. "
                f"{_rows([one.case for one in seen])}",
                drawn_places_picture(seen, labels),
            )
        )
    return Sampling(pictures, curves, notes)


def _rows(names: Sequence[str]) -> str:
    """Which case each row of a picture is of; any script and length is a page's."""
    if len(names) == 1:
        return f"The case is {names[0]}."
    told = ", ".join(f"{number} {name}" for number, name in enumerate(names, start=1))
    return f"The cases are {told}."


def _stored_content(run: ReportedRun, name: str, content: str) -> StoredCase | None:
    """The preprocessed case that an error map is of; ``None``: it is gone."""
    try:
        store = Store(run.settings.store or default_store_root())
        return store.open(content, name=name, patient=name)
    except CaseError:
        return None


def _curves(run: ReportedRun) -> list[Curve]:
    """Acceptance, age of the maps and errors, as far as logged."""
    steps, refreshes = run.rows("step"), run.rows("refresh")
    refreshes = [row for row in refreshes if row.get("cases")]
    curves = []
    acceptance = _series(steps, "acceptance")
    if acceptance[0]:
        svg = figures.plain_curves({"": acceptance}, "accepted share", 1)
        caption = "Of the base sampler's draws; 1 while there are no error maps."
        curves.append(Curve("Acceptance", caption, svg))
    ages = _series(steps, "map_age_steps")
    if ages[0]:
        svg = figures.plain_curves({"": ages}, "age in steps", None)
        caption = "Of the error maps that patches were drawn by."
        curves.append(Curve("Age of the error maps", caption, svg))
    if refreshes:
        curves.append(
            Curve(
                "Errors of training cases",
                "Mean of the cases of each refresh, 1 - p(true class).",
                figures.plain_curves(error_series(refreshes), "mean error", None),
            )
        )
    return curves


def _series(rows: Sequence[LogRow], key: str) -> Series:
    known = [row for row in rows if key in row]
    return [row["step"] for row in known], [row[key] for row in known]


def error_series(refreshes: Sequence[LogRow]) -> dict[str, Series]:
    """Mean errors of the cases of every refresh, in their structures and anywhere.

    Args:
        refreshes: Rows that tell of at least one case.
    """
    steps = [row["step"] for row in refreshes]

    def means(key: str) -> list[float | None]:
        return [
            float(np.mean([told[key] for told in row["cases"].values()]))
            for row in refreshes
        ]

    return {
        "in the structures": (steps, means("difficulty")),
        "in all voxels": (steps, means("mean_error")),
    }
