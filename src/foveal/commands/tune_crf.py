"""Choose the parameters of a CRF on validation cases, at random or on a grid.

As the thesis does (sections 3.2.5 and 3.4.1), and then asked whether it helps in
patients that the parameters were not chosen on.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from foveal import building
from foveal.commands.choosing import (
    Structures,
    TriedCase,
    Verdict,
    class_counts,
    dice_of_counts,
    judged,
)
from foveal.commands.plan import usable_threads
from foveal.commands.validation_probabilities import ValidationCase, ValidationCases
from foveal.config.postprocessing import CrfConfig, PostprocessingConfig
from foveal.crf.mean_field import refined_probabilities
from foveal.engine.run_directory import RunDirectory
from foveal.errors import CaseError, RunError, SettingsError
from foveal.inference.restore import decided_classes
from foveal.plugins.registration import Plugin
from foveal.postprocessing.search import Choice, Space, Span, Value, drawn, grid
from foveal.settings_files import kept_postprocessing, write_postprocessing
from foveal.uncertainty.temperature import tempered

TRIALS = 40
"""Drawn at random unless told otherwise."""

TRIALS_FILE = "crf_trials.jsonl"
"""In the run's folder ``tuning``: a line per case and trial."""

KERNELS: dict[str, Span | Choice] = {
    "smoothness_mm": Span(0.5, 8.0),
    "smoothness_weight": Span(0.1, 10.0),
    "appearance_mm": Span(3.0, 60.0),
    "appearance_weight": Span(0.1, 10.0),
}
"""Where to look; millimetres along every axis alike."""

DEVIATIONS = Span(0.03, 2.0)
"""Of the intensities, in standard deviations of the channel."""

ITERATIONS = Choice((2, 5, 10))

WholeForeground = Literal["no", "yes", "both"]


@dataclass(frozen=True)
class TunedCrf:
    """What came of every trial."""

    trials: tuple[CrfConfig | None, ...]
    """``None``, no CRF, is the first."""

    verdict: Verdict

    within_mask: bool | None = None
    """Whether the cases had masks; ``None``: some had."""

    @property
    def best(self) -> CrfConfig | None:
        """Of the highest mean Dice over all cases; ``None``: nothing is better."""
        return self.trials[self.verdict.choice]

    @property
    def kept(self) -> CrfConfig | None:
        """With its evidence; ``None`` if no CRF helps."""
        if self.best is None or not self.verdict.helps:
            return None
        return self.best.model_copy(
            update={
                "evidence": self.verdict.evidence,
                "within_mask": self.within_mask,
            }
        )

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "trials": len(self.trials) - 1,
            "best": None if self.best is None else parameters_of(self.best),
            **self.verdict.as_record(),
        }


def tune_crf(
    path: Path | str,
    *,
    trials: int = TRIALS,
    seed: int = 0,
    per_span: int | None = None,
    whole_foreground: WholeForeground = "no",
    max_cases: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    plugins: Sequence[Path | str | Plugin] = (),
    on_progress: Callable[[int, int, str], None] | None = None,
) -> TunedCrf:
    """Choose a CRF on validation cases, and keep it if it helps.

    ``[crf]`` of the folder's ``postprocessing.toml``, which ``foveal predict --crf``
    follows, is replaced; removed where no CRF helps. Its temperature, if it has one,
    comes before. Every trial is kept as it is finished, so that a search which was
    stopped goes on with the same command.

    Args:
        path: A run, a cross-validation or an ensemble.
        trials: Parameters to draw at random, beside the usual ones.
        seed: The same one draws the same.
        per_span: Instead, a grid of so many values of each parameter.
        whole_foreground: Refine foreground against background only, or the classes, or
            try both.
        max_cases: Only the first ones; unset: all.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        threads: CPU threads; unset: all.
        plugins: Files of the runs' networks, if plugins added them; they are run.
        on_progress: Told trials done, trials in all, and the name of the case.

    Raises:
        RunError: The path is none of these, or cannot predict.
        EvaluationError: The validation cases are of a single patient.
        SettingsError: ``whole_foreground`` is asked of a single class.
        CaseError: A case cannot be read.
    """
    torch.set_num_threads(threads or usable_threads())
    folder = RunDirectory(Path(path))
    cases = ValidationCases(Path(path), device=device, plugins=plugins)
    steps = building.steps(kept_postprocessing(folder.postprocessing, cases.digests))
    tuned = tuned_crf(
        cases,
        cases.structures,
        lambda channels, classes: crf_trials(
            channels,
            classes,
            trials=trials,
            seed=seed,
            per_span=per_span,
            whole_foreground=whole_foreground,
        ),
        KeptTrials(folder.path / "tuning" / TRIALS_FILE),
        temperature=steps.temperature,
        max_cases=max_cases,
        device=building.resolved_device(device),
        on_progress=on_progress,
    )
    write_postprocessing(
        folder.postprocessing,
        PostprocessingConfig(made_of=cases.digests, crf=tuned.kept),
    )
    return tuned


