"""One file that holds what prediction needs, to be kept and given to others.

A safetensors file. Weights of the members are named ``0.…``, ``1.…``; the metadata hold
a plan and the settings of prediction for each member, and a model card: what a person
should know of the model before using it. Nothing in it can run code.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from foveal.errors import RunError
from foveal.io.weights import read_weights, write_weights

FORMAT = "foveal model"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class MemberContent:
    """One network of a model file."""

    plan: str
    """TOML."""

    settings: dict[str, Any]
    """Those that decide a prediction: names and values as in a settings file."""

    weights: Mapping[str, Tensor]

    plugins: tuple[tuple[str, str], ...] = ()
    """File name and hash of the plugin that the network comes from; mostly none."""


def write_model_file(
    path: Path, members: Sequence[MemberContent], card: Mapping[str, Any]
) -> None:
    """Write a model file, replacing ``path`` in one step.

    Args:
        path: Any name.
        members: At least one.
        card: What JSON can hold.
    """
    write_weights(
        path,
        {
            f"{number}.{name}": tensor
            for number, member in enumerate(members)
            for name, tensor in member.weights.items()
        },
        {
            "format": FORMAT,
            "format_version": str(FORMAT_VERSION),
            "members": json.dumps(
                [
                    {
                        "plan": member.plan,
                        "settings": member.settings,
                        "plugins": member.plugins,
                    }
                    for member in members
                ]
            ),
            "card": json.dumps(card),
        },
    )


def read_model_file(path: Path) -> tuple[list[MemberContent], dict[str, Any]]:
    """Read and verify a model file.

    Returns:
        Its members and its card.

    Raises:
        RunError: The file is damaged, no model file, or of a version that this Foveal
            does not know.
    """
    tensors, texts = read_weights(path)
    if texts.get("format") != FORMAT:
        raise RunError(
            f"{path} is a checkpoint and no model file; give the folder of its run, or "
            "a file that foveal export wrote"
        )
    if texts["format_version"] != str(FORMAT_VERSION):
        raise RunError(
            f"{path} has format version {texts['format_version']}, this Foveal reads "
            f"{FORMAT_VERSION}; install a newer Foveal"
        )
    members = []
    for number, entry in enumerate(json.loads(texts["members"])):
        prefix = f"{number}."
        weights = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        plugins = tuple((name, digest) for name, digest in entry["plugins"])
        members.append(
            MemberContent(entry["plan"], entry["settings"], weights, plugins)
        )
    return members, json.loads(texts["card"])
