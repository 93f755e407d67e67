"""Tensors and texts in one safetensors file, whole or not at all, never a pickle."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from foveal.errors import RunError
from foveal.io.files import atomic_write_bytes


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]
) -> None:
    """Write a file that `read_weights` verifies, replacing ``path`` in one step."""
    atomic_write_bytes(path, packed_weights(tensors, texts))


def packed_weights(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    """Content of a file that `read_weights` verifies.

    Args:
        tensors: Any device and layout; layout is not kept.
        texts: Kept as metadata; the name ``digest`` is taken.
    """
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {**texts, "digest": _digest_of_all(held, texts)}
    return safetensors.torch.save(held, metadata)


class StoredTensors(Mapping[str, Tensor]):
    """Tensors of a file that is not written to any more, each read when asked for."""

    def __init__(self, path: Path, names: Mapping[str, str]) -> None:
        self._path, self._names = path, dict(names)

    def __getitem__(self, name: str) -> Tensor:
        """A tensor, in memory of its own."""
        stored = self._names[name]
        with safetensors.safe_open(self._path, framework="pt") as file:
            return cast(Tensor, file.get_tensor(stored))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def under(self, prefix: str) -> "StoredTensors":
        """Those whose names begin so, by the rest of their names."""
        return StoredTensors(
            self._path,
            {
                name.removeprefix(prefix): stored
                for name, stored in self._names.items()
                if name.startswith(prefix)
            },
        )


def open_weights(path: Path) -> tuple[StoredTensors, dict[str, str]]:
    """Verify what `write_weights` wrote; no more than a tensor of it is held at once.

    Returns:
        Tensors and texts.

    Raises:
        RunError: The file is missing, damaged or of another kind.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            names = list(file.keys())
        tensors = StoredTensors(path, {name: name for name in names})
        digest = texts.pop("digest", None)
        found = None if digest is None else _digest_of_all(tensors, texts)
    except (safetensors.SafetensorError, OSError, struct.error, ValueError) as error:
        raise RunError(
            f"{path} is damaged or no file of weights ({error}); copy or export it "
            "again"
        ) from error
    if digest is None:
        raise RunError(
            f"{path} was not written by Foveal (it has no digest); give a model file "
            "that foveal export wrote, or the folder of a run"
        )
    if digest != found:
        raise RunError(
            f"{path} is damaged (its digest does not match); copy or export it again"
        )
    return tensors, texts


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read and verify what `write_weights` wrote, see `open_weights`."""
    tensors, texts = open_weights(path)
    return dict(tensors), texts


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Equal for equal names, number types, shapes and values, on the CPU."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest_of_all(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    content = json.dumps([tensors_digest(tensors), dict(texts)], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
