"""Show how a run went: one HTML file, worst case first."""

import json
from collections.abc import Sequence
from pathlib import Path

from foveal import __version__
from foveal.case import (
    Dataset,
)
from foveal.commands.out_of_fold import (
    division,
    find_out_of_fold,
    measured_out_of_fold,
    validation_predictions,
)
from foveal.commands.presence import read_presence
from foveal.commands.report_curves import curves_beside, curves_of_folds, curves_of_run
from foveal.commands.report_ensemble import ensemble_report
from foveal.commands.report_made_labels import (
    made_labels_curves,
    made_labels_facts,
    made_labels_warnings,
)
from foveal.commands.report_overlays import NUM_OVERLAYS, overlays_of
from foveal.commands.report_predictions import (
    is_folder_of_predictions,
    predictions_report,
)
from foveal.commands.report_sampling import sampling_facts, sampling_of
from foveal.commands.report_trust import trust_of
from foveal.commands.report_volumes import volumes_of
from foveal.commands.reported_run import ReportedRun, read_run
from foveal.commands.run_words import (
    Facts,
    dataset_facts,
    duration,
    patients_of_fold,
    patients_of_folds,
    plan_facts,
    training_facts,
    transfer_facts,
)
from foveal.config.settings import Settings
from foveal.engine.ensemble_directory import is_ensemble
from foveal.engine.run_directory import RunDirectory, find_runs, is_run
from foveal.errors import DatasetError, RunError
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_text
from foveal.metrics.presence import PresenceScores, pooled_presence
from foveal.planning.splits import Fold, read_splits
from foveal.plugins.kept import kept_plugins
from foveal.reports.page import Beside, Overlay, Page, number, render
from foveal.reports.scores import FoldScores, RunScores, ordered_scores
from foveal.settings_files import read_plan

FOOTER = f"Made by Foveal {__version__}. This file needs no network."


def report(
    run: Path | str,
    output: Path | None = None,
    *,
    beside: Sequence[Path | str] = (),
    images: Path | str | None = None,
) -> Path:
    """Make the report of a run or of a folder of runs, finished or not.

    Args:
        run: Folder that `foveal.train` wrote; or a folder of runs that validated
            different cases, such as a cross-validation; or an ensemble; or a folder of
            predictions that `foveal.predict` wrote, see `report_predictions`.
        output: HTML file; unset: ``report.html`` in the folder.
        beside: Other runs, or folders of runs, whose training curves are drawn with
            those of this one, such as the same training without adaptive sampling.
        images: Of predictions only: folder in or below which the predicted images lie,
            for pictures.

    Returns:
        The file.

    Raises:
        RunError: ``run``, or one beside it, is not a run and holds none, or is given
            twice; an ensemble was not measured yet; or ``beside`` or ``images`` is
            given with what has no use for it.
        EvaluationError: A ``metrics.json`` is damaged, or several runs validated the
            same case.
        SettingsError: Settings, plan or splits are damaged.
    """
    folder = Path(run)
    path = output or folder / "report.html"
    if is_folder_of_predictions(folder):
        if beside:
            raise RunError(
                f"{folder} is a folder of predictions, which have no training curves; "
                "leave --beside out"
            )
        seen = None if images is None else Path(images)
        atomic_write_text(path, predictions_report(folder, seen))
        return path
    if images is not None:
        raise RunError(
            f"{folder} is no folder of predictions; leave --images out, as a run names "
            "its data set itself"
        )
    if is_ensemble(folder):
        if beside:
            raise RunError(
                f"{folder} is an ensemble, whose report draws no curves; leave out "
                "--beside, or report its members"
            )
        atomic_write_text(path, ensemble_report(folder))
        return path
    runs = [read_run(directory) for directory in find_runs(folder)]
    others = [
        read_run(directory) for path in beside for directory in find_runs(Path(path))
    ]
    together = Beside(*curves_beside([*runs, *others])) if others else None
    page = (
        _page_of_run(runs[0], together)
        if is_run(folder)
        else _page_of_runs(folder, runs, together)
    )
    atomic_write_text(path, render(page))
    return path


