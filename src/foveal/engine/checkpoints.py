"""Everything a run needs to go on as if it had never stopped, in one file.

A checkpoint is a safetensors file: tensors under dotted names, all else as JSON in its
metadata, with a digest of both. It is written under a temporary name, the last one
becomes the previous one, and only then it takes its place; so whenever the run is
killed, one whole checkpoint is left. A small ``.json`` beside it is for people.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foveal.errors import RunError
from foveal.io.files import atomic_path, atomic_write_text, flush_to_disk
from foveal.io.weights import StoredTensors, open_weights, packed_weights

FORMAT_VERSION = 1

NEWEST = ("last", "previous")
"""To continue from, the better one first."""

SNAPSHOT = "snapshot"
"""Begins the name of a checkpoint that the schedule wanted: ``snapshot_1``, …."""


def save_checkpoint(
    folder: Path, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write ``folder/name.safetensors``; ``last`` keeps the one before as ``previous``.

    Args:
        folder: ``checkpoints`` of a run.
        name: ``"last"``, ``"best"`` or that of a snapshot.
        tensors: Any device and layout; layout is not kept.
        state: What JSON can hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"format_version": str(FORMAT_VERSION), "state": json.dumps(state)}
    # First, so that a run killed in between writes it again.
    atomic_write_text(
        folder / f"{name}.json",
        json.dumps({"format_version": FORMAT_VERSION, **state}, indent=2),
    )
    path = folder / f"{name}.safetensors"
    with atomic_path(path) as temporary:
        temporary.write_bytes(packed_weights(tensors, texts))
        flush_to_disk(temporary)
        if name == "last" and path.exists():
            path.replace(folder / "previous.safetensors")


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify one checkpoint.

    Raises:
        RunError: The file is missing, damaged or of another format.
    """
    tensors, state = open_checkpoint(path)
    return dict(tensors), state


def open_checkpoint(path: Path) -> tuple[StoredTensors, dict[str, Any]]:
    """Verify a checkpoint that is not written any more; tensors are read when used.

    Raises:
        RunError: The file is missing, damaged or of another format.
    """
    if not path.exists():
        raise RunError(f"{path} does not exist")
    tensors, texts = open_weights(path)
    version = texts.get("format_version")
    if version != str(FORMAT_VERSION) or "state" not in texts:
        raise RunError(
            f"{path} is no checkpoint that this Foveal reads: it has format version "
            f"{version}, not {FORMAT_VERSION}"
        )
    return tensors, json.loads(texts["state"])


def has_checkpoint(folder: Path) -> bool:
    """Whether there is something that `load_newest` can try."""
    return any((folder / f"{name}.safetensors").exists() for name in NEWEST)


def load_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """The last checkpoint, or the previous one if the last is missing or damaged.

    Returns:
        Tensors, state, and what was wrong with the checkpoints passed over.

    Raises:
        RunError: None of the two can be read.
    """
    problems = []
    for name in NEWEST:
        try:
            tensors, state = load_checkpoint(folder / f"{name}.safetensors")
        except RunError as error:
            problems.append(str(error))
        else:
            return tensors, state, problems
    raise RunError(
        "no checkpoint can be read: "
        + "; ".join(problems)
        + ". Start the run again in another folder."
    )


def snapshots(folder: Path) -> tuple[Path, ...]:
    """Checkpoints that a cyclic schedule has kept, in order of step; may be empty."""
    numbered = {
        int(match[1]): path
        for path in folder.glob(f"{SNAPSHOT}_*.safetensors")
        if (match := re.fullmatch(rf"{SNAPSHOT}_(\d+)", path.stem))
    }
    return tuple(numbered[number] for number in sorted(numbered))


def problem_of_best(folder: Path) -> str:
    """Why the best checkpoint cannot be used; empty if it can."""
    try:
        load_checkpoint(folder / "best.safetensors")
    except RunError as error:
        return str(error)
    return ""


def optimiser_tensors(
    optimiser: Optimizer, prefix: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of an optimiser, apart from its options, as tensors and JSON values."""
    tensors = {}
    values: dict[str, Any] = {}
    for index, entries in optimiser.state_dict()["state"].items():
        for name, value in entries.items():
            key = f"{prefix}.{index}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
            else:
                values[key] = value
    return tensors, values


def restore_optimiser(
    optimiser: Optimizer,
    prefix: str,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
) -> None:
    """Put back what `optimiser_tensors` gave; options stay as they were built."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *values.items()]:
        if key.startswith(f"{prefix}."):
            index, name = key.removeprefix(f"{prefix}.").split(".")
            state.setdefault(int(index), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    # Saved tensors are contiguous; moments must lie in memory as their weights do.
    for parameter, entries in optimiser.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter).copy_(value)
