"""Mean-field inference in a fully connected conditional random field.

Krähenbühl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge
potentials", NeurIPS 2011, https://arxiv.org/abs/1210.5644, for volumes and several
channels as in Kamnitsas et al. 2017, section 2.4.

Differs from the paper, as the authors' own programs do: the sum of messages includes
the voxel itself; kernels are normalised; agreement is rewarded rather than disagreement
punished, which is the same after the softmax. Differs from the programs: the smoothness
kernel is exact; deviations are in millimetres and in standard deviations of the
channel; the last class's message follows from the others, as probabilities sum to one.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.crf.brute_force import exact_gaussian_filter
from foveal.crf.lattice import PermutohedralLattice
from foveal.crf.smoothness import MaskedSmoothness

Normalisation = Literal["symmetric", "before", "after", "none"]
Filters = Literal["fast", "exact"]
Filter = Callable[[Tensor], Tensor]

LEAST_PROBABILITY = 1e-8
"""Stands for 0, so that probabilities kept in half precision forbid nothing."""

SUM_TOLERANCE = 5e-3
"""Of probabilities; those kept in half precision miss 1 by up to a thousandth."""


@dataclasses.dataclass(frozen=True)
class DenseCrf:
    """The kernels, their weights and what is done with them.

    Raises:
        ValueError: A deviation or the number of iterations is not positive, a weight
            is negative, both weights are 0, or the compatibility is not symmetric.
    """

    smoothness_mm: tuple[float, ...] = (3.0, 3.0, 3.0)
    """Standard deviation along each axis."""

    smoothness_weight: float = 3.0
    appearance_mm: tuple[float, ...] = (17.0, 12.0, 10.0)
    appearance_deviations: tuple[float, ...] = (0.1,)
    """One per channel, or one for all; in standard deviations of the channel."""

    appearance_weight: float = 5.0
    iterations: int = 5
    normalisation: Normalisation = "symmetric"
    compatibility: tuple[tuple[float, ...], ...] | None = None
    """Energy of two classes being neighbours; none: Potts, -1 on the diagonal."""

    whole_foreground: bool = False
    """Refine foreground against background; the shares of the classes stay."""

    def __post_init__(self) -> None:
        for name in ("smoothness_mm", "appearance_mm", "appearance_deviations"):
            values = getattr(self, name)
            if not values or any(not 0 < value < math.inf for value in values):
                raise ValueError(f"crf.{name} is {values}; every value must be above 0")
        for name in ("smoothness_weight", "appearance_weight"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"crf.{name} is {value}; give 0 or more")
        if self.smoothness_weight == self.appearance_weight == 0:
            raise ValueError(
                "crf.smoothness_weight and crf.appearance_weight are both 0, so the "
                "CRF would change nothing; give one of them a weight"
            )
        if self.iterations < 1:
            raise ValueError(f"crf.iterations is {self.iterations}; at least 1")
        if self.compatibility is not None:
            matrix = torch.tensor(self.compatibility)
            if matrix.ndim != 2 or not torch.equal(matrix, matrix.T):
                raise ValueError("crf.compatibility must be a symmetric matrix")
            if self.whole_foreground:
                raise ValueError(
                    "crf.compatibility has no effect with crf.whole_foreground; "
                    "leave one of them out"
                )


@torch.no_grad()
def refined_probabilities(
    probabilities: Float[Tensor, "class i j k"],
    image: Float[Tensor, "channel _ _ _"],
    spacing_mm: Sequence[float],
    crf: DenseCrf,
    *,
    mask: Bool[Tensor, "_ _ _"] | None = None,
    filters: Filters = "fast",
) -> Float[Tensor, "class i j k"]:
    """Probabilities after mean-field inference.

    Args:
        probabilities: Sum 1 over the classes, background first. One slice is a volume
            with an axis of length 1.
        image: On the same grid; each channel is standardised over the mask, and one
            without contrast counts nothing.
        spacing_mm: Voxel edge lengths, in axis order.
        crf: Deviations of the kernels in millimetres, in axis order.
        mask: Voxels taken part; the others keep their probabilities and send no
            messages. None: all.
        filters: ``exact`` sums over all pairs of voxels, for a few thousand of them.

    Raises:
        ValueError: Probabilities are not finite or do not sum to one; the image is on
            another grid, not finite, or has another number of channels than
            deviations; the mask is empty or on another grid; the compatibility has
            another number of classes.
    """
    check_inputs(probabilities, image, spacing_mm, crf, mask)
    if mask is None:
        mask = torch.ones(image.shape[1:], dtype=torch.bool, device=image.device)
    box = bounding_box(mask)
    inside = mask[box]
    dtype = torch.promote_types(probabilities.dtype, torch.float32)
    voxels = probabilities[:, *box][:, inside].to(dtype)
    if crf.whole_foreground:
        voxels = foreground_against_background(voxels)
    kernels, weights = kernels_of(
        image[:, *box].to(dtype), inside, spacing_mm, crf, filters=filters
    )
    refined = mean_field(
        voxels.clamp(min=LEAST_PROBABILITY).log(),
        kernels,
        voxels.new_tensor(weights)[:, None],
        compatibility=(
            None if crf.compatibility is None else voxels.new_tensor(crf.compatibility)
        ),
        iterations=crf.iterations,
    ).softmax(dim=0)
    if crf.whole_foreground:
        refined = shared_out(refined, probabilities[:, *box][:, inside].to(dtype))
    answer = probabilities.clone()
    answer[:, *box][:, inside] = refined.to(probabilities.dtype)
    return answer


def mean_field(
    log_probabilities: Float[Tensor, "class voxel"],
    kernels: Sequence["NormalisedKernel"],
    weights: Float[Tensor, "kernel _"],
    *,
    compatibility: Float[Tensor, "class class"] | None,
    iterations: int,
) -> Float[Tensor, "class voxel"]:
    """Logits of the marginals that voxels, taken as independent, agree on best.

    `Q <- softmax(-U - sum_m M w_m (K_m Q))`, from `Q = softmax(-U)`; given is what the
    last softmax is taken of. Differentiable in all that are tensors here.

    Args:
        log_probabilities: `-U`; any constant per voxel may be added.
        kernels: `K_m`.
        weights: `w_m`; one each, or one for each class.
        compatibility: `M`, energy of two classes being neighbours; None: Potts, `-I`.
        iterations: Updates of all voxels together; at least one.
    """
    logits = log_probabilities
    for _ in range(iterations):
        marginals = logits.softmax(dim=0)
        agreement = torch.zeros_like(marginals)
        for weight, kernel in zip(weights, kernels, strict=True):
            agreement = agreement + weight[:, None] * kernel.messages(marginals)
        reward = agreement if compatibility is None else -compatibility @ agreement
        logits = log_probabilities + reward
    return logits


class NormalisedKernel:
    """A kernel `K` with its sums `D = diag(K 1)` divided out.

    ``symmetric``: `D^-1/2 K D^-1/2`; ``before``: `K D^-1`; ``after``: `D^-1 K`;
    ``none``: `K`.

    Args:
        kernel: Filters `(voxel, channel)`; linear.
        ones: `(voxel, 1)`, 1 everywhere, of the wanted device and precision.
        normalisation: Which of the four.
    """

    def __init__(
        self, kernel: Filter, ones: Tensor, normalisation: Normalisation
    ) -> None:
        self._kernel = kernel
        self._before: Tensor | None = None
        self._after: Tensor | None = None
        sums = kernel(ones) if normalisation != "none" else ones
        # The authors' guard; the voxel itself makes sums positive anyway.
        if normalisation == "symmetric":
            self._before = self._after = (sums + 1e-20).rsqrt()
        elif normalisation == "before":
            self._before = (sums + 1e-20).reciprocal()
        elif normalisation == "after":
            self._after = (sums + 1e-20).reciprocal()
        self._of_ones = self.filter(ones).T

    def filter(
        self, values: Float[Tensor, "voxel channel"]
    ) -> Float[Tensor, "voxel channel"]:
        """The normalised kernel times the values."""
        if self._before is not None:
            values = values * self._before
        values = self._kernel(values)
        return values if self._after is None else values * self._after

    def messages(
        self, marginals: Float[Tensor, "class voxel"]
    ) -> Float[Tensor, "class voxel"]:
        """The kernel times the marginals of each class, which sum to one."""
        all_but_last = self.filter(marginals[:-1].T).T
        last = self._of_ones - all_but_last.sum(0, keepdim=True)
        return torch.cat([all_but_last, last])


def kernels_of(
    image: Float[Tensor, "channel i j k"],
    mask: Bool[Tensor, "i j k"],
    spacing_mm: Sequence[float],
    crf: DenseCrf,
    *,
    filters: Filters,
) -> tuple[list[NormalisedKernel], list[float]]:
    """Kernels between the voxels of the mask, and their weights; none of weight 0."""
    ones = image.new_ones(int(mask.sum()), 1)
    kernels, weights = [], []
    if crf.smoothness_weight:
        kernel = smoothness_filter(
            mask, spacing_mm, crf.smoothness_mm, like=ones, filters=filters
        )
        kernels.append(NormalisedKernel(kernel, ones, crf.normalisation))
        weights.append(crf.smoothness_weight)
    if crf.appearance_weight:
        features = appearance_features(
            image, mask, spacing_mm, crf.appearance_mm, crf.appearance_deviations
        )
        kernel = gaussian_filter(features, filters=filters)
        kernels.append(NormalisedKernel(kernel, ones, crf.normalisation))
        weights.append(crf.appearance_weight)
    return kernels, weights


def smoothness_filter(
    mask: Bool[Tensor, "i j k"],
    spacing_mm: Sequence[float],
    deviations_mm: Sequence[float],
    *,
    like: Tensor,
    filters: Filters,
) -> Filter:
    """Kernel of the distance alone."""
    if filters == "exact":
        positions = scaled_positions(mask, spacing_mm, deviations_mm, like=like)
        return gaussian_filter(torch.stack(positions).T, filters=filters)
    deviations = [
        deviation / spacing
        for deviation, spacing in zip(deviations_mm, spacing_mm, strict=True)
    ]
    return MaskedSmoothness(mask, deviations).filter


def gaussian_filter(
    features: Float[Tensor, "voxel feature"], *, filters: Filters
) -> Filter:
    """Kernel of the distance between features."""
    if filters == "exact":
        return lambda values: exact_gaussian_filter(features, values)
    return PermutohedralLattice(features).filter


def appearance_features(
    image: Float[Tensor, "channel i j k"],
    mask: Bool[Tensor, "i j k"],
    spacing_mm: Sequence[float],
    deviations_mm: Sequence[float],
    deviations: Sequence[float],
) -> Float[Tensor, "voxel feature"]:
    """Position and intensities of each voxel, divided by the kernel's deviations.

    Features that are the same everywhere are left out, as they tell nothing apart.
    """
    intensities = image[:, mask]
    if len(deviations) == 1:
        deviations = [*deviations] * len(intensities)
    columns = scaled_positions(mask, spacing_mm, deviations_mm, like=image)
    for intensity, deviation in zip(intensities, deviations, strict=True):
        spread = intensity.std(correction=0)
        if spread > 0:
            columns.append((intensity - intensity.mean()) / (spread * deviation))
    varied = [column for column in columns if column.amin() < column.amax()]
    return torch.stack(varied or columns[:1]).T


def scaled_positions(
    mask: Bool[Tensor, "i j k"],
    spacing_mm: Sequence[float],
    deviations_mm: Sequence[float],
    *,
    like: Tensor,
) -> list[Float[Tensor, " voxel"]]:
    """Positions of the voxels along each axis, in deviations."""
    columns = []
    for axis, (spacing, deviation) in enumerate(
        zip(spacing_mm, deviations_mm, strict=True)
    ):
        places = torch.arange(mask.shape[axis], dtype=like.dtype, device=like.device)
        along = [1] * mask.ndim
        along[axis] = -1
        placed = (places * (spacing / deviation)).reshape(along)
        columns.append(placed.expand(mask.shape)[mask])
    return columns


def foreground_against_background(
    voxels: Float[Tensor, "class voxel"],
) -> Float[Tensor, "2 voxel"]:
    """Probability of the background, and of all other classes together."""
    return torch.stack([voxels[0], voxels[1:].sum(0)])


def shared_out(
    refined: Float[Tensor, "2 voxel"], voxels: Float[Tensor, "class voxel"]
) -> Float[Tensor, "class voxel"]:
    """Share the foreground among its classes in the proportions of before."""
    classes = voxels[1:].clamp(min=LEAST_PROBABILITY)
    return torch.cat([refined[:1], refined[1:] * (classes / classes.sum(0))])


def bounding_box(mask: Bool[Tensor, "i j k"]) -> tuple[slice, ...]:
    """Smallest window with all voxels of a mask, which is not empty."""
    window = []
    for axis in range(mask.ndim):
        others = [other for other in range(mask.ndim) if other != axis]
        places = torch.nonzero(mask.amax(dim=others))
        window.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(window)


def check_inputs(
    probabilities: Tensor,
    image: Tensor,
    spacing_mm: Sequence[float],
    crf: DenseCrf,
    mask: Tensor | None,
) -> None:
    """Refuse what would give a wrong answer, before anything is computed."""
    grid = tuple(probabilities.shape[1:])
    if tuple(image.shape[1:]) != grid:
        raise ValueError(
            f"the image is {tuple(image.shape[1:])} and the probabilities are {grid}; "
            "both must share one grid"
        )
    if not len(spacing_mm) == len(crf.smoothness_mm) == len(crf.appearance_mm) == 3:
        raise ValueError(
            f"the voxel spacing {tuple(spacing_mm)} and the deviations "
            f"{crf.smoothness_mm} and {crf.appearance_mm} mm must have three values"
        )
    if any(not spacing > 0 for spacing in spacing_mm):
        raise ValueError(
            f"the voxel spacing is {tuple(spacing_mm)} mm; it must be above 0"
        )
    if len(crf.appearance_deviations) not in (1, len(image)):
        raise ValueError(
            f"crf.appearance_deviations has {len(crf.appearance_deviations)} values "
            f"and the image {len(image)} channels; give one per channel, or one for all"
        )
    if crf.compatibility is not None and len(crf.compatibility) != len(probabilities):
        raise ValueError(
            f"crf.compatibility is for {len(crf.compatibility)} classes and there are "
            f"{len(probabilities)}, the background included"
        )
    if len(probabilities) < 2:
        raise ValueError("the CRF needs probabilities of two classes or more")
    if mask is not None:
        if tuple(mask.shape) != grid:
            raise ValueError(
                f"the mask is {tuple(mask.shape)} and the probabilities are {grid}; "
                "both must share one grid"
            )
        if not mask.any():
            raise ValueError("the mask is empty; the CRF needs a voxel to refine")
    sums = probabilities.sum(0, dtype=torch.float32)
    # Written so that NaN is refused, too.
    if not bool(((sums - 1).abs() <= SUM_TOLERANCE).all() and probabilities.min() >= 0):
        raise ValueError(
            f"the probabilities sum to {float(sums.min()):.4g} ... "
            f"{float(sums.max()):.4g} over the classes, the least being "
            f"{float(probabilities.min()):.4g}; the CRF needs probabilities that are "
            "not negative and sum to 1 in each voxel, as a softmax gives"
        )
    if not bool(torch.isfinite(image).all()):
        raise ValueError("the image has voxels that are not finite numbers")