def _page_of_run(run: ReportedRun, beside: Beside | None) -> Page:
    plan = read_plan(run.directory.plan)
    fold = division(run.directory)
    scores = ordered_scores(run.measured) if run.measured else None
    dataset, notes = _dataset(run.settings)
    overlays: list[Overlay] = []
    if scores is not None and dataset is not None:
        predictions = validation_predictions(run.directory)
        overlays, more_notes = overlays_of(scores, dataset, plan, predictions)
        notes += more_notes
    return Page(
        title=f"{plan.dataset_name}: fold {run.settings.splits.fold}",
        subtitle=f'Report of the run "{run.name}"',
        headlines=[*_score_headlines(scores), _steps_headline(run)],
        scores=scores,
        scores_absent=_why_no_scores(fold),
        presence=_presence([run]),
        folds=[],
        overlays=overlays,
        overlay_notes=notes if scores is not None else [],
        volumes=volumes_of(scores),
        trust=trust_of(run.directory.path),
        curves=[*curves_of_run(run), *made_labels_curves(run)],
        beside=beside,
        sampling=sampling_of([run], dataset, plan),
        facts=[
            *dataset_facts(dataset, plan, patients_of_fold(fold)),
            *plan_facts(plan),
            *training_facts(run.settings, run.seconds),
            *sampling_facts(run),
            *made_labels_facts(run),
            *transfer_facts(run.settings),
            *_plugin_facts(run.directory),
            *_environment_facts(run.directory),
        ],
        warnings=[*_memory_warnings(run), *made_labels_warnings(run)],
        files=_files(run.directory.path, [run], dataset, scores),
        footer=FOOTER,
    )


def _page_of_runs(
    folder: Path, runs: Sequence[ReportedRun], beside: Beside | None
) -> Page:
    """Every case as the run predicted it that had left it out."""
    first = runs[0]
    plan = read_plan(first.directory.plan)
    measured = measured_out_of_fold([run.directory for run in runs])
    scores = ordered_scores(measured) if measured else None
    dataset, notes = _dataset(first.settings)
    overlays: list[Overlay] = []
    if scores is not None and dataset is not None:
        predictions = find_out_of_fold(folder).predictions
        overlays, more_notes = overlays_of(scores, dataset, plan, predictions)
        notes += more_notes
    unfinished = [run.name for run in runs if not run.is_measured]
    lacking = (
        f"Not measured yet: {', '.join(unfinished)}. If training was stopped, continue "
        "it with foveal train --resume."
    )
    return Page(
        title=f"{plan.dataset_name}: {len(runs)} folds",
        subtitle=f'Report of the runs in "{folder.resolve().name}"',
        headlines=[*_score_headlines(scores), _folds_headline(runs)],
        scores=scores,
        scores_absent="No fold has measured its validation cases yet.",
        presence=_presence(runs),
        folds=[
            FoldScores(
                run.name,
                run.steps_done,
                run.best_step,
                ordered_scores(run.measured) if run.measured else None,
            )
            for run in runs
        ],
        overlays=overlays,
        overlay_notes=notes if scores is not None else [],
        volumes=volumes_of(scores),
        trust=trust_of(folder),
        curves=curves_of_folds(runs),
        beside=beside,
        sampling=sampling_of(runs[:1], dataset, plan),
        facts=[
            *dataset_facts(
                dataset, plan, patients_of_folds(read_splits(first.directory.splits))
            ),
            *plan_facts(plan),
            *training_facts(first.settings, sum(run.seconds for run in runs)),
            *sampling_facts(first),
            *made_labels_facts(first),
            *transfer_facts(first.settings),
            *_plugin_facts(first.directory),
            *_environment_facts(first.directory),
        ],
        warnings=[
            *([lacking] if unfinished else []),
            *(
                f"{run.name}: {text}"
                for run in runs
                for text in (*_memory_warnings(run), *made_labels_warnings(run))
            ),
        ],
        files=_files(folder, runs, dataset, scores),
        footer=FOOTER,
    )


def _dataset(settings: Settings) -> tuple[Dataset | None, list[str]]:
    """The data set, or why there are no pictures."""
    if settings.dataset is None:
        return None, ["No pictures: the settings of the run name no data set."]
    try:
        return read_dataset(settings.dataset), []
    except DatasetError as error:
        return None, [f"No pictures: the data set cannot be read. {error}"]


