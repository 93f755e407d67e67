"""Which case a training patch comes from, and where in it."""

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
    """A share of the patches is drawn for a class, so that rare ones are seen.

    The class is drawn first, then one of its voxels, so a small lesion is seen as often
    as a large organ of the same weight, wherever it lies.
    """

    foreground_fraction: float
    """Share of the patches drawn for a class; the others lie anywhere."""

    class_weights: tuple[float, ...]
    """Relative chance per inside class. The background's is 0: it has no voxel list,
    and every patch shows it."""

    def __post_init__(self) -> None:
        if self.class_weights[0] != 0:
            raise ValueError(
                f"class_weights {self.class_weights} must begin with 0, "
                "the background's weight"
            )

    def draw(
        self,
        cases: Sequence[SampledCase],
        patch_size: Sequence[int],
        generator: torch.Generator,
    ) -> Draw:
        """Draw a case, every one equally likely, and a patch of it.

        Classes without a voxel in the case are skipped and the other weights rescaled.
        A case that has no voxel of any weighted class gives a patch from anywhere.

        Args:
            cases: At least one.
            patch_size: In voxels.
            generator: The only source of randomness.
        """
        case_index = _drawn_index(len(cases), generator)
        case = cases[case_index]
        is_for_a_class = (
            float(torch.rand((), generator=generator)) < self.foreground_fraction
        )
        weights = torch.tensor(self._weights_present(case))
        if not is_for_a_class or not weights.any():
            corner = uniform_corner(patch_size, case.shape, generator)
            return Draw(case_index, corner)
        class_index = int(torch.multinomial(weights, 1, generator=generator))
        n = _drawn_index(case.class_counts[class_index], generator)
        voxel = case.class_voxel(class_index, n)
        return Draw(case_index, corner_around(voxel, patch_size, case.shape))

    def _weights_present(self, case: SampledCase) -> list[float]:
        """Weight per class, 0 for those without a voxel; empty if unlabelled."""
        if not case.class_counts:
            return []
        pairs = zip(self.class_weights, case.class_counts, strict=True)
        return [weight if count else 0.0 for weight, count in pairs]


def _drawn_index(length: int, generator: torch.Generator) -> int:
    """One of the indices below ``length``, each equally likely."""
    return int(torch.randint(length, (), generator=generator))
