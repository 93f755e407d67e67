"""The Gaussian filter over all pairs of points, without approximation."""

import torch
from jaxtyping import Float
from torch import Tensor

ROWS_AT_ONCE = 1024
"""Points whose weights to all others are held together."""


def exact_gaussian_filter(
    features: Float[Tensor, "point feature"], values: Float[Tensor, "point channel"]
) -> Float[Tensor, "point channel"]:
    """Sum of all points' values, weighted by `exp(-|f_a - f_b|^2 / 2)`.

    The point itself is included. The cost grows with the square of the number of
    points: for a few thousand of them, and for tests.

    Args:
        features: Each divided by its standard deviation.
        values: At the points.
    """
    rows = []
    for part in features.split(ROWS_AT_ONCE):
        # Differences rather than the scalar product, which cancels in float32.
        distance = torch.cdist(
            part, features, compute_mode="donot_use_mm_for_euclid_dist"
        )
        rows.append(torch.exp(-0.5 * distance.square()) @ values)
    return torch.cat(rows)
