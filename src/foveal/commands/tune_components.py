"""Choose on validation cases which components of a prediction stay.

First all foreground together, then each structure by itself on top of that. A rule is
kept only where it helps in patients that it was not chosen on.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foveal import building
from foveal.commands.choosing import (
    LARGEST_P,
    Structures,
    TriedCase,
    Verdict,
    changed_counts,
    class_counts,
    dice_of_counts,
    judged,
    require_several_patients,
)
from foveal.commands.plan import usable_threads
from foveal.commands.validation_probabilities import ValidationCase, ValidationCases
from foveal.config.postprocessing import ComponentRuleConfig, PostprocessingConfig
from foveal.engine.run_directory import RunDirectory
from foveal.metrics.comparison import holm
from foveal.plugins.registration import Plugin
from foveal.postprocessing.components import with_component_rules
from foveal.settings_files import kept_postprocessing, write_postprocessing

EMMA_VOXELS = 250
"""Below which EMMA removes a component."""

SIZES = (0.01, 0.03, 0.1, 0.3)
"""Smallest components tried, as parts of the median reference volume."""


@dataclass(frozen=True)
class JudgedRules:
    """The rules tried for one structure, or for several together."""

    structures: tuple[str, ...]

    best: ComponentRuleConfig | None
    """Of the highest mean Dice over all cases; ``None``: no rule is better."""

    verdict: Verdict

    p_value: float | None
    """Adjusted by Holm's method for the structures that were tried by themselves."""

    is_kept: bool


@dataclass(frozen=True)
class TunedComponents:
    """What came of every rule."""

    tried: tuple[JudgedRules, ...]

    rules: tuple[ComponentRuleConfig, ...]
    """Those that are kept, in the order in which they apply; with their evidence."""

    together: Verdict | None
    """All of these against none; ``None`` if there are none."""

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "tried": [
                {
                    "structures": list(one.structures),
                    "rule": None if one.best is None else rule_in_words(one.best),
                    "is_kept": one.is_kept,
                    **one.verdict.as_record(),
                    "p_value": one.p_value,
                }
                for one in self.tried
            ],
            "rules": [
                rule.model_dump(mode="json", exclude_none=True) for rule in self.rules
            ],
            "together": None if self.together is None else self.together.as_record(),
        }


def tune_components(
    path: Path | str,
    *,
    max_cases: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    plugins: Sequence[Path | str | Plugin] = (),
    on_progress: Callable[[int, int, str], None] | None = None,
) -> TunedComponents:
    """Choose component rules on validation cases, and keep those that help.

    ``[[components]]`` of the folder's ``postprocessing.toml``, which ``foveal predict``
    follows, are replaced; removed where no rule helps. Its temperature, if it has one,
    comes before.

    Args:
        path: A run, a cross-validation or an ensemble.
        max_cases: Only the first ones; unset: all.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        threads: CPU threads; unset: all.
        plugins: Files of the runs' networks, if plugins added them; they are run.
        on_progress: Told cases done, cases in all and the name of the last.

    Raises:
        RunError: The path is none of these, or cannot predict.
        EvaluationError: The validation cases are of a single patient.
        CaseError: A case cannot be read.
    """
    torch.set_num_threads(threads or usable_threads())
    file = RunDirectory(Path(path)).postprocessing
    cases = ValidationCases(
        Path(path), device=device, plugins=plugins, on_progress=on_progress
    )
    steps = building.steps(kept_postprocessing(file, cases.digests))
    tuned = tuned_components(
        cases,
        cases.structures,
        temperature=steps.temperature,
        max_cases=max_cases,
        on_progress=on_progress,
    )
    write_postprocessing(
        file, PostprocessingConfig(made_of=cases.digests, components=tuned.rules)
    )
    return tuned