def crf_trials(
    num_channels: int,
    num_classes: int,
    *,
    trials: int = TRIALS,
    seed: int = 0,
    per_span: int | None = None,
    whole_foreground: WholeForeground = "no",
) -> tuple[CrfConfig, ...]:
    """Parameters to try; the usual ones first.

    Args:
        num_channels: Of the images; at random each has its own deviation, on a grid
            all have the same.
        num_classes: Including background.
        trials: Drawn at random, beside the usual ones.
        seed: The same one draws the same.
        per_span: Instead, a grid of so many values of each parameter.
        whole_foreground: See `tune_crf`.

    Raises:
        SettingsError: There is nothing to try, or a single class is not to be told
            from the whole foreground.
    """
    if whole_foreground != "no" and num_classes == 2:
        raise SettingsError(
            "the whole foreground is the only class here, so refining it as a whole "
            "changes nothing; leave --whole-foreground out"
        )
    if (trials if per_span is None else per_span) < 1:
        what = "--trials" if per_span is None else "--grid"
        raise SettingsError(f"{what} must be 1 or more; with 0 there is nothing to try")
    modes = {"no": (False,), "yes": (True,), "both": (False, True)}[whole_foreground]
    space: Space = {**KERNELS, "whole_foreground": Choice(modes)}
    if per_span is None:
        deviations = {f"deviation_{n}": DEVIATIONS for n in range(num_channels)}
        found = drawn({**space, **deviations, "iterations": ITERATIONS}, trials, seed)
    else:
        found = grid({**space, "deviation_0": DEVIATIONS}, per_span)
    usual = [CrfConfig(whole_foreground=mode) for mode in modes]
    return (*usual, *(_crf_config(parameters) for parameters in found))


def _crf_config(parameters: Mapping[str, Value]) -> CrfConfig:
    own = {
        name: value
        for name, value in parameters.items()
        if not name.startswith("deviation_")
    }
    deviations = [parameters[name] for name in parameters if name not in own]
    # One number of millimetres is meant for every axis.
    triples = {name: (own[name],) * 3 for name in ("smoothness_mm", "appearance_mm")}
    return CrfConfig.model_validate(
        {**own, **triples, "appearance_deviations": tuple(deviations)}
    )


def parameters_of(crf: CrfConfig) -> dict[str, Any]:
    """Of a trial, as a file has them."""
    return crf.model_dump(mode="json", exclude_none=True, exclude={"evidence"})


class KeptTrials:
    """Dice of every case in every trial, kept as they are found.

    A line is used again only for the same probabilities, image and reference.
    """

    def __init__(self, path: Path) -> None:
        """Read what an earlier search left.

        Raises:
            RunError: A line other than the last, which a kill may have cut, is damaged.
        """
        self._path = path
        self._dice: dict[tuple[str, str], dict[str, float]] = {}
        self._is_cut = False
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        self._is_cut = bool(text) and not text.endswith("\n")
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                self._dice[row["content"], _key(row["crf"])] = row["dice"]
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines) and self._is_cut:
                    continue
                raise RunError(
                    f"{path} is damaged in line {number}; delete the file to try all "
                    "parameters anew"
                ) from error

    def find(self, content: str, crf: Mapping[str, Any]) -> dict[str, float] | None:
        """Dice of a case in a trial, if it was tried."""
        return self._dice.get((content, _key(crf)))

    def keep(
        self, case: str, content: str, crf: Mapping[str, Any], dice: dict[str, float]
    ) -> None:
        """Add what a trial gave in a case."""
        self._dice[content, _key(crf)] = dice
        row = {"case": case, "content": content, "crf": crf, "dice": dice}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._is_cut:
            # What is left of a line must not swallow this one.
            whole = self._path.read_bytes()
            with self._path.open("rb+") as file:
                file.truncate(whole.rfind(b"\n") + 1)
            self._is_cut = False
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(row) + "\n")


