"""Weights that another program wrote: safetensors, or PyTorch's own files.

PyTorch's files are pickles. They are read with ``weights_only=True``, which builds
tensors and plain containers and runs nothing else.
"""

import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from foveal.errors import RunError

PICKLED = (".pth", ".pt")
"""Endings of PyTorch's files; others are read as safetensors."""

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Names under which training scripts keep the weights beside other things."""

DAMAGES = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError),
    *(AttributeError, AssertionError, struct.error),
)
"""What PyTorch raises for files that were cut short or had bytes changed; of its old
format, from before 2020, the most of them."""

DATA_PARALLEL_PREFIX = "module."
"""That PyTorch's data-parallel wrapper puts before every name."""


def read_foreign_weights(path: Path) -> dict[str, Tensor]:
    """Weights of a file by their names there.

    Args:
        path: Ends in one of `PICKLED`, or holds safetensors.

    Returns:
        On the CPU.

    Raises:
        RunError: The file is missing, damaged, holds something else than weights or
            more than ``weights_only`` allows, or a weight is not finite.
    """
    if not path.is_file():
        raise RunError(
            f"{path} is no file; give weights in torchvision's naming "
            "(.safetensors or .pth), an exported model or the folder of a run"
        )
    if path.suffix.lower() in PICKLED:
        tensors = _unwrapped(_pickled(path), path)
    else:
        tensors = _safetensors(path)
    if not tensors:
        raise RunError(f"{path} holds no weights; give another file")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise RunError(
                f"{path} holds values that are not finite, in {name}; it is damaged, "
                "or its training went wrong: give another file"
            )
    return tensors


def texts_of_safetensors(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself; nothing for any other file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError, struct.error, ValueError):
        return {}


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, struct.error, ValueError) as error:
        raise RunError(
            f"{path} is damaged or no safetensors file ({error}); weights that PyTorch "
            f"saved must end in {' or '.join(PICKLED)}"
        ) from error


def _pickled(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # That it may not be able to read the file: if so, that is told below.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RunError(
            f"{path} holds more than weights, or is damaged, and is not read: a pickle "
            "can run any program. If you trust it, save the weights alone where it was "
            f"made: torch.save(model.state_dict(), file). ({_first_line(error)})"
        ) from error
    except DAMAGES as error:
        raise RunError(
            f"{path} is damaged or not a file of PyTorch ({_first_line(error)}); "
            "download or copy it again"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _unwrapped(content: object, path: Path) -> dict[str, Tensor]:
    """The weights alone, however deep they were put."""
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise RunError(
            f"{path} holds a {type(content).__name__} and no names with weights; save "
            "them with torch.save(model.state_dict(), file)"
        )
    others = [
        str(name)
        for name, value in content.items()
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if others:
        raise RunError(
            f'{path} holds something else than weights, such as "{others[0]}"; save '
            "them alone with torch.save(model.state_dict(), file)"
        )
    wrapped = all(name.startswith(DATA_PARALLEL_PREFIX) for name in content)
    return {
        name.removeprefix(DATA_PARALLEL_PREFIX) if wrapped else name: tensor
        for name, tensor in content.items()
    }
