"""Bring every case of a data set to the plan's grid and scale, and keep it on disk."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal.building import preprocessing_recipe
from foveal.case import CaseFiles, Dataset
from foveal.commands.landmarks import with_landmarks_of_files
from foveal.commands.plan import cases_at_once
from foveal.commands.plan import plan as make_plan
from foveal.config.plan import Plan
from foveal.errors import CaseError
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.preprocessing.labels import annotated_structures
from foveal.preprocessing.pipeline import PreprocessingRecipe, preprocess_case
from foveal.preprocessing.sources import DIGESTS_FILE, FileDigests, readable_content
from foveal.settings_files import read_plan
from foveal.store.store import Store, StoredCase, default_store_root, entry_key

PROBLEMS_SHOWN = 10

_LOGGER = logging.getLogger(__name__)


def preprocess(
    dataset: Path | str | Dataset,
    plan: Path | Plan | None = None,
    *,
    store: Path | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[StoredCase]:
    """Preprocess every case, labelled or not, that the store does not hold yet.

    May be stopped at any moment and called again; finished cases are kept.

    Args:
        dataset: Folder or table, or what `foveal.read_dataset` returned.
        plan: Or its file; ``None``: the data set is planned now.
        store: Folder; ``None``: `default_store_root`.
        threads: Cases worked on at once, fewer if memory is short; ``None``: as many as
            the processor runs.
        on_progress: Told cases done, cases in all and the name of the last.

    Returns:
        The stored cases in the data set's order.

    Raises:
        CaseError: Some cases cannot be used; the others are in the store.
        SettingsError: The plan asks for landmarks to be learned, which needs the
            training cases of a fold: see `foveal.train`.
    """
    if not isinstance(dataset, Dataset):
        dataset = read_dataset(Path(dataset))
    if plan is None:
        plan = make_plan(dataset, threads=threads).plan
    elif not isinstance(plan, Plan):
        plan = read_plan(plan)
    plan = with_landmarks_of_files(plan)
    recipe, structures = preprocessing_recipe(plan), tuple(plan.labels.structures)
    target = Store(store or default_store_root())
    target.remove_unfinished()
    digests = FileDigests(target.root / DIGESTS_FILE)
    stored: dict[str, StoredCase] = {}
    problems: list[str] = []
    with ThreadPoolExecutor(cases_at_once(threads)) as pool:
        futures = {
            pool.submit(
                _stored_case, files, recipe, structures, target, digests
            ): files.name
            for files in dataset.cases
        }
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                name = futures[future]
                try:
                    stored[name] = future.result()
                except CaseError as error:
                    problems.append(str(error))
                if on_progress is not None:
                    on_progress(done, len(futures), name)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            digests.save()
    if problems:
        raise CaseError(
            f"{len(problems)} of {len(dataset.cases)} cases cannot be used:\n"
            + "\n".join(sorted(problems)[:PROBLEMS_SHOWN])
            + "\nfoveal check lists all that is wrong with a data set."
        )
    return [
        replace(
            stored[files.name],
            present=_present(files, structures),
            domain=files.domain,
        )
        for files in dataset.cases
    ]


def stored_copy(
    files: CaseFiles, plan: Plan, *, store: Path | None = None
) -> StoredCase | None:
    """The preprocessed case if the store holds it; nothing is made or changed.

    Args:
        files: Of the case.
        plan: By which it was preprocessed.
        store: Folder; ``None``: `default_store_root`.

    Returns:
        ``None``: it is not there, or not sound, or its files cannot be read.
    """
    recipe, structures = preprocessing_recipe(plan), tuple(plan.labels.structures)
    kept = Store(store or default_store_root())
    try:
        content = readable_content(files, FileDigests(kept.root / DIGESTS_FILE))
        key = _key(recipe, structures, content)
        return kept.open(key, name=files.name, patient=files.patient)
    except CaseError:
        return None


def _key(
    recipe: PreprocessingRecipe, structures: Sequence[str], content: dict[str, Any]
) -> str:
    return entry_key(
        {"recipe": recipe.digest, "structures": list(structures), **content}
    )


def _stored_case(
    files: CaseFiles,
    recipe: PreprocessingRecipe,
    structures: Sequence[str],
    store: Store,
    digests: FileDigests,
) -> StoredCase:
    """The case from the store, where it is put first if it is not there."""
    content = readable_content(files, digests)
    key = _key(recipe, structures, content)
    if store.contains(key):
        try:
            return store.open(key, name=files.name, patient=files.patient)
        except CaseError:
            # Nothing is lost with a damaged entry: it is made anew from the files.
            _LOGGER.warning(
                "case %s: its preprocessed copy was damaged; it is made anew",
                files.name,
            )
            store.discard(key)
    case = read_case(files, resample_channels=recipe.resample_channels)
    prepared = preprocess_case(case, recipe, annotated=files.annotated)
    store.write(
        key,
        prepared.image,
        prepared.label_map,
        prepared.grid,
        num_classes=recipe.num_classes,
        annotated=_annotated(files, structures),
        weight_map=prepared.weight_map,
        mask=prepared.mask,
        missing_channels=prepared.missing_channels,
    )
    return store.open(key, name=files.name, patient=files.patient)


def _present(files: CaseFiles, structures: Sequence[str]) -> tuple[bool, ...] | None:
    if files.present is None:
        return None
    return tuple(name in files.present for name in structures)


def _annotated(files: CaseFiles, structures: Sequence[str]) -> tuple[bool, ...] | None:
    try:
        return annotated_structures(files.annotated, structures)
    except CaseError as error:
        raise CaseError(f"case {files.name}: {error}") from error