def tuned_crf(
    cases: Iterable[ValidationCase],
    structures: Structures,
    trials_for: Callable[[int, int], Sequence[CrfConfig]],
    kept: KeptTrials,
    *,
    temperature: float = 1.0,
    max_cases: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[int, int, str], None] | None = None,
) -> TunedCrf:
    """Try parameters on every case, and judge the best.

    Args:
        cases: Gone through once, one case in memory at a time.
        structures: In the order of the plan.
        trials_for: From the numbers of channels and classes to parameters to try.
        kept: Trials of earlier searches; gets those of this one.
        temperature: Of the probabilities that the CRF refines.
        max_cases: Only the first ones; unset: all.
        device: Where the CRF is computed.
        on_progress: Told trials done, trials in all, and the name of the case.

    Raises:
        EvaluationError: The cases are of fewer than two patients.
    """
    configs: Sequence[CrfConfig] = ()
    tried, had_mask = [], set()
    for number, case in enumerate(itertools.islice(cases, max_cases)):
        configs = configs or trials_for(len(case.image), len(case.probabilities))
        trials = _CaseTrials(case, structures, temperature, device)
        dice = [trials.dice(None)]
        num_cases = min(case.num_cases, max_cases or case.num_cases)
        for place, config in enumerate(configs, 1):
            parameters = parameters_of(config)
            found = kept.find(trials.content, parameters)
            if found is None:
                found = trials.dice(config)
                kept.keep(case.files.name, trials.content, parameters, found)
            dice.append(found)
            if on_progress is not None:
                done = number * len(configs) + place
                on_progress(done, num_cases * len(configs), case.files.name)
        had_mask.add(case.mask is not None)
        tried.append(TriedCase(case.files.name, case.files.patient, tuple(dice)))
    within_mask = had_mask.pop() if len(had_mask) == 1 else None
    return TunedCrf((None, *configs), judged(tried), within_mask)


class _CaseTrials:
    """One case on which parameters are tried."""

    def __init__(
        self,
        case: ValidationCase,
        structures: Structures,
        temperature: float,
        device: str,
    ) -> None:
        probabilities = torch.from_numpy(case.probabilities)
        self._probabilities = tempered(probabilities, temperature).to(device)
        self._image = torch.from_numpy(np.ascontiguousarray(case.image)).to(device)
        self._mask = None
        if case.mask is not None:
            self._mask = torch.from_numpy(np.ascontiguousarray(case.mask)).to(device)
        self._case, self._structures = case, structures
        digest = hashlib.blake2b(digest_size=16)
        for array in (case.probabilities, case.image, case.reference, case.mask):
            if array is not None:
                digest.update(array.tobytes())
        digest.update(json.dumps([temperature, list(case.spacing_mm)]).encode())
        self.content = digest.hexdigest()

    def dice(self, config: CrfConfig | None) -> dict[str, float]:
        """Of every annotated structure, without a CRF or with one."""
        refined = self._probabilities
        if config is not None:
            try:
                refined = refined_probabilities(
                    self._probabilities,
                    self._image,
                    self._case.spacing_mm,
                    building.dense_crf(config),
                    mask=self._mask,
                )
            except ValueError as error:
                raise CaseError(f"case {self._case.files.name}: {error}") from error
        decided = decided_classes(refined, tuple(self._structures.values()))
        counts = class_counts(decided.cpu().numpy(), self._case.reference, len(refined))
        return dice_of_counts(counts, self._case.annotated, self._structures)


def _key(crf: Mapping[str, Any]) -> str:
    return json.dumps(crf, sort_keys=True)