def tuned_components(
    cases: Iterable[ValidationCase],
    structures: Structures,
    *,
    temperature: float = 1.0,
    max_cases: int | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> TunedComponents:
    """Choose rules.

    Args:
        cases: Gone through once, one case in memory at a time.
        structures: In the order of the plan.
        temperature: Of the probabilities that are decided on.
        max_cases: Only the first ones; unset: all.
        on_progress: Told cases tried, cases in all and the name of the last.

    Raises:
        EvaluationError: They are of fewer than two patients.
    """
    with tempfile.TemporaryDirectory() as folder:
        kept = []
        for case in cases:
            kept.append(_kept_case(case, structures, temperature, Path(folder)))
            if len(kept) == max_cases:
                break
        require_several_patients([case.patient for case in kept])
        return _Tuning(kept, structures, on_progress).tuned()


@dataclass(frozen=True, eq=False)
class _KeptCase:
    """A decided case, its volumes in files."""

    name: str
    patient: str
    spacing_mm: Sequence[float]
    annotated: Sequence[bool] | None
    num_classes: int
    file: Path

    volumes_ml: Mapping[str, float]
    """Of the structures in the reference; absent ones left out."""

    def volumes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Decided classes and reference."""
        decided, reference = np.load(self.file)
        return decided, reference


def _kept_case(
    case: ValidationCase, structures: Structures, temperature: float, folder: Path
) -> _KeptCase:
    file = folder / f"{case.files.name}.npy"
    decided = case.decided(structures, temperature)
    np.save(file, np.stack([decided, case.reference]))
    voxels = np.bincount(case.reference.ravel(), minlength=256)
    voxel_ml = float(np.prod(case.spacing_mm)) / 1000
    volumes = {
        name: float(voxels[list(classes)].sum()) * voxel_ml
        for name, classes in structures.items()
    }
    return _KeptCase(
        name=case.files.name,
        patient=case.files.patient,
        spacing_mm=case.spacing_mm,
        annotated=case.annotated,
        num_classes=len(case.probabilities),
        file=file,
        volumes_ml={name: volume for name, volume in volumes.items() if volume},
    )


class _Tuning:
    """Rules one after another, on cases that change with each rule that is kept."""

    def __init__(
        self,
        cases: Sequence[_KeptCase],
        structures: Structures,
        on_progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self._cases, self._structures = cases, structures
        self._on_progress = on_progress
        self._num_classes = cases[0].num_classes

    def tuned(self) -> TunedComponents:
        """All foreground, then each structure."""
        tried: list[JudgedRules] = []
        rules: list[ComponentRuleConfig] = []
        names = tuple(self._structures)
        everything = {number for one in self._structures.values() for number in one}
        # One structure that is all foreground is tried as such only once.
        alone = [
            (name,)
            for name, classes in self._structures.items()
            if len(names) == 1 or set(classes) != everything
        ]
        if len(names) > 1:
            tried += self._judged([names], rules)
            rules += [_with_evidence(one) for one in tried if one.is_kept]
        for one in self._judged(alone, rules) if alone else ():
            # On top of the rules kept by now, of which some may lie around it.
            is_kept = one.is_kept and self._gains([*rules, *_rule_of(one)], rules)
            if is_kept:
                rules.append(_with_evidence(one))
            tried.append(replace(one, is_kept=is_kept))
        together = self._together(rules) if rules else None
        return TunedComponents(tuple(tried), tuple(rules), together)

    def _judged(
        self,
        groups: Sequence[tuple[str, ...]],
        before: Sequence[ComponentRuleConfig],
    ) -> list[JudgedRules]:
        """Judge the rules of several groups, each by itself after the same others."""
        candidates = [self._candidates(group) for group in groups]
        of_groups = self._tried(candidates, before)
        verdicts = [judged(cases) for cases in of_groups]
        adjusted = holm(
            [np.nan if one.p_value is None else one.p_value for one in verdicts]
        )
        answers = []
        for group, own, verdict, p in zip(
            groups, candidates, verdicts, adjusted, strict=True
        ):
            best = None if verdict.choice == 0 else own[verdict.choice - 1]
            p_value = None if np.isnan(p) else p
            is_kept = verdict.helps and (p_value is None or p_value < LARGEST_P)
            answers.append(JudgedRules(group, best, verdict, p_value, is_kept))
        return answers

    def _candidates(self, group: tuple[str, ...]) -> list[ComponentRuleConfig]:
        sizes: list[dict[str, Any]] = [{"smallest_voxels": EMMA_VOXELS}]
        volumes = [
            sum(case.volumes_ml.get(name, 0.0) for name in group)
            for case in self._cases
        ]
        present = [volume for volume in volumes if volume]
        if present:
            sizes += [
                {"smallest_ml": float(f"{part * median(present):.2g}")}
                for part in SIZES
            ]
        kept: list[dict[str, Any]] = [{"keep": "largest"}, *sizes]
        options = [*kept, {"fill_holes": True}]
        options += [{**one, "fill_holes": True} for one in kept]
        return [ComponentRuleConfig(structures=group, **one) for one in options]

    def _tried(
        self,
        candidates: Sequence[Sequence[ComponentRuleConfig]],
        before: Sequence[ComponentRuleConfig],
    ) -> list[list[TriedCase]]:
        """Per group, every case with the Dice of nothing and of each candidate."""
        of_groups: list[list[TriedCase]] = [[] for _ in candidates]
        for number, case in enumerate(self._cases, 1):
            own, reference = case.volumes()
            decided = self._applied(own, before, case)
            counts = class_counts(decided, reference, self._num_classes)
            without = dice_of_counts(counts, case.annotated, self._structures)
            for tried, rules in zip(of_groups, candidates, strict=True):
                dice = [without]
                for rule in rules:
                    after = self._applied(decided, [rule], case)
                    changed = changed_counts(counts, decided, after, reference)
                    dice.append(
                        dice_of_counts(changed, case.annotated, self._structures)
                    )
                tried.append(TriedCase(case.name, case.patient, tuple(dice)))
            if self._on_progress is not None:
                self._on_progress(number, len(self._cases), case.name)
        return of_groups

    def _together(self, rules: Sequence[ComponentRuleConfig]) -> Verdict:
        """All rules against none."""
        return judged(self._compared([], rules))

    def _gains(
        self,
        rules: Sequence[ComponentRuleConfig],
        without: Sequence[ComponentRuleConfig],
    ) -> bool:
        """Whether rules are better than others."""
        verdict = judged(self._compared(without, rules))
        return verdict.score_after > verdict.score_before

    def _compared(
        self,
        first: Sequence[ComponentRuleConfig],
        second: Sequence[ComponentRuleConfig],
    ) -> list[TriedCase]:
        compared = []
        for case in self._cases:
            decided, reference = case.volumes()
            dice = tuple(
                dice_of_counts(
                    class_counts(
                        self._applied(decided, rules, case),
                        reference,
                        self._num_classes,
                    ),
                    case.annotated,
                    self._structures,
                )
                for rules in (first, second)
            )
            compared.append(TriedCase(case.name, case.patient, dice))
        return compared

    def _applied(
        self,
        decided: NDArray[np.integer],
        rules: Sequence[ComponentRuleConfig],
        case: _KeptCase,
    ) -> NDArray[np.integer]:
        plain = [building.component_rule(rule) for rule in rules]
        return with_component_rules(decided, plain, self._structures, case.spacing_mm)


def rule_in_words(rule: ComponentRuleConfig) -> str:
    """What a rule does, in a few words."""
    parts = []
    if rule.keep == "largest":
        parts.append("largest only")
    if rule.smallest_voxels is not None:
        parts.append(f"from {rule.smallest_voxels} voxels")
    if rule.smallest_ml is not None:
        parts.append(f"from {rule.smallest_ml:g} ml")
    if rule.fill_holes:
        parts.append("holes filled")
    return ", ".join(parts)


def _rule_of(one: JudgedRules) -> tuple[ComponentRuleConfig, ...]:
    return () if one.best is None else (one.best,)


def _with_evidence(one: JudgedRules) -> ComponentRuleConfig:
    (rule,) = _rule_of(one)
    evidence = one.verdict.evidence.model_copy(update={"p_value": one.p_value})
    return rule.model_copy(update={"evidence": evidence})
