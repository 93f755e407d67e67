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
from foveal.io.weights import open_weights, write_weights

FORMAT = "foveal model"
FORMAT_VERSION = 2
"""2: what follows the networks is in the file too."""

VERSIONS_READ = ("1", "2")


@dataclass(frozen=True, eq=False)
class MemberContent:
    """One network of a model file."""

    plan: str
    """TOML."""

    settings: dict[str, Any]
    """Those that decide a prediction: names and values as in a settings file."""

    weights: Mapping[str, Tensor]
    """Read from a file, they stay there until each is asked for."""

    plugins: tuple[tuple[str, str], ...] = ()
    """File name and hash of the plugin that the network comes from; mostly none."""


@dataclass(frozen=True, eq=False)
class ModelContent:
    """All of a model file."""

    members: Sequence[MemberContent]
    """At least one."""

    card: Mapping[str, Any]
    """What JSON can hold."""

    postprocessing: Mapping[str, Any]
    """Names and values as in a ``postprocessing.toml``; empty: nothing follows."""


def write_model_file(path: Path, content: ModelContent) -> None:
    """Write a model file of any name, replacing it in one step."""
    members = content.members
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
            "card": json.dumps(content.card),
            "postprocessing": json.dumps(content.postprocessing),
        },
    )


def read_model_file(path: Path) -> ModelContent:
    """Read and verify a model file.

    Raises:
        RunError: The file is damaged, no model file, or of a version that this Foveal
            does not know.
    """
    tensors, texts = open_weights(path)
    if texts.get("format") != FORMAT:
        raise RunError(
            f"{path} is a checkpoint and no model file; give the folder of its run, or "
            "a file that foveal export wrote"
        )
    if texts["format_version"] not in VERSIONS_READ:
        raise RunError(
            f"{path} has format version {texts['format_version']}, this Foveal reads "
            f"{' and '.join(VERSIONS_READ)}; install a newer Foveal"
        )
    members = []
    for number, entry in enumerate(json.loads(texts["members"])):
        plugins = tuple((name, digest) for name, digest in entry["plugins"])
        weights = tensors.under(f"{number}.")
        members.append(
            MemberContent(entry["plan"], entry["settings"], weights, plugins)
        )
    return ModelContent(
        members,
        json.loads(texts["card"]),
        json.loads(texts.get("postprocessing", "{}")),
    )
