"""What a training method is: its networks, streams, optimisers and losses by name.

The engine sums the loss terms, runs one backward pass, steps one optimiser per
parameter group and saves the state; it knows no method by name. Adversarial training
fits in one backward pass by reversing gradients.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn import Parameter

from foveal.sampling.batch import Batch


class Clock(NamedTuple):
    """Where in a run a step stands."""

    step: int
    """Updates made before this one."""

    total_steps: int
    seed: int
    rank: int
    """Of this process among the data-parallel ones."""


class Stream(NamedTuple):
    """A named sequence of batches."""

    cases: str
    """Which cases: ``"labelled"``, ``"unlabelled"``, ``"source"`` or ``"target"``."""

    sampler: str
    """``"settings"`` for the sampler the user chose, or a sampler's name."""

    batch_size: int


class Refresh(NamedTuple):
    """Something the engine makes for the method with the predictor at step boundaries."""

    stream: str
    artefact: str
    every: int
    """Steps between two refreshes."""
