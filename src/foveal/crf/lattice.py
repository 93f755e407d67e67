"""Gaussian filtering of scattered points on the permutohedral lattice.

Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral
lattice", Computer Graphics Forum 2010.

Points are spread over the corners of the simplex they lie in (splat), the corners are
blurred with [1/2, 1, 1/2] along each of the d + 1 lattice directions, and points read
the corners again (slice). All three are linear, so the gradient with respect to the
values is the same filter with the directions in reversed order.

Differs from the paper: corners are found by sorting integer keys rather than by a hash
table, as sorting is what tensor libraries do well on every device.
"""

import itertools
import math
import warnings
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

POINTS_AT_ONCE = 1 << 18
"""Points embedded together, so that temporaries stay in tens of megabytes."""


class PermutohedralLattice:
    """Weights `exp(-|f_a - f_b|^2 / 2)` between all pairs of points, nearly.

    Set up once for the features, then used for any number of values. The kernel is
    piecewise linear with bounded support and approximates the Gaussian: about 10 %
    off in the relative sense for two features, 30 % for five, up to a factor that is
    the same everywhere. The factor is the one of the authors' program, so it cancels
    in every normalisation but "none".

    Args:
        features: `(point, feature)`, each divided by its standard deviation. Finite.
    """

    def __init__(self, features: Float[Tensor, "point feature"]) -> None:
        self.num_points, self.num_features = features.shape
        strides = key_strides(features)
        corners = self.num_features + 1
        device, dtype = features.device, features.dtype

        keys = torch.empty(self.num_points, dtype=torch.int64, device=device)
        # Row n: the coordinate with the n-th largest remainder.
        by_rank = torch.empty(
            corners, self.num_points, dtype=torch.uint8, device=device
        )
        weights = torch.empty(self.num_points, corners, dtype=dtype, device=device)
        for start in range(0, self.num_points, POINTS_AT_ONCE):
            part = slice(start, start + POINTS_AT_ONCE)
            keys[part], by_rank[:, part], weights[part] = enclosing_simplices(
                features[part], strides
            )

        # Corners with unlike remainders never coincide, so each remainder is sorted
        # by itself; together they are numbered one remainder after another.
        vertices = torch.empty(
            self.num_points, corners, dtype=torch.int32, device=device
        )
        splat_points = torch.empty(
            corners, self.num_points, dtype=torch.int32, device=device
        )
        splat_weights = torch.empty(
            corners, self.num_points, dtype=dtype, device=device
        )
        counts, keys_of = [], []
        total = 0
        for remainder in range(corners):
            if remainder:
                highest = by_rank[corners - remainder].int()
                keys += (strides.sum() - corners * strides)[highest]
            ordered, order = torch.sort(keys, stable=True)
            unique, inverse, count = torch.unique_consecutive(
                ordered, return_inverse=True, return_counts=True
            )
            vertices[order, remainder] = (inverse + total).int()
            splat_points[remainder] = order
            splat_weights[remainder] = weights[order, remainder]
            counts.append(count)
            keys_of.append(unique)
            total += len(unique)
        self.num_vertices = total
        self.weights = weights
        self.vertices = vertices
        self._neighbours = neighbours(keys_of, strides)

        rows = torch.zeros(total + 1, dtype=torch.int32, device=device)
        rows[1:] = torch.cumsum(torch.cat(counts), 0)
        self._splat = sparse_rows(
            rows,
            splat_points.flatten(),
            splat_weights.flatten(),
            (total, self.num_points),
        )
        every_row = torch.arange(
            0, vertices.numel() + 1, corners, dtype=torch.int32, device=device
        )
        self._slice = sparse_rows(
            every_row,
            vertices.flatten(),
            weights.flatten(),
            (self.num_points, total),
        )

    def filter(
        self, values: Float[Tensor, "point channel"]
    ) -> Float[Tensor, "point channel"]:
        """Sum of all points' values, weighted by how near their features are.

        The point itself is included. Gradients reach the values, not the features.
        """
        filtered: Tensor = LatticeFilter.apply(  # type: ignore[no-untyped-call]
            values, self, False
        )
        return filtered

    def filtered_values(self, values: Tensor, *, transposed: bool) -> Tensor:
        """Splat, blur and slice, or their transpose; without a gradient."""
        # Column by column: products with one vector are the fast ones, and what is
        # kept beside the result does not grow with the number of columns.
        columns = [
            self._filtered_column(column.contiguous(), transposed=transposed)
            for column in values.unbind(dim=1)
        ]
        return torch.stack(columns).T

    def _filtered_column(self, column: Tensor, *, transposed: bool) -> Tensor:
        # One more place that stays zero stands for neighbours that do not exist.
        padded = column.new_zeros(self.num_vertices + 1)
        padded[:-1] = product(self._splat, column)
        order = reversed(self._neighbours) if transposed else self._neighbours
        for before, after in order:
            around = padded.index_select(0, before)
            around += padded.index_select(0, after)
            padded[:-1].add_(around, alpha=0.5)
        scale = 1 / (1 + 2.0**-self.num_features)
        return product(self._slice, padded[:-1]).mul_(scale)


