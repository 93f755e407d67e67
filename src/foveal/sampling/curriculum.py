"""From easy cases to hard ones, by their error maps.

A self-paced curriculum (Kumar et al. 2010, "Self-Paced Learning for Latent Variable
Models"): what is easy is decided by the network itself, and the share of the cases that
are drawn from grows to all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from foveal.sampling.adaptive import ErrorMaps
from foveal.sampling.cases import SampledCase

FIRST_SHARE = 0.3
"""Of the cases, drawn from at the beginning."""


@dataclass(frozen=True, eq=False)
class Curriculum:
    """Which cases a step draws from."""

    maps: ErrorMaps
    steps: int
    """After these, all cases are drawn from."""

    def eligible(self, cases: Sequence[SampledCase], step: int) -> Sequence[int]:
        """Indices of the easiest cases; of all of them until each has an error map.

        Before, what comes first would pass for easy.

        Args:
            cases: At least one; unlabelled ones, which never have a map, pass for the
                hardest.
            step: Updates made before this one.
        """
        everyone = range(len(cases))
        maps = [self.maps.current(case.name) for case in cases]
        awaited = [
            found is None
            for case, found in zip(cases, maps, strict=True)
            if case.class_counts
        ]
        if step >= self.steps or not any(maps) or any(awaited):
            return everyone
        share = FIRST_SHARE + (1 - FIRST_SHARE) * step / self.steps
        difficulty = [1.0 if found is None else found.difficulty for found in maps]
        easiest = sorted(everyone, key=lambda index: (difficulty[index], index))
        return sorted(easiest[: math.ceil(share * len(cases))])
