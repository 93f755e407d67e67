"""Random numbers that depend on where in a run they are drawn, never on when."""

import hashlib

import torch


def generator(seed: int, step: int, rank: int, *names: str) -> torch.Generator:
    """Source of random numbers for one purpose within one step.

    The same arguments give the same draws on any thread and after a resume; any other
    argument gives unrelated ones. PyTorch's CPU generator looks at 32 bits of its seed,
    so of a million generators about a hundred pairs share their draws.

    Args:
        seed: Of the run.
        step: Updates made before this one.
        rank: Of the process among the data-parallel ones.
        names: What the draws are for, for example a stream and ``"intensity"``.
    """
    place = repr((seed, step, rank, *names)).encode()
    digest = hashlib.blake2b(place, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