class LatticeFilter(torch.autograd.Function):
    """The filter with its exact adjoint as gradient."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - PyTorch's context
        values: Tensor,
        lattice: PermutohedralLattice,
        transposed: bool,  # noqa: FBT001 - apply() takes no names.
    ) -> Tensor:
        """Filter."""
        ctx.lattice, ctx.transposed = lattice, transposed
        return lattice.filtered_values(values, transposed=transposed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 - PyTorch's context
        """Filter with the directions reversed."""
        filtered = LatticeFilter.apply(  # type: ignore[no-untyped-call]
            gradient, ctx.lattice, not ctx.transposed
        )
        return filtered, None, None


def coordinate_scales(num_features: int) -> list[float]:
    """Scale of each feature, such that splat, blur and slice have unit variance."""
    return [
        math.sqrt(2 / 3) * (num_features + 1) / math.sqrt((axis + 1) * (axis + 2))
        for axis in range(num_features)
    ]


def key_strides(features: Tensor) -> Int[Tensor, " coordinate"]:
    """Factors that turn the coordinates of a lattice point into one integer.

    As in numbers of several digits where 63 bits suffice, so that unlike points have
    unlike keys. Beyond (many features, each spanning hundreds of deviations) fixed
    odd 64-bit factors: two of a million points then share a key in one of ten million
    set-ups. The last coordinate follows from the others and counts nothing.
    """
    num_features = features.shape[1]
    lowest, highest = features.amin(0).double(), features.amax(0).double()
    # A coordinate moves by at most its scale times (axis + 1) per feature; rounding
    # and the neighbours of a simplex add a few lattice cells.
    spans = []
    for coordinate in range(num_features):
        span = 0.0
        for axis, scale in enumerate(coordinate_scales(num_features)):
            if axis >= coordinate - 1:
                weight = coordinate if axis == coordinate - 1 else 1
                span += weight * scale * float(highest[axis] - lowest[axis])
        spans.append(math.ceil(span) + 6 * (num_features + 1))
    sizes = [1, *itertools.accumulate(spans, lambda product, span: product * span)]
    factors = sizes[:-1]
    if sizes[-1] >= 1 << 62:
        generator = torch.Generator().manual_seed(0)
        top = (1 << 63) - 1
        drawn = torch.randint(-top, top, (num_features,), generator=generator)
        factors = (drawn | 1).tolist()
    return torch.tensor([*factors, 0], dtype=torch.int64, device=features.device)


def enclosing_simplices(
    features: Float[Tensor, "point feature"], strides: Int[Tensor, " coordinate"]
) -> tuple[
    Int[Tensor, " point"],
    UInt8[Tensor, "coordinate point"],
    Float[Tensor, "point corner"],
]:
    """Key of each point's corner of remainder 0, coordinates by rank, and weights.

    The weights are barycentric: non-negative, sum 1, one per remainder.
    """
    count, num_features = features.shape
    corners = num_features + 1
    elevated = features.new_empty(corners, count)
    total = features.new_zeros(count)
    for axis in reversed(range(num_features)):
        scaled = features[:, axis] * coordinate_scales(num_features)[axis]
        elevated[axis + 1] = total - (axis + 1) * scaled
        total += scaled
    elevated[0] = total

    nearest = (elevated / corners).round_()
    # How far the rounded coordinates are from the plane where they sum to zero.
    excess = nearest.sum(0).to(torch.int8)
    distance = elevated.sub_(nearest, alpha=corners)
    rank = torch.zeros(corners, count, dtype=torch.int8, device=features.device)
    for first, second in itertools.combinations(range(corners), 2):
        smaller = distance[first] < distance[second]
        rank[first] += smaller
        rank[second] += ~smaller
    rank += excess
    # A rank outside 0 ... d moves its coordinate by one cell to restore the sum.
    moved = (rank < 0).to(torch.int8) - (rank > num_features).to(torch.int8)
    rank += corners * moved
    nearest += moved
    distance.sub_(moved, alpha=corners)

    places = rank.to(torch.int64)
    offsets = torch.empty_like(distance).scatter_(0, places, distance / corners)
    weights = features.new_empty(count, corners)
    weights[:, 0] = 1 + offsets[num_features] - offsets[0]
    for place in range(num_features):
        weights[:, num_features - place] = offsets[place] - offsets[place + 1]
    # Rounding may leave -1e-8 where a point lies on a face.
    weights.clamp_(min=0)
    coordinates = torch.arange(corners, dtype=torch.uint8, device=features.device)
    by_rank = torch.empty_like(rank, dtype=torch.uint8).scatter_(
        0, places, coordinates[:, None].expand(-1, count)
    )
    keys = torch.zeros(count, dtype=torch.int64, device=features.device)
    for coordinate in range(num_features):
        keys += nearest[coordinate].to(torch.int64) * (corners * strides[coordinate])
    return keys, by_rank, weights


def neighbours(
    keys_of: list[Int[Tensor, " _"]], strides: Int[Tensor, " coordinate"]
) -> list[tuple[Int[Tensor, " vertex"], Int[Tensor, " vertex"]]]:
    """Numbers of the two neighbours of each vertex along each lattice direction.

    A step lowers each coordinate by one and raises one by d, so it leads from
    remainder r to r - 1. The number of vertices stands for "there is none".
    """
    corners = len(keys_of)
    firsts = [0, *itertools.accumulate(len(keys) for keys in keys_of)]
    total = firsts[-1]
    device = strides.device
    found = []
    for coordinate in range(corners):
        after = torch.full((total,), total, dtype=torch.int32, device=device)
        before = torch.full((total,), total, dtype=torch.int32, device=device)
        for remainder in range(corners):
            candidates = keys_of[remainder - 1]
            step = corners * strides[coordinate] - strides.sum()
            wanted = keys_of[remainder] + step
            place = torch.searchsorted(candidates, wanted, out_int32=True)
            place.clamp_(max=len(candidates) - 1)
            here = torch.nonzero(candidates[place] == wanted).squeeze(1)
            there = place[here] + firsts[(remainder - 1) % corners]
            here = here + firsts[remainder]
            after[here] = there
            before[there] = here.int()
        found.append((before, after))
    return found


def sparse_rows(
    rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]
) -> Tensor:
    """A sparse matrix with compressed rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            rows, columns, values, size, check_invariants=False
        )


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Sparse matrix times vector."""
    if matrix.is_cuda or torch.backends.mkl.is_available():
        return matrix @ vector
    # Without MKL, the product with a matrix is there and that with a vector is not.
    return (matrix @ vector[:, None]).squeeze(1)