def _score_headlines(scores: RunScores | None) -> list[tuple[str, str, str]]:
    if scores is None:
        return []
    mean = (
        "mean validation Dice",
        number(scores.mean_dice),
        (
            f"over {len(scores.structures)} structures and {len(scores.cases)} cases; "
            "used for selecting the checkpoint"
        ),
    )
    worst = scores.cases[0] if scores.cases else None
    if worst is None or worst.mean_dice is None:
        return [mean]
    return [mean, ("worst case", number(worst.mean_dice), worst.name)]


def _steps_headline(run: ReportedRun) -> tuple[str, str, str]:
    remark = f"of {run.settings.training.steps}; {duration(run.seconds)}"
    return "steps", f"{run.steps_done:,}", remark


def _folds_headline(runs: Sequence[ReportedRun]) -> tuple[str, str, str]:
    measured = sum(run.is_measured for run in runs)
    seconds = sum(run.seconds for run in runs)
    return "folds measured", f"{measured}", f"of {len(runs)}; {duration(seconds)}"


def _memory_warnings(run: ReportedRun) -> list[str]:
    return [row["note"] for row in run.log if row["kind"] == "memory"]


def _presence(runs: Sequence[ReportedRun]) -> dict[str, PresenceScores]:
    """What classifiers told of the cases that they had left out; else empty."""
    told = [
        read_presence(run.directory.presence)
        for run in runs
        if run.directory.presence.exists()
    ]
    return pooled_presence(told) if told else {}


def _why_no_scores(fold: Fold) -> str:
    if not fold.validation:
        return "The run has no validation cases, so nothing was measured."
    return (
        "The validation cases have not been measured yet; that happens when training "
        "ends. If it was stopped, continue it with foveal train --resume."
    )


def _plugin_facts(run: RunDirectory) -> Facts:
    return [
        (
            "Own parts",
            (
                f"The plugin {plugin.path.name} adds {plugin.words}. Hash (blake2b) "
                f"{plugin.digest}; a copy is kept in the run."
            ),
        )
        for plugin in kept_plugins(run)
    ]


def _environment_facts(run: RunDirectory) -> Facts:
    path = run.path / "environment.json"
    if not path.exists():
        return []
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        commit = f", commit {made['commit'][:12]}" if made["commit"] else ""
        words = (
            f"Foveal {made['foveal']}{commit}; Python {made['python']}, PyTorch "
            f"{made['torch']} on {made['device']} with {made['threads']} threads, "
            f"{made['platform']}."
        )
    except (ValueError, KeyError, TypeError):
        words = f"Not known: {path.name} is damaged."
    return [("Made with", words)]


def _files(
    folder: Path,
    runs: Sequence[ReportedRun],
    dataset: Dataset | None,
    scores: RunScores | None,
) -> list[tuple[str, str]]:
    """What to open: the worst cases' volumes first, then the folder's own files."""
    predictions: dict[str, Path] = {}
    for run in runs:
        predictions |= validation_predictions(run.directory)
    cases = {case.name: case for case in dataset.cases} if dataset else {}
    files = []
    for case in scores.cases[:NUM_OVERLAYS] if scores else ():
        if case.name in cases:
            listed = cases[case.name]
            files.append((f"{case.name}, image", str(listed.channels[0].path)))
            if listed.is_labelled:
                reference = listed.label_map or listed.structure_files[0].path.parent
                files.append((f"{case.name}, reference", str(reference)))
        if case.name in predictions:
            path = predictions[case.name].resolve()
            files.append((f"{case.name}, prediction", str(path)))
    for what, name in (
        ("All scores", "metrics.json"),
        ("All scores", "validation/metrics.json"),
        ("All scores", "presence.json"),
        ("All scores", "validation/presence.json"),
        ("Settings", "settings.toml"),
        ("Settings", "cross_validation.toml"),
        ("Plan", "plan.toml"),
        ("Patients", "splits.toml"),
        ("Log", "log.jsonl"),
        ("Curves, live", "tensorboard"),
        ("Weights", "checkpoints"),
    ):
        if (folder / name).exists():
            files.append((what, str((folder / name).resolve())))
    if folder != runs[0].directory.path:
        files += [(run.name, str(run.directory.path.resolve())) for run in runs]
    return files
