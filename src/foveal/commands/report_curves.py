"""Training curves of a report: of one run, of the folds, of runs beside one another."""

from collections.abc import Sequence
from typing import NamedTuple

from foveal.commands.out_of_fold import division
from foveal.commands.reported_run import LogRow, ReportedRun
from foveal.errors import RunError, listed
from foveal.reports import figures
from foveal.reports.page import Curve


class KnownMeasure(NamedTuple):
    """How a number that a method measures is shown."""

    caption: str
    top: float | None = None
    chance: float | None = None


KNOWN_MEASURES = {
    "discriminator_accuracy": KnownMeasure(
        "How often the domain discriminator is right, on the patches it learns from: "
        "what the features still tell of the domain. Near chance, nothing, or the "
        "discriminator has not learned it.",
        top=1.0,
        chance=0.5,
    ),
    "alpha": KnownMeasure("How much the network counters the discriminator."),
}
"""By the names that methods give them; others are shown plainly."""

Series = tuple[list[int], list[float | None]]
"""Steps and values, ``None`` where there is none."""


def curves_of_run(run: ReportedRun) -> list[Curve]:
    """Loss, validation score per structure and learning rate, as far as logged."""
    rows, validations = run.rows("step"), run.rows("validation")
    steps = [row["step"] for row in rows]
    curves = []
    if rows:
        losses = [row["loss"] for row in rows]
        curves.append(
            Curve("Loss", "On training patches.", figures.loss_curve(steps, losses))
        )
    if validations:
        scores = {
            structure: [row["scores"][structure] for row in validations]
            for structure in validations[0]["scores"]
        }
        measure = validations[0]["measure"]
        svg = figures.score_curve(
            [row["step"] for row in validations],
            scores,
            [row["mean"] for row in validations],
            measure,
        )
        caption = "Used for selecting the checkpoint; on the preprocessed grid."
        curves.append(Curve(f"Validation {measure}", caption, svg))
    if rows:
        base = run.settings.optimiser.learning_rate
        rates = [base * row["learning_rate_factor"] for row in rows]
        svg = figures.learning_rate_curve(steps, rates)
        curves.append(Curve("Learning rate", "Warm-up and schedule.", svg))
    return [*curves, *_curves_of_measures(rows)]


def _curves_of_measures(rows: Sequence[LogRow]) -> list[Curve]:
    """What the method measured beside its losses, one curve each."""
    names = dict.fromkeys(name for row in rows for name in row.get("measures", ()))
    curves = []
    for name in names:
        pairs = [
            (row["step"], row["measures"][name])
            for row in rows
            if name in row.get("measures", ())
        ]
        steps, values = zip(*pairs, strict=True)
        known = KNOWN_MEASURES.get(name, KnownMeasure("Measured by the method."))
        words = name.replace("_", " ")
        svg = figures.measure_curve(
            steps, values, words, top=known.top, chance=known.chance
        )
        curves.append(Curve(words.capitalize(), known.caption, svg))
    return curves


def curves_of_folds(runs: Sequence[ReportedRun]) -> list[Curve]:
    """Loss and mean validation score of every fold."""
    losses = {run.name: _losses(run) for run in runs if run.steps_done}
    scored = [run for run in runs if run.best_step is not None]
    curves = []
    if losses:
        svg = figures.fold_loss_curves(losses)
        curves.append(Curve("Loss", "On training patches, fold by fold.", svg))
    if scored:
        measure = _measure(scored[0])
        caption = "Used for selecting the checkpoints; on the preprocessed grid."
        scores = {run.name: _mean_scores(run) for run in scored}
        svg = figures.fold_score_curves(scores, measure)
        curves.append(Curve(f"Validation {measure}", caption, svg))
    return curves


def curves_beside(runs: Sequence[ReportedRun]) -> tuple[list[Curve], list[str]]:
    """Loss and mean validation score of runs to compare, and what to know of them.

    Args:
        runs: At least two, in different folders.

    Raises:
        RunError: A run is given twice.
    """
    named = dict(zip(names_of(runs), runs, strict=True))
    losses = {name: _losses(run) for name, run in named.items() if run.steps_done}
    scored = {name: run for name, run in named.items() if run.best_step is not None}
    curves, notes = [], []
    if losses:
        caption = "On training patches; the thick lines are running means."
        if any(run.settings.sampling.adaptive for run in runs):
            caption += (
                " Adaptive sampling picks hard patches, so its loss may be higher "
                "though its network is no worse."
            )
        curves.append(Curve("Loss", caption, figures.smoothed_loss_curves(losses)))
    if scored:
        measure = _measure(next(iter(scored.values())))
        alike = {
            name: _mean_scores(run)
            for name, run in scored.items()
            if _measure(run) == measure
        }
        others = [name for name in scored if name not in alike]
        if others:
            notes.append(f"Scored by another measure, and left out: {listed(others)}.")
        svg = figures.fold_score_curves(alike, measure)
        caption = "Mean of the structures, on the preprocessed grid."
        curves.append(Curve(f"Validation {measure}", caption, svg))
    first, *rest = (set(division(run.directory).validation) for run in runs)
    if any(validated != first for validated in rest):
        notes.append("The runs validated different patients, so scores may differ.")
    return curves, notes


def names_of(runs: Sequence[ReportedRun]) -> list[str]:
    """What runs are called side by side: by folder, its whole path if names are alike.

    Raises:
        RunError: A run is given twice.
    """
    paths = [run.directory.path.resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise RunError(f"{path} is given twice; --beside takes other runs")
    folders = [path.name for path in paths]
    names = []
    for run, path in zip(runs, paths, strict=True):
        name = path.name if folders.count(path.name) == 1 else str(path)
        kind = "adaptive" if run.settings.sampling.adaptive else "not adaptive"
        names.append(f"{name}, {kind}")
    return names


def _losses(run: ReportedRun) -> tuple[list[int], list[float]]:
    rows = run.rows("step")
    return [row["step"] for row in rows], [row["loss"] for row in rows]


def _mean_scores(run: ReportedRun) -> Series:
    rows = run.rows("validation")
    return [row["step"] for row in rows], [row["mean"] for row in rows]


def _measure(run: ReportedRun) -> str:
    measure: str = run.rows("validation")[0]["measure"]
    return measure
