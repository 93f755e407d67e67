"""Runs that a path stands for: of a cross-validation all, of an ensemble some."""

from pathlib import Path

from foveal.engine.checkpoints import has_checkpoint, load_newest, problem_of_best
from foveal.engine.ensemble_directory import entered_runs, is_ensemble
from foveal.engine.run_directory import (
    RunDirectory,
    find_runs,
    is_cross_validation,
    is_run,
    open_cross_validation,
    open_run,
)
from foveal.errors import EvaluationError, RunError
from foveal.metrics.evaluation import read_evaluation
from foveal.planning.splits import read_splits
from foveal.settings_files import read_settings


def is_finished(run: RunDirectory) -> bool:
    """Whether nothing is left to do; the validation cases are measured last of all."""
    if not is_run(run.path):
        return False
    settings, _ = read_settings(open_run(run.path).settings)
    best = run.checkpoints / "best.safetensors"
    if best.exists() and problem_of_best(run.checkpoints):
        # Training drops it, with what was predicted by it.
        return False
    if run.presence.exists():
        return True
    if read_splits(run.splits).folds[settings.splits.fold].validation:
        try:
            read_evaluation(run.metrics)
        except EvaluationError:
            # Absent, or damaged: then it is measured again.
            return False
        return True
    if settings.training.steps is None or not has_checkpoint(run.checkpoints):
        return False
    _, state, _ = load_newest(run.checkpoints)
    return bool(state["step"] >= settings.training.steps)


def finished_runs(path: Path) -> tuple[RunDirectory, ...]:
    """The runs that a path stands for, see `find_runs`; a cross-validation is whole.

    Of an ensemble the members that entered. A single run may still be in training:
    whoever names it has chosen it.

    Raises:
        RunError: It is neither a run nor a folder of runs, a cross-validation of which
            a fold is not finished, or an ensemble that no member has entered.
    """
    if is_ensemble(path):
        return entered_runs(path)
    if not is_cross_validation(path):
        return find_runs(path)
    folder = open_cross_validation(path)
    num_folds = len(read_splits(folder.splits).folds)
    folds = tuple(folder.fold(number) for number in range(num_folds))
    finished = [fold for fold in folds if is_finished(fold)]
    if len(finished) < num_folds:
        missing = ", ".join(fold.path.name for fold in folds if fold not in finished)
        named = " ".join(str(fold.path) for fold in finished)
        instead = f", or give the finished folds one by one: {named}" if named else ""
        raise RunError(
            f"{path} is a cross-validation of {num_folds} folds of which "
            f"{len(finished)} are finished ({missing} missing or unfinished); go on "
            f"with foveal train --resume{instead}"
        )
    return folds
