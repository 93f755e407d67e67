"""Landmarks of a plan's channels: read from files, or learned from training cases."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from foveal import building
from foveal.case import CaseFiles
from foveal.commands.plan import cases_at_once
from foveal.config.plan import (
    LEARN,
    STANDARD_PERCENTILES,
    ChannelConfig,
    LandmarksConfig,
    Plan,
)
from foveal.engine.run_directory import RunDirectory
from foveal.errors import DatasetError, SettingsError
from foveal.io.cases import read_case
from foveal.io.files import atomic_write_text
from foveal.io.landmarks import ChannelLandmarks, read_landmarks, write_landmarks
from foveal.preprocessing.histogram_standardisation import learned_landmarks
from foveal.preprocessing.pipeline import PreprocessingRecipe, landmarks_of_case
from foveal.preprocessing.sources import DIGESTS_FILE, FileDigests, readable_content
from foveal.settings_files import changed_plan
from foveal.store.store import default_store_root, entry_key

KEPT_FOLDER = "landmarks"
"""In the store: what was found in each case, by content, so that a fold that shares
cases with another, or a run that was stopped, does not look at them again."""

Found = dict[int, tuple[float, ...]]
"""Number of a channel to the landmarks of one case, which may lack a channel."""


def with_landmarks_of_files(plan: Plan) -> Plan:
    """Plan whose channels have the numbers in place of landmark files.

    Raises:
        SettingsError: A file is missing, damaged, of another channel or of other
            percentiles than the channel's.
    """
    chosen: dict[int, ChannelLandmarks] = {}
    for number, channel in enumerate(plan.preprocessing.channels):
        if isinstance(channel.landmarks, str) and channel.landmarks != LEARN:
            path = Path(channel.landmarks)
            chosen[number] = read_landmarks(path, channel.name)
            try:
                _with_landmarks(plan, {number: chosen[number]})
            except SettingsError as error:
                raise SettingsError(f"{path} does not suit: {error}") from error
    return _with_landmarks(plan, chosen)


def require_landmark_files(plan_entries: Mapping[str, Any]) -> None:
    """Refuse landmark files that cannot be used, before the data are looked at.

    Args:
        plan_entries: Tables of the plan that were checked as such.

    Raises:
        SettingsError: As of `read_landmarks`.
    """
    for channel in plan_entries.get("preprocessing", {}).get("channels", ()):
        landmarks = channel.get("landmarks", LEARN)
        if isinstance(landmarks, str) and landmarks != LEARN:
            read_landmarks(Path(landmarks), channel["name"])


def channels_to_learn(plan: Plan) -> dict[int, ChannelConfig]:
    """Channels whose landmarks are to be learned, by their number."""
    return {
        number: channel
        for number, channel in enumerate(plan.preprocessing.channels)
        if channel.landmarks == LEARN
    }


def with_learned_landmarks(
    plan: Plan,
    cases: Sequence[CaseFiles],
    *,
    store: Path | None,
    threads: int | None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Plan:
    """Plan whose channels have landmarks learned from cases, where they ask for it.

    Cases are read one after another, or as many at once as there are threads. What was
    found in each is kept in the store.

    Args:
        plan: Without landmark files, see `with_landmarks_of_files`.
        cases: To train on; no other may be looked at.
        store: Folder; ``None``: `default_store_root`.
        threads: Cases at once, fewer if memory is short; ``None``: as many as the
            processor runs.
        on_progress: Told cases done, cases in all and the name of the last.

    Returns:
        The plan itself if no channel asks for it.

    Raises:
        CaseError: A case cannot be used.
        DatasetError: There are no cases, or landmarks that they agree on.
    """
    channels = channels_to_learn(plan)
    if not channels:
        return plan
    if not cases:
        raise DatasetError(
            "landmarks are learned from the training cases, of which there are none"
        )
    percentiles = {
        number: channel.landmark_percentiles or STANDARD_PERCENTILES
        for number, channel in channels.items()
    }
    found = _found_in_cases(
        cases,
        building.recipe_before_landmarks(plan),
        percentiles,
        store or default_store_root(),
        threads,
        on_progress,
    )
    learned = {}
    for number, channel in channels.items():
        # Cases may lack the channel.
        of_cases = [case[number] for case in found if number in case]
        if not of_cases:
            raise DatasetError(
                f'channel "{channel.name}": landmarks are learned from training cases, '
                "all of which lack the channel; add it to some, or leave landmarks out"
            )
        try:
            landmarks = learned_landmarks(percentiles[number], of_cases)
        except DatasetError as error:
            raise DatasetError(f'channel "{channel.name}": {error}') from error
        learned[number] = ChannelLandmarks(
            channel.name, landmarks.percentiles, landmarks.values, len(of_cases)
        )
    return _with_landmarks(plan, learned)


def write_learned_landmarks(run: RunDirectory, before: Plan, after: Plan) -> None:
    """Write what was learned beside the plan; nothing if nothing was.

    Args:
        run: Where to.
        before: The plan that asks for it.
        after: The plan with the numbers.
    """
    learned = [
        ChannelLandmarks(channel.name, **channel.landmarks.model_dump())
        for number, channel in enumerate(after.preprocessing.channels)
        if number in channels_to_learn(before)
        and channel.landmarks is not None
        and not isinstance(channel.landmarks, str)
    ]
    if learned:
        write_landmarks(run.landmarks, learned)


def with_landmarks_of_run(plan: Plan, begun: Plan) -> Plan:
    """Plan with a run's numbers where it asks to learn, or for a file that is gone.

    A file that is there is left to be compared.

    Args:
        plan: What a person asks for.
        begun: The run's own.

    Raises:
        SettingsError: The run's landmarks are of other percentiles.
    """
    chosen = {
        number: ChannelLandmarks(channel.name, **own.landmarks.model_dump())
        for number, (channel, own) in enumerate(
            zip(plan.preprocessing.channels, begun.preprocessing.channels, strict=False)
        )
        if isinstance(own.landmarks, LandmarksConfig)
        and isinstance(channel.landmarks, str)
        and (channel.landmarks == LEARN or not Path(channel.landmarks).exists())
    }
    return _with_landmarks(plan, chosen)


def _with_landmarks(plan: Plan, chosen: Mapping[int, ChannelLandmarks]) -> Plan:
    """Plan with the landmarks of some channels, checked."""
    if not chosen:
        return plan
    channels = [channel.model_dump() for channel in plan.preprocessing.channels]
    for number, landmarks in chosen.items():
        channels[number]["landmarks"] = {
            "percentiles": landmarks.percentiles,
            "values": landmarks.values,
            "num_cases": landmarks.num_cases,
        }
    return changed_plan(plan, {"preprocessing": {"channels": channels}})


def _found_in_cases(
    cases: Sequence[CaseFiles],
    recipe: PreprocessingRecipe,
    percentiles: Mapping[int, Sequence[float]],
    store: Path,
    threads: int | None,
    on_progress: Callable[[int, int, str], None] | None,
) -> list[Found]:
    """Landmarks of every case, in the order of the cases."""
    digests = FileDigests(store / DIGESTS_FILE)
    found: dict[int, Found] = {}
    with ThreadPoolExecutor(cases_at_once(threads)) as pool:
        futures = {
            pool.submit(
                _found_in_case, files, recipe, percentiles, store, digests
            ): number
            for number, files in enumerate(cases)
        }
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                number = futures[future]
                found[number] = future.result()
                if on_progress is not None:
                    on_progress(done, len(cases), cases[number].name)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            digests.save()
    return [found[number] for number in range(len(cases))]


def _found_in_case(
    files: CaseFiles,
    recipe: PreprocessingRecipe,
    percentiles: Mapping[int, Sequence[float]],
    store: Path,
    digests: FileDigests,
) -> Found:
    """Landmarks of a case, from the store if they were found before."""
    content = readable_content(files, digests)
    key = entry_key(
        {
            "recipe": recipe.digest,
            "percentiles": [
                [number, *wanted] for number, wanted in percentiles.items()
            ],
            **content,
        }
    )
    path = store / KEPT_FOLDER / f"{key}.json"
    kept = _read_kept(path, percentiles)
    if kept is not None:
        return kept
    case = read_case(files, resample_channels=recipe.resample_channels)
    found = landmarks_of_case(case, recipe, percentiles)
    atomic_write_text(path, json.dumps([found.get(number) for number in percentiles]))
    return found


def _read_kept(path: Path, percentiles: Mapping[int, Sequence[float]]) -> Found | None:
    """What was kept of a case; ``None`` if there is nothing sound."""
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
        found = {
            number: tuple(float(value) for value in row)
            for number, row in zip(percentiles, rows, strict=True)
            if row is not None
        }
    except (OSError, TypeError, ValueError):
        return None
    is_whole = all(len(row) == len(percentiles[n]) for n, row in found.items())
    return found if is_whole else None
