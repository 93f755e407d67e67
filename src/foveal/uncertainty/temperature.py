"""Temperature scaling: one number that makes probabilities as sure as they are right.

Guo et al. 2017 (https://arxiv.org/abs/1706.04599): the logits are divided by a
temperature T that minimises the negative log-likelihood of cases which the network was
not trained on. Logits are log-probabilities up to a constant, so that the mean of
several passes can be tempered as well: p^(1/T), divided by its sum over classes. The
order of a voxel's classes stays as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import minimize_scalar
from torch import Tensor

RANGE = (0.1, 10.0)
"""In which a temperature is looked for; outside, probabilities say nothing, or the
cases are too few or too easy to tell."""

SMALLEST = 2.0**-24
"""Probabilities are taken as at least this where likelihoods are: half precision, in
which they are kept, has none below, and one sure error would outweigh everything."""

PRECISION = 1e-3
"""Of the logarithm of a temperature."""

MOST_VOXELS = 20_000
"""Drawn from one case."""

MOST_VALUES = 50_000_000
"""Drawn from all cases together, voxels times classes: 200 MB."""


def tempered(
    probabilities: Float[Tensor, "class *space"],
    temperature: float,
) -> Float[Tensor, "class *space"]:
    """Probabilities at another temperature: above 1 less sure, below 1 surer.

    Args:
        probabilities: Not negative, of sum 1 over classes; a 0 stays 0.
        temperature: Positive; 1 changes nothing.
    """
    if temperature == 1:
        return probabilities
    # Over the largest, so that no power of all classes underflows at once.
    powers = (probabilities / probabilities.amax(dim=0)).pow(1 / temperature)
    return powers / powers.sum(dim=0)


@dataclass(frozen=True, eq=False)
class DrawnVoxels:
    """Some voxels of one case whose class is known."""

    probabilities: Float[Tensor, "voxel class"]
    labels: Int64[Tensor, " voxel"]
    """Inside classes."""

    shown: Int64[Tensor, " class"]
    """As which class each shows in this case; see `foveal.case.seen_classes`."""


def voxels_per_case(num_cases: int, num_classes: int) -> int:
    """How many voxels to draw: `MOST_VOXELS`, fewer where memory would not do."""
    return max(1, min(MOST_VOXELS, MOST_VALUES // (num_cases * num_classes)))


def draw_voxels(
    counted: Bool[Tensor, "i j k"], most: int, seed: int
) -> Int64[Tensor, " voxel"]:
    """Places of some voxels, each as likely, all of them if they are few.

    Args:
        counted: Voxels that may be drawn.
        most: That are drawn.
        seed: The same one draws the same voxels.

    Returns:
        Flat places in rising order; none if no voxel counts.
    """
    places = counted.flatten().nonzero().squeeze(1)
    if len(places) <= most:
        return places
    generator = torch.Generator().manual_seed(seed)
    # Drawn with replacement and made unique: an order of all voxels would be slow.
    drawn = torch.randint(len(places), (most,), generator=generator).unique()
    return places[drawn]


def fitted_temperature(cases: Sequence[DrawnVoxels]) -> float:
    """Temperature within `RANGE` at which the voxels' classes are most likely.

    Classes that look alike in a case are told together: their probabilities add up.

    Args:
        cases: At least one voxel in all; each voxel counts alike.
    """
    prepared = []
    for case in cases:
        logits = case.probabilities.clamp_min(SMALLEST).log()
        if bool((case.shown == torch.arange(len(case.shown))).all()):
            prepared.append((logits, logits.gather(1, case.labels[:, None])))
        else:
            is_true = case.shown[None, :] == case.labels[:, None]
            prepared.append((logits, logits.masked_fill(~is_true, -torch.inf)))
    num_voxels = sum(len(case.labels) for case in cases)

    def loss(log_temperature: float) -> float:
        sharpness = math.exp(-log_temperature)
        total = 0.0
        for every, true in prepared:
            nats = (sharpness * every).logsumexp(1) - (sharpness * true).logsumexp(1)
            total += float(nats.sum(dtype=torch.float64))
        return total / num_voxels

    bounds = (math.log(RANGE[0]), math.log(RANGE[1]))
    found = minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": PRECISION}
    )
    return math.exp(float(found.x))
