import math

import pytest
import torch

from foveal.uncertainty.maps import entropy, mutual_information, variance


def passes_of(*distributions):
    """Passes over one voxel: (pass, class, 1, 1, 1)."""
    return torch.tensor(distributions)[:, :, None, None, None]


def means_of(passes):
    """What is kept of passes: mean, mean of squares, mean entropy."""
    return (
        passes.mean(0),
        passes.square().mean(0),
        torch.stack([entropy(one) for one in passes]).mean(0),
    )


def test_entropy_is_zero_where_sure_and_log_of_classes_where_all_are_alike():
    sure, open_, between = passes_of([1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.25, 0.25, 0])
    assert entropy(sure).item() == 0
    assert entropy(open_).item() == pytest.approx(math.log(4))
    assert entropy(between).item() == pytest.approx(1.5 * math.log(2))


def test_mutual_information_of_sure_passes_that_disagree_is_all_of_the_entropy():
    mean, _, expected = means_of(passes_of([1.0, 0.0], [0.0, 1.0]))
    assert expected.item() == 0
    found = mutual_information(entropy(mean), expected)
    assert found.item() == pytest.approx(math.log(2))


def test_mutual_information_is_the_mean_divergence_of_passes_from_their_mean():
    passes = torch.rand(5, 3, 2, 4, 3, generator=torch.Generator().manual_seed(1))
    passes /= passes.sum(1, keepdim=True)
    mean, _, expected = means_of(passes)
    found = mutual_information(entropy(mean), expected)
    divergence = (passes * (passes / mean).log()).sum(1).mean(0)
    assert torch.allclose(found, divergence, atol=1e-6)
    assert (found > 0).all()


def test_one_pass_disagrees_with_nothing():
    one = torch.rand(1, 4, 3, 5, 2, generator=torch.Generator().manual_seed(2))
    one /= one.sum(1, keepdim=True)
    mean, squares, expected = means_of(one)
    assert (mutual_information(entropy(mean), expected) == 0).all()
    assert (variance(mean, squares) == 0).all()


def test_variance_is_the_mean_squared_distance_from_the_mean():
    mean, squares, _ = means_of(passes_of([0.2, 0.8], [0.6, 0.4], [0.7, 0.3]))
    by_hand = (0.3**2 + 0.1**2 + 0.2**2) / 3
    assert variance(mean, squares).flatten().tolist() == pytest.approx([by_hand] * 2)


def test_rounding_makes_no_negative_variance_or_information():
    mean, squares, expected = means_of(passes_of(*[[0.1, 0.9]] * 7))
    assert (variance(mean, squares - 1e-7) == 0).all()
    assert (mutual_information(entropy(mean), expected + 1e-6) == 0).all()
