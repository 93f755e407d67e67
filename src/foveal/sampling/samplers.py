"""Which case a training patch comes from, and where in it.

What is drawn is what a network predicts: a patch, or, for networks that put out less
than they take in, the window in its middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from foveal.sampling.patches import corner_around, uniform_corner


@runtime_checkable  # the run-time shape checks look at signatures with it
class SampledCase(Protocol):
    """What drawing a patch asks of a case."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        ...

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Voxels per inside class, background first; empty if unlabelled."""
        ...

    @property
    def annotated(self) -> tuple[bool, ...] | None:
        """Per structure, whether it was contoured; ``None``: all."""
        ...

    def class_voxel(self, class_index: int, n: int) -> tuple[int, int, int]:
        """Voxel ``n`` of a foreground class."""
        ...


class Draw(NamedTuple):
    """One patch of one case."""

    case_index: int
    """Place of the case in the sequence it was drawn from."""

    corner: tuple[int, int, int]
    """First voxel; negative along an axis shorter than the patch."""


@dataclass(frozen=True)
class UniformSampler:
    """Every case is equally likely, and in it every patch that lies inside."""

    def draw(
        self,
        cases: Sequence[SampledCase],
        patch_size: Sequence[int],
        generator: torch.Generator,
    ) -> Draw:
        """Draw a patch.

        Args:
            cases: At least one.
            patch_size: In voxels.
            generator: The only source of randomness.
        """
        case_index = _drawn_index(len(cases), generator)
        corner = uniform_corner(patch_size, cases[case_index].shape, generator)
        return Draw(case_index, corner)


@dataclass(frozen=True)
class ClassBalancedSampler:
    """A share of the patches is drawn for a structure, so that rare ones are seen.

    The structure is drawn first, then one of its voxels, so a small lesion is seen as
    often as a large organ of the same weight, wherever it lies.
    """

    foreground_fraction: float
    """Share of the patches drawn for a structure; the others lie anywhere."""

    structures: tuple[tuple[int, ...], ...]
    """Inside classes that each structure includes; background is in none."""

    weights: tuple[float, ...]
    """Relative chance per structure."""

    def draw(
        self,
        cases: Sequence[SampledCase],
        patch_size: Sequence[int],
        generator: torch.Generator,
    ) -> Draw:
        """Draw a case, every one equally likely, and a patch of it.

        Structures without a voxel in the case are skipped and the other weights
        rescaled. A case that has no voxel of any weighted structure gives a patch from
        anywhere.

        Args:
            cases: At least one.
            patch_size: In voxels.
            generator: The only source of randomness.
        """
        case_index = _drawn_index(len(cases), generator)
        case = cases[case_index]
        is_for_a_structure = (
            float(torch.rand((), generator=generator)) < self.foreground_fraction
        )
        counts = self._voxels_present(case)
        chances = torch.tensor(
            [
                weight if count else 0.0
                for weight, count in zip(self.weights, counts, strict=True)
            ]
        )
        if not is_for_a_structure or not chances.any():
            corner = uniform_corner(patch_size, case.shape, generator)
            return Draw(case_index, corner)
        structure = int(torch.multinomial(chances, 1, generator=generator))
        n = _drawn_index(counts[structure], generator)
        voxel = self._voxel(case, structure, n)
        return Draw(case_index, corner_around(voxel, patch_size, case.shape))

    def _voxels_present(self, case: SampledCase) -> list[int]:
        """Voxels of every structure in a case.

        None if the case is unlabelled, and of what nobody contoured in it: a class may
        stand there for others that look like it.
        """
        if not case.class_counts:
            return [0] * len(self.structures)
        is_known = case.annotated or (True,) * len(self.structures)
        return [
            sum(case.class_counts[number] for number in classes) if known else 0
            for classes, known in zip(self.structures, is_known, strict=True)
        ]

    def _voxel(self, case: SampledCase, structure: int, n: int) -> tuple[int, int, int]:
        """Voxel ``n`` of a structure, counted through its classes."""
        for number in self.structures[structure]:
            if n < case.class_counts[number]:
                return case.class_voxel(number, n)
            n -= case.class_counts[number]
        raise IndexError(f"structure {structure} has fewer voxels than asked for")


def _drawn_index(length: int, generator: torch.Generator) -> int:
    """One of the indices below ``length``, each equally likely."""
    return int(torch.randint(length, (), generator=generator))
