"""Plan a data set: fingerprint it and decide everything that follows from the data."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foveal.case import CaseFiles, Dataset
from foveal.config.plan import Plan
from foveal.errors import CaseError, SettingsError
from foveal.io.datasets import read_dataset
from foveal.io.files import atomic_write_text
from foveal.planning.fingerprint import fingerprint_cases
from foveal.planning.memory import (
    BYTES_PER_GB,
    available_memory_bytes,
    training_budget,
)
from foveal.planning.plan import choose_labels, make_plan
from foveal.preprocessing.missing_channels import require_filling
from foveal.settings_files import to_toml

GB_PER_READING_THREAD = 4
"""A CT of 512 x 512 x 600 with its label map, and room to look at it."""


@dataclass(frozen=True)
class Planned:
    """A plan and what led to it."""

    plan: Plan

    reasons: tuple[str, ...]
    """One line in plain words per decision; warnings begin with ``Warning:``."""


def plan(
    dataset: Path | str | Dataset,
    *,
    memory_gb: float | None = None,
    threads: int | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    output: Path | None = None,
    resample_channels: bool = False,
    missing_channel_value: float | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Planned:
    """Look at the labelled cases of a data set and decide how to train on them.

    Cases of the test split are not looked at.

    Args:
        dataset: Folder or table, or what `foveal.read_dataset` returned.
        memory_gb: For one training step; unset: half of what the machine has left.
        threads: CPU threads for reading and, on a CPU, for training; unset: all.
        device: What the plan is for.
        output: File for the plan, TOML; unset: none is written.
        resample_channels: Bring channels on another grid onto that of the first.
        missing_channel_value: Fill channels that cases lack with it after
            normalisation; unset: such cases are refused.
        on_progress: Told cases done, cases in all and the name of the last.

    Raises:
        DatasetError: The data set cannot be understood or has no labelled case.
        CaseError: A case cannot be used.
        SettingsError: The budget is too small, or ``output`` holds something else.
    """
    if not isinstance(dataset, Dataset):
        dataset = read_dataset(Path(dataset))
    if threads is None:
        threads = usable_threads()
    budget = training_budget(device, memory_gb=memory_gb, threads=threads)
    for case in dataset.labelled:
        if case.split != "test":
            require_case_is_filled(case, dataset.channel_names, missing_channel_value)
    fingerprints = fingerprint_cases(
        [case for case in dataset.labelled if case.split != "test"],
        dataset.structures,
        ignore_value=dataset.ignore_value,
        resample_channels=resample_channels,
        threads=cases_at_once(threads),
        on_progress=on_progress,
    )
    labels, label_reasons = choose_labels(
        fingerprints,
        label_values=dataset.label_values,
        regions=dataset.regions,
        ignore_value=dataset.ignore_value,
        has_structure_files=dataset.has_structure_files,
        background_value=dataset.background_value,
    )
    decided, reasons = make_plan(
        fingerprints,
        dataset_name=dataset.name,
        channel_names=dataset.channel_names,
        labels=labels,
        budget=budget,
        resample_channels=resample_channels,
        missing_channel_value=missing_channel_value,
    )
    if output is not None:
        write_plan(decided, output)
    return Planned(decided, (*label_reasons, *reasons, *_cases_not_looked_at(dataset)))


def _cases_not_looked_at(dataset: Dataset) -> list[str]:
    """Unlabelled cases and domains, which change nothing in the plan."""
    words = []
    if dataset.unlabelled:
        words.append(
            f"Unlabelled: {len(dataset.unlabelled)} cases; they are not planned from, "
            "and methods that learn from them bring them to the grid and scale of the "
            "labelled ones"
        )
    if dataset.domains:
        counts = "; ".join(
            f"{domain.name or 'none'} ({domain.labelled_cases} labelled, "
            f"{domain.unlabelled_cases} unlabelled)"
            for domain in dataset.domains
        )
        words.append(f"Domains: {counts}")
    return words


def require_case_is_filled(
    case: CaseFiles, channel_names: Sequence[str], value: float | None
) -> None:
    """Refuse a case that lacks channels which nothing fills, see `require_filling`.

    Raises:
        CaseError: Names the case, the channels and the setting.
    """
    try:
        require_filling(case.missing_channels, channel_names, value)
    except CaseError as error:
        raise CaseError(f"case {case.name}: {error}") from error


def write_plan(decided: Plan, path: Path) -> None:
    """Write a plan file; a file that holds the same plan already is left alone.

    Raises:
        SettingsError: ``path`` holds something else, which a person may have edited.
    """
    text = to_toml(decided)
    if not path.exists():
        atomic_write_text(path, text)
    elif path.read_text(encoding="utf-8", errors="replace") != text:
        raise SettingsError(
            f"{path} exists and differs from this plan; nothing was written. Remove "
            "it or choose another file"
        )


def cases_at_once(threads: int | None) -> int:
    """Cases to hold in memory together: one per thread, fewer if memory is short."""
    in_memory = available_memory_bytes() / (GB_PER_READING_THREAD * BYTES_PER_GB)
    return max(1, min(threads or usable_threads(), int(in_memory)))


def usable_threads() -> int:
    """Processor threads that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
