"""Where training patches are drawn, and what is known of the network's errors."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from foveal.config.sections import Fraction, NamedSection, Section


class SamplingConfig(Section):
    """How training patches are drawn.

    Every case is equally likely, then what the patch is for, then the voxel it lies
    around.
    """

    sampler: str = "class_balanced"
    """``uniform``: anywhere. ``class_balanced``: a share of the patches lies around a
    voxel of a structure drawn first, the others anywhere.
    ``foreground_background``: a share lies around any voxel of the structures, the
    others around background. ``class_equal``: background and every structure of the
    case alike. ``mask``: any voxel of the case's mask. ``weight_map``: any voxel, as
    its weight map says. Or one of a plugin."""

    foreground_fraction: Fraction = 0.5
    """For ``class_balanced`` and ``foreground_background``: that share."""

    structure_weights: dict[str, PositiveFloat] = Field({})
    """For ``class_balanced``: structure to relative chance; empty: all alike."""

    one_case_per_batch: bool = False
    """Whether all patches of a step come from one case."""

    balance_domains: bool = False
    """Whether every domain of the labelled cases is equally likely, however many cases
    it has; in it, every case is."""

    adaptive: bool = False
    """Draw as the sampler does, but from where the network still errs: by error maps
    of the training cases, which ``[error_maps]`` keeps fresh."""


class ErrorMapsConfig(NamedSection):
    """Where the network errs, for ``sampling.adaptive``: E = 1 - p(true class)."""

    chooser: ClassVar[str] = "refresh"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fraction": {
            "refresh_fraction": 0.1,
            "every_steps": None,
            "cases_per_refresh": None,
        },
        "epoch": {"every_steps": 100, "cases_per_refresh": None},
        "concurrent": {"every_steps": 20, "device": "auto", "threads": None},
    }

    epsilon: Fraction = 0.01
    """A patch is accepted with probability min(1, E + epsilon), where E is the error of
    the voxel it lies around. 0: by errors alone; 1: as if not adaptive."""

    draw: Literal["direct", "loop"] = "direct"
    """``loop``: draws until one is accepted, as published; ``direct``: from the same
    distribution without a loop, in a time that neither the size of the volume nor the
    errors change."""

    refresh: Literal["fraction", "epoch", "concurrent"] = "fraction"
    """``fraction``: training pauses to refresh maps for a share of the time, found by
    timing when it starts; ``epoch``: after a number of steps; ``concurrent``: another
    process refreshes them all the time. Only with the first two is a resumed run
    exactly the unbroken one."""

    refresh_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Of ``fraction``: share of the time that goes into predicting training cases.
    Unset: 0.1."""

    every_steps: PositiveInt | None = None
    """Steps between refreshes. Unset: for ``fraction`` by timing, for ``epoch`` 100.
    Of ``concurrent``: steps after which the other process gets new weights; unset:
    20."""

    cases_per_refresh: PositiveInt | None = None
    """Cases predicted at a time, at most all. Unset: for ``fraction`` by timing, for
    ``epoch`` all."""

    order: Literal["stalest", "random"] = "stalest"
    """Whose turn it is: the cases whose maps are oldest, or any."""

    block_voxels: PositiveInt = 1
    """Edge of the blocks of voxels that share one byte of a map, their mean error."""

    curriculum_steps: NonNegativeInt = 0
    """Steps until all cases are drawn from: as soon as each has a map, only those with
    the smallest errors in their structures, at the first step 30 %, then more and more.
    0: all from the start."""

    device: Literal["auto", "cpu", "cuda", "mps"] | None = None
    """Of ``concurrent``: where the other process computes. ``auto``: a GPU of its own
    where there are two, else that of the training."""

    threads: PositiveInt | None = None
    """Of ``concurrent``: CPU threads of the other process, which are taken from the
    training's. Unset: one tenth, at least one."""
