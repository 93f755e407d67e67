"""The lattice, the separable smoothness and the sum over all pairs of points."""

import pytest
import torch

from foveal.crf import lattice as lattice_module
from foveal.crf.brute_force import exact_gaussian_filter
from foveal.crf.lattice import PermutohedralLattice
from foveal.crf.mean_field import NormalisedKernel
from foveal.crf.smoothness import MaskedSmoothness, gaussian_convolution


def points(count, num_features, seed=0, deviation=2.0):
    generator = torch.Generator().manual_seed(seed)
    return deviation * torch.randn(
        count, num_features, generator=generator, dtype=torch.float64
    )


def values(count, channels=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("num_features", range(1, 7))
def test_gradient_is_the_exact_adjoint(num_features):
    lattice = PermutohedralLattice(points(200, num_features))
    left, right = values(200), values(200, seed=2).requires_grad_()
    product = (left * lattice.filter(right)).sum()
    product.backward()
    other = (right.grad * right).sum()
    assert float(other.detach()) == pytest.approx(float(product.detach()), rel=1e-12)
    reversed_way = lattice.filtered_values(left, transposed=True)
    assert torch.allclose(reversed_way, right.grad, atol=1e-12)


def test_gradients_and_their_gradients_agree_with_finite_differences():
    lattice = PermutohedralLattice(points(8, 2, deviation=0.5))
    inputs = values(8, channels=1).requires_grad_()
    assert torch.autograd.gradcheck(lattice.filter, inputs)
    assert torch.autograd.gradgradcheck(
        lambda each: lattice.filter(each).square(), inputs, fast_mode=True
    )


@pytest.mark.parametrize("num_features", [1, 2, 3, 5])
def test_barycentric_weights_are_positive_sum_to_one_and_find_the_point(num_features):
    features = points(200, num_features)
    lattice = PermutohedralLattice(features)
    assert lattice.weights.min() >= 0
    assert torch.allclose(lattice.weights.sum(1), torch.ones(200, dtype=torch.float64))
    assert lattice.vertices.max() == lattice.num_vertices - 1
    assert len(lattice.vertices.unique()) == lattice.num_vertices
    # Every vertex is one place: it solves its points' barycentric equations.
    matrix = torch.zeros(200, lattice.num_vertices, dtype=torch.float64)
    matrix.scatter_(1, lattice.vertices.long(), lattice.weights)
    if lattice.num_vertices < 150:
        places = torch.linalg.pinv(matrix) @ features
        assert torch.allclose(matrix @ places, features, atol=1e-9)


def test_two_points_far_apart_do_not_see_each_other():
    lattice = PermutohedralLattice(torch.tensor([[0.0, 0.0], [50.0, 50.0]]))
    answer = lattice.filter(torch.tensor([[1.0], [0.0]]))
    assert answer[0, 0] > 0.3
    assert answer[1, 0] == 0


def test_order_of_points_does_not_matter():
    features, inputs = points(300, 4), values(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(3))
    straight = PermutohedralLattice(features).filter(inputs)[order]
    shuffled = PermutohedralLattice(features[order]).filter(inputs[order])
    assert torch.allclose(straight, shuffled, atol=1e-12)


def test_points_are_embedded_in_chunks_to_the_same_lattice(monkeypatch):
    features, inputs = points(300, 3), values(300)
    whole = PermutohedralLattice(features).filter(inputs)
    monkeypatch.setattr(lattice_module, "POINTS_AT_ONCE", 7)
    assert torch.equal(PermutohedralLattice(features).filter(inputs), whole)


def test_hashed_keys_of_a_wide_range_make_the_same_lattice(monkeypatch):
    features, inputs = points(300, 3), values(300)
    packed = PermutohedralLattice(features)
    wide = torch.tensor([[1e7], [0.0]], dtype=torch.float64).expand(2, 3)
    factors = lattice_module.key_strides(wide)
    assert (factors[:-1] % 2 == 1).all()
    assert factors[-1] == 0
    monkeypatch.setattr(lattice_module, "key_strides", lambda _: factors)
    hashed = PermutohedralLattice(features)
    assert hashed.num_vertices == packed.num_vertices
    assert torch.allclose(hashed.filter(inputs), packed.filter(inputs), atol=1e-12)


@pytest.mark.parametrize(
    ("num_features", "least_correlation"), [(1, 0.99), (2, 0.98), (3, 0.98), (5, 0.9)]
)
def test_normalised_lattice_is_near_the_sum_over_all_pairs(
    num_features, least_correlation
):
    features, inputs = points(800, num_features), values(800)
    ones = torch.ones(800, 1, dtype=torch.float64)

    def exact(each):
        return exact_gaussian_filter(features, each)

    near = NormalisedKernel(PermutohedralLattice(features).filter, ones, "symmetric")
    true = NormalisedKernel(exact, ones, "symmetric")
    pair = torch.stack([near.filter(inputs).flatten(), true.filter(inputs).flatten()])
    assert torch.corrcoef(pair)[0, 1] > least_correlation


def test_smoothness_equals_the_sum_over_all_pairs_of_the_mask():
    mask = torch.rand(7, 9, 5, generator=torch.Generator().manual_seed(0)) > 0.4
    deviations = (1.0, 2.5, 0.7)
    inputs = values(int(mask.sum()))
    features = torch.nonzero(mask) / torch.tensor(deviations, dtype=torch.float64)
    fast = MaskedSmoothness(mask, deviations).filter(inputs)
    assert torch.allclose(fast, exact_gaussian_filter(features, inputs), atol=1e-4)


def test_long_axes_are_convolved_in_blocks_to_the_same_answer():
    line = values(300, channels=1).T.reshape(1, 300, 1, 1)
    features = torch.arange(300, dtype=torch.float64)[:, None] / 4
    exact = exact_gaussian_filter(features, line.reshape(300, 1))
    for axis in range(3):
        turned = line.movedim(1, 1 + axis)
        convolved = gaussian_convolution(turned, [4.0] * 3)
        assert torch.allclose(convolved.flatten(), exact[:, 0], atol=1e-4)


def test_smoothness_gradients_agree_with_finite_differences():
    mask = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0)) > 0.3
    kernel = MaskedSmoothness(mask, (1.0, 1.5, 0.6))
    inputs = values(int(mask.sum())).requires_grad_()
    assert torch.autograd.gradcheck(kernel.filter, inputs)


def test_exact_filter_is_the_formula_and_does_not_depend_on_its_chunks(monkeypatch):
    features, inputs = points(30, 3), values(30)
    squared = (features[:, None] - features[None]).square().sum(-1)
    expected = torch.exp(-0.5 * squared) @ inputs
    assert torch.allclose(exact_gaussian_filter(features, inputs), expected)
    monkeypatch.setattr("foveal.crf.brute_force.ROWS_AT_ONCE", 7)
    assert torch.allclose(exact_gaussian_filter(features, inputs), expected)
