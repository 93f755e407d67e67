"""Train the members of an ensemble as independent jobs, and let the good ones enter.

EMMA: Kamnitsas et al. 2018, "Ensembles of Multiple Models and Architectures for Robust
Brain Tumour Segmentation", https://arxiv.org/abs/1711.01468; Kamnitsas's thesis
(Imperial College London 2019), chapter 4.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foveal import building
from foveal.case import Dataset
from foveal.commands.ensemble_members import (
    chosen_members,
    divided_for,
    planned_members,
    require_measurable,
    require_member_cases,
    write_members,
)
from foveal.commands.ensemble_table import EnsembleTable, ensemble_table
from foveal.commands.evaluate import evaluate
from foveal.commands.fit import Watcher
from foveal.commands.folds import is_finished
from foveal.commands.plan import plan as make_plan
from foveal.commands.plan import usable_threads
from foveal.config.ensemble import EnsembleConfig, EntryConfig
from foveal.config.plan import Plan
from foveal.engine.checkpoints import load_newest
from foveal.engine.ensemble_directory import (
    EnsembleDirectory,
    MemberOutcome,
    create_ensemble,
    open_ensemble,
    write_outcomes,
)
from foveal.engine.run_directory import RunDirectory, is_run, write_with_checksum
from foveal.errors import FovealError, RunError, SettingsError
from foveal.io.datasets import read_dataset
from foveal.launch.jobs import Ended, Job, JobWatcher, Launcher
from foveal.launch.local import LocalPool
from foveal.planning.splits import read_splits, splits_to_toml
from foveal.plugins.parts import Parts
from foveal.plugins.registration import Plugin
from foveal.settings_files import read_ensemble, read_plan, to_toml


@dataclass(frozen=True)
class TrainedEnsemble:
    """What became of the members, and of them together."""

    outcomes: tuple[MemberOutcome, ...]
    table: EnsembleTable


def ensemble_train(
    source: Path | str,
    out: Path | str,
    *,
    workers: int = 1,
    resume: bool = False,
    plugins: Sequence[Path | str | Plugin] = (),
    launcher: Launcher | None = None,
    watcher: Watcher | None = None,
) -> TrainedEnsemble:
    """Train every member, let those enter that are good enough, and measure them.

    A member that fails does not stop the others. `foveal.predict` and all that takes a
    model takes ``out`` for the members that entered.

    Args:
        source: The ensemble's settings file.
        out: Folder of the ensemble; must not exist, or be empty, unless resuming.
        workers: Members trained at once; the processor's threads are divided among
            them.
        resume: Go on in ``out``: finished members stay, others go on. The entry rule
            and the regions may be others than before, and members may be added.
        plugins: Files that add losses, networks, samplers or methods; they are run.
        launcher: Runs the members' trainings; unset: processes of this machine.
        watcher: Told of progress.

    Raises:
        FovealError: Something the user can mend; all mistakes in the settings are told
            at once. `RunError` if no member enters.
    """
    watcher = watcher or Watcher()
    config, parts = read_ensemble(Path(source)), building.parts_with(plugins)
    dataset = read_dataset(config.dataset)
    require_measurable(config, dataset)
    threads = max(usable_threads() // workers, 1)
    folder = EnsembleDirectory(Path(out))
    if resume:
        _require_same_ensemble(open_ensemble(folder.path), config)
    _begin(folder, config, dataset, parts, threads, watcher, is_new=not resume)
    jobs = [
        _job(folder, name, config, parts.plugins, threads)
        for name in config.full_names
        if not is_finished(folder.member(name))
    ]
    kept = len(config.full_names) - len(jobs)
    if kept:
        watcher.on_stage(f"{kept} of {len(config.full_names)} members are trained")
    told = JobWatcher(
        on_start=lambda job: watcher.on_stage(
            f"{job.name}: training; log in {job.log}"
        ),
        on_end=lambda ended: watcher.on_stage(f"{ended.name}: {_end_words(ended)}"),
    )
    ended = (launcher or LocalPool(workers)).run(jobs, told)
    return _measured(folder, config, parts.plugins, ended, watcher)


def ensemble_measure(
    ensemble: Path | str,
    *,
    plugins: Sequence[Path | str | Plugin] = (),
    watcher: Watcher | None = None,
) -> TrainedEnsemble:
    """Measure members and ensembles again, and let members enter by the rule.

    What was predicted is used again, if it is of the same weights.

    Args:
        ensemble: Folder that `ensemble_train` wrote.
        plugins: Files of the members' networks, if plugins added them; they are run.
        watcher: Told of progress.

    Raises:
        FovealError: As `ensemble_train`.
    """
    folder = open_ensemble(Path(ensemble))
    config = read_ensemble(folder.settings)
    require_measurable(config, read_dataset(config.dataset))
    given = building.parts_with(plugins).plugins
    return _measured(folder, config, given, (), watcher or Watcher())


def _require_same_ensemble(folder: EnsembleDirectory, config: EnsembleConfig) -> None:
    """Refuse a file that would train other members than those that are there.

    Raises:
        SettingsError: Says what differs.
    """
    begun = read_ensemble(folder.settings)
    free = {"entry", "regions", "members"}
    mine, theirs = (one.model_dump(exclude=free) for one in (begun, config))
    differing = [name for name in mine if mine[name] != theirs[name]]
    wanted = {member.name: member for member in config.members}
    differing += [
        f"member {member.name}"
        for member in begun.members
        if wanted.get(member.name) != member
    ]
    if differing:
        raise SettingsError(
            f"the ensemble in {folder.path} was begun with other settings: "
            f"{', '.join(differing)}. To resume, give the file that it was begun with; "
            "only entry and regions may be changed, and members added"
        )


def _begin(
    folder: EnsembleDirectory,
    config: EnsembleConfig,
    dataset: Dataset,
    parts: Parts,
    threads: int,
    watcher: Watcher,
    *,
    is_new: bool,
) -> None:
    """Write down what the members start from, once nothing stands against it."""
    is_begun = [folder.member_settings(name).exists() for name in config.full_names]
    if not all(is_begun):
        members = chosen_members(config, dataset, parts, threads=threads)
        splits = divided_for(config, members, dataset, watcher)
        planned = _plan(folder, config, dataset, threads, watcher)
        own_plans = planned_members(members, planned, parts)
        require_member_cases(own_plans, splits, config.fold, dataset, parts)
    if is_new:
        create_ensemble(folder.path)
    # First, so that an ensemble which is stopped from here on can be resumed.
    write_with_checksum(folder.settings, to_toml(config))
    if not all(is_begun):
        if not folder.splits.exists():
            write_with_checksum(folder.splits, splits_to_toml(splits))
            write_with_checksum(folder.plan, to_toml(planned))
        write_members(folder, own_plans)


def _plan(
    folder: EnsembleDirectory,
    config: EnsembleConfig,
    dataset: Dataset,
    threads: int,
    watcher: Watcher,
) -> Plan:
    """The plan of the data, which those of the members are made from."""
    if folder.plan.exists():
        return read_plan(folder.plan)
    watcher.on_stage("planning from the data, once for all members")
    common = config.settings.get("preprocessing", {})
    made = make_plan(
        dataset,
        threads=threads,
        device=config.settings.get("training", {}).get("device", "auto"),
        resample_channels=common.get("resample_channels", False),
        missing_channel_value=common.get("missing_channel_value"),
        on_progress=watcher.on_cases,
    )
    for reason in made.reasons:
        watcher.on_stage(reason)
    return made.plan


def _job(
    folder: EnsembleDirectory,
    name: str,
    config: EnsembleConfig,
    plugins: Sequence[Plugin],
    threads: int,
) -> Job:
    """Training of a member from wherever it stands."""
    run = folder.member(name).path.resolve()
    command = [sys.executable, "-m", "foveal", "train"]
    if is_run(run):
        command += [str(config.dataset.resolve()), "--out", str(run), "--resume"]
    else:
        settings, plan = folder.member_settings(name), folder.member_plan(name)
        command += [str(settings.resolve()), "--plan", str(plan.resolve())]
        command += ["--out", str(run)]
    for plugin in plugins:
        command += ["--plugin", str(plugin.path.resolve())]
    return Job(name, tuple(command), folder.log(name).resolve(), threads)


def _end_words(ended: Ended) -> str:
    minutes, seconds = divmod(round(ended.seconds), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    if ended.problem:
        return f"failed after {took}, {ended.problem}"
    return f"finished after {took}"


def _measured(
    folder: EnsembleDirectory,
    config: EnsembleConfig,
    plugins: Sequence[Plugin],
    ended: Sequence[Ended],
    watcher: Watcher,
) -> TrainedEnsemble:
    """Decide who enters, and measure members and ensembles.

    Raises:
        RunError: Nobody enters.
    """
    watcher.on_stage("measuring the members in the validation cases")
    problems = {one.name: one.problem for one in ended if one.problem}
    outcomes = tuple(
        member_outcome(
            folder.member(name), name, config, folder.splits, problems.get(name, "")
        )
        for name in config.full_names
    )
    write_outcomes(
        folder,
        outcomes,
        region=config.entry.region,
        threshold_dice=config.entry.threshold_dice,
    )
    if not any(outcome.entered for outcome in outcomes):
        raise RunError(nobody_entered(outcomes, config.entry, folder.path))
    table = ensemble_table(folder, config, outcomes, plugins, watcher)
    return TrainedEnsemble(outcomes, table)


def member_outcome(
    run: RunDirectory,
    name: str,
    config: EnsembleConfig,
    splits: Path,
    problem: str = "",
) -> MemberOutcome:
    """What became of a member, by the entry rule.

    Args:
        run: Of the member, begun or not.
        name: Of the member.
        config: With the rule.
        splits: The ensemble's; a member that has others was validated on other
            patients.
        problem: Why its training failed, if it did just now.
    """
    if not is_finished(run):
        why = problem or "not trained to the end"
        return MemberOutcome(name, None, None, entered=False, reason=why)
    if read_splits(run.splits) != read_splits(splits):
        why = "its patients are divided otherwise, as the data set has changed"
        return MemberOutcome(name, None, None, entered=False, reason=why)
    steps = int(load_newest(run.checkpoints)[1]["step"])
    entry = config.entry
    try:
        measured = evaluate(run.path, regions=config.regions)
    except FovealError as error:
        why = f"not measured: {error}"
        return MemberOutcome(name, steps, None, entered=False, reason=why)
    dice = measured.mean(entry.region, "dice")
    if math.isnan(dice):
        why = f"{entry.region} is in no validation case, so its Dice is not defined"
        return MemberOutcome(name, steps, None, entered=False, reason=why)
    if dice <= entry.threshold_dice:
        why = f"Dice of {entry.region} not above {entry.threshold_dice:g}"
        return MemberOutcome(name, steps, dice, entered=False, reason=why)
    return MemberOutcome(name, steps, dice, entered=True, reason="")


def nobody_entered(
    outcomes: Sequence[MemberOutcome], entry: EntryConfig, path: Path
) -> str:
    """Why there is no ensemble, with a line per member."""
    width = max(len(outcome.name) for outcome in outcomes)
    lines = [
        f"  {outcome.name:{width}}  "
        f"{'     -' if outcome.dice is None else format(outcome.dice, '.4f')}  "
        f"{outcome.reason}"
        for outcome in outcomes
    ]
    heading = (
        f"no member has a validated Dice of {entry.region} above "
        f"{entry.threshold_dice:g}:"
    )
    remedy = (
        "Lower entry.threshold_dice in the ensemble's file, or train longer in another "
        f"folder; then foveal ensemble train … --out {path} --resume measures again "
        "without training what is trained"
    )
    return "\n".join([heading, *lines, remedy])
