"""Which patients are trained on, validated on and kept for the test.

Always by patient: two scans of one person are alike, so a network trained on one is not
tested by the other.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from foveal.case import CaseFiles, NamedFold
from foveal.errors import DatasetError, SettingsError

FORMAT_VERSION = 1

USUAL_FOLDS = 5

_HEADER = """\
# Patients per fold. "train" is trained on; "validation" chooses the best checkpoint, so
# its scores are optimistic; "test" is never read in training.
"""


@dataclass(frozen=True)
class Fold:
    """Patients of one run, by name, in order of name."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    """Used for selection; may be empty."""

    test: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """One division per fold; the test patients are the same in all."""

    folds: tuple[Fold, ...]


def make_splits(
    cases: Sequence[CaseFiles],
    folds: int | None,
    seed: int,
    *,
    given: Sequence[NamedFold] | None = None,
) -> Splits:
    """Divide the labelled patients, keeping the splits that the data set names.

    Patients of a "test" split are never trained on or validated. If a "validation"
    split is named there is one fold. Otherwise the remaining patients are shuffled and
    dealt in turn, one domain after the other, and fold K validates on part K: every
    domain is spread over the folds as evenly as its patients allow. Depends on the
    patients' names, not on their order.

    Args:
        cases: Of the data set; where it names splits, a case without one is trained on.
            Unlabelled cases count for the test split only.
        folds: Parts; 1 trains on every patient and validates on none. ``None``:
            `USUAL_FOLDS`, or one per patient if there are fewer; or as many as given.
        seed: Of the shuffling.
        given: Folds that the data set brings, by names of its cases; they are used as
            they are.

    Raises:
        DatasetError: A patient is in two splits, nobody is left to train on, there
            are fewer patients than folds, or the folds given contradict the rest.
    """
    named = _named_splits(cases)
    labelled = {case.patient for case in cases if case.is_labelled}
    test = tuple(sorted(name for name, split in named.items() if split == "test"))
    validation = tuple(sorted(name for name in labelled if named[name] == "validation"))
    train = sorted(labelled.difference(test, validation))
    if not train:
        raise DatasetError(
            f"no patient with a label map is left to train on ({len(test)} for the "
            f"test, {len(validation)} for validation); add labelled cases or change "
            "the splits that the data set names"
        )
    if given is not None:
        if validation:
            raise DatasetError(
                f"the data set brings {len(given)} folds and names {len(validation)} "
                "patients for validation; keep one of the two"
            )
        return _given_splits(cases, folds, given, labelled.difference(test), test)
    if folds is None:
        folds = min(USUAL_FOLDS, len(train))
    if validation or folds == 1:
        return Splits((Fold(tuple(train), validation, test),))
    if len(train) < folds:
        raise DatasetError(
            f"{len(train)} patients cannot be divided into {folds} folds; "
            f'use "--set splits.folds={len(train)}" or fewer'
            + (" (1: no validation)" if len(train) > 1 else "")
        )
    shuffled = np.random.default_rng(seed).permutation(train).tolist()
    # A stable sort: within a domain the patients stay shuffled.
    dealt = sorted(shuffled, key=_domains(cases).__getitem__)
    return Splits(
        tuple(
            Fold(
                tuple(sorted(set(train).difference(dealt[fold::folds]))),
                tuple(sorted(dealt[fold::folds])),
                test,
            )
            for fold in range(folds)
        )
    )


def _given_splits(
    cases: Sequence[CaseFiles],
    folds: int | None,
    given: Sequence[NamedFold],
    labelled: set[str],
    test: tuple[str, ...],
) -> Splits:
    """The data set's own folds, by patient."""
    if folds is not None and folds != len(given):
        raise DatasetError(
            f"splits.folds is {folds} but the data set brings {len(given)} folds; "
            "leave splits.folds unset, or remove splits_final.json to have the "
            "patients divided anew"
        )
    patients = {case.name: case.patient for case in cases}
    made = []
    for number, fold in enumerate(given):
        train, validation = (
            {patients[name] for name in names} & labelled
            for names in (fold.train, fold.validation)
        )
        both = sorted(train & validation)
        if both:
            raise DatasetError(
                f"fold {number} of the data set trains on and validates patient "
                f"{both[0]} ({len(both)} such patients); splits are by patient"
            )
        if not train:
            raise DatasetError(
                f"fold {number} of the data set has no labelled patient to train on"
            )
        made.append(Fold(tuple(sorted(train)), tuple(sorted(validation)), test))
    return Splits(tuple(made))


def _domains(cases: Sequence[CaseFiles]) -> dict[str, list[str]]:
    """Patient to the domains of the patient's labelled cases, in order of name."""
    found: dict[str, set[str]] = {}
    for case in cases:
        if case.is_labelled:
            found.setdefault(case.patient, set()).add(case.domain or "")
    return {patient: sorted(domains) for patient, domains in found.items()}


def _named_splits(cases: Sequence[CaseFiles]) -> dict[str, str]:
    """Patient to the split that the data set names, ``"train"`` where it names none."""
    named: dict[str, str] = {}
    for case in cases:
        split = case.split or "train"
        other = named.setdefault(case.patient, split)
        if other != split:
            raise DatasetError(
                f'patient {case.patient} has cases in the splits "{other}" and '
                f'"{split}"; splits are by patient, so put all of them in one'
            )
    return named


def splits_to_toml(splits: Splits) -> str:
    """Text of a ``splits.toml`` that `read_splits` reads and a person can edit."""
    table = {
        "format_version": FORMAT_VERSION,
        "folds": [
            {name: list(patients) for name, patients in asdict(fold).items()}
            for fold in splits.folds
        ],
    }
    return _HEADER + tomli_w.dumps(table, multiline_strings=False)


def read_splits(path: Path) -> Splits:
    """Read and check a ``splits.toml``.

    Raises:
        SettingsError: The file is absent, of another version or form, or a patient is
            in two parts of a fold.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path} does not exist; give a splits file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a TOML file: {error}") from error
    version = table.get("format_version")
    if version != FORMAT_VERSION:
        raise SettingsError(
            f"{path} has format_version {version}; this Foveal reads {FORMAT_VERSION}"
        )
    folds = table.get("folds")
    if not isinstance(folds, list) or not folds:
        raise SettingsError(f"{path} names no folds; add a [[folds]] table")
    return Splits(
        tuple(_fold(entry, f"{path}: fold {n}") for n, entry in enumerate(folds))
    )


def _fold(entry: Any, place: str) -> Fold:  # noqa: ANN401 - whatever the file holds
    parts = ("train", "validation", "test")
    if not isinstance(entry, dict) or entry.keys() != set(parts):
        raise SettingsError(f"{place} must hold the lists {', '.join(parts)}")
    for name in parts:
        patients = entry[name]
        if not isinstance(patients, list) or not all(
            isinstance(patient, str) for patient in patients
        ):
            raise SettingsError(f"{place}: {name} must be a list of patient names")
    together = [patient for name in parts for patient in entry[name]]
    repeated = sorted({name for name in together if together.count(name) > 1})
    if repeated:
        raise SettingsError(
            f"{place} names {repeated} more than once; a patient belongs to one of "
            f"{', '.join(parts)}"
        )
    if not entry["train"]:
        raise SettingsError(f"{place} has nobody to train on")
    return Fold(*(tuple(entry[name]) for name in parts))
