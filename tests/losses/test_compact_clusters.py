"""Compact clusters by label propagation against its equations, written out."""

import itertools
import math

import pytest
import torch

from foveal.losses.compact_clusters import (
    EVEN_SHARE,
    LEAST_MASS,
    LEAST_PROBABILITY,
    compact_clusters_loss,
    ideal_transitions,
    propagated,
    similarities,
    spread_labels,
    transition_matrix,
)

KINDS = ("dot", "cosine", "euclidean")
NORMALISATIONS = ("mean_of_rows", "mean_of_pairs")


def drawn(samples, labelled, classes=3, features=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(samples)
    embeddings = torch.randn(samples, features, generator=generator, dtype=dtype)
    labels = torch.eye(classes, dtype=dtype)[torch.arange(labelled) % classes]
    return embeddings, labels


def graph(samples=12, labelled=5):
    embeddings, labels = drawn(samples, labelled)
    return transition_matrix(similarities(embeddings, "dot", 4.0)), labels


def clusters(size, classes=2, apart=100.0, dtype=torch.float64):
    """Perfect ones, one sample of each labelled, these first."""
    labels = torch.eye(classes, dtype=dtype)
    return torch.cat([apart * labels, apart * labels.repeat(size - 1, 1)]), labels


def test_scores_are_products_angles_and_distances():
    embeddings = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)
    assert similarities(embeddings, "dot").tolist() == [[25.0, 8.0], [8.0, 4.0]]
    halved = similarities(embeddings, "euclidean", temperature=2.0)
    assert halved.tolist() == [[0.0, -6.5], [-6.5, 0.0]]
    expected = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(
        similarities(embeddings, "cosine"), expected, atol=1e-6, rtol=0
    )


def test_transitions_are_rows_of_exponentials_and_a_little_of_an_even_one():
    scores = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    expected = (1 - EVEN_SHARE) * expected + EVEN_SHARE / 2
    torch.testing.assert_close(transition_matrix(scores), expected)


def test_closed_form_is_the_limit_of_propagation_step_by_step():
    transitions, labels = graph()
    posteriors = torch.cat([labels, torch.rand(7, 3, dtype=torch.float64)])
    for _ in range(2000):
        posteriors = torch.cat([labels, (transitions @ posteriors)[5:]])  # Eq. 6.5
    torch.testing.assert_close(
        propagated(transitions, labels), posteriors, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_posteriors_are_probabilities_in_whatever_precision_features_are(kind, size):
    embeddings, labels = drawn(200, 20, dtype=torch.float32)
    embeddings[150:] += 5.0  # A cluster without any label.
    posteriors = spread_labels(
        size * embeddings.half().float(), labels, similarity=kind
    )
    ones = torch.ones(200, dtype=torch.float64)
    torch.testing.assert_close(posteriors.sum(dim=1), ones, atol=1e-8, rtol=0)
    assert posteriors.min() > -1e-9
    assert posteriors.max() < 1 + 1e-9


def test_ideal_transitions_go_evenly_to_the_own_class():
    posteriors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).double()
    expected = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]])
    torch.testing.assert_close(
        ideal_transitions(posteriors), expected.double(), atol=2 * LEAST_MASS, rtol=0
    )


@pytest.mark.parametrize(("size", "classes"), [(5, 2), (50, 3)])
def test_perfect_clusters_reach_the_floor_and_nothing_else(size, classes):
    embeddings, labels = clusters(size, classes)
    found = {
        (steps, norm): float(
            compact_clusters_loss(embeddings, labels, steps=steps, normalisation=norm)
        )
        for steps in (1, 3)
        for norm in NORMALISATIONS
    }
    floor = math.log(size)
    for steps in (1, 3):
        assert found[steps, "mean_of_rows"] == pytest.approx(floor, abs=1e-2)
        of_pairs = found[steps, "mean_of_pairs"] * size * classes
        assert of_pairs == pytest.approx(found[steps, "mean_of_rows"], rel=1e-12)
    spread = embeddings + torch.randn(embeddings.shape).double() / 50
    assert compact_clusters_loss(spread, labels, steps=1) > floor


def test_both_forms_of_chains_agree():
    transitions, labels = graph()
    posteriors = propagated(transitions, labels)
    within = transitions * (posteriors @ posteriors.T)
    recursive = transitions
    for steps in range(1, 5):
        power = torch.linalg.matrix_power(within, steps - 1) @ transitions  # Eq. 6.10
        torch.testing.assert_close(recursive, power)
        recursive = within @ recursive


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_it_is_the_sum_over_all_paths(normalisation):
    embeddings, labels = drawn(5, 3, classes=2)
    h = transition_matrix(similarities(embeddings, "dot", 2.0)).tolist()
    phi = propagated(torch.tensor(h).double(), labels).tolist()
    everyone, both = range(5), range(2)
    masses = [sum(row[c] for row in phi) + LEAST_MASS for c in both]
    total = 0.0
    for s, i, j in itertools.product((1, 2, 3), everyone, everyone):
        arrives = 0.0
        for between in itertools.product(everyone, repeat=s - 1):
            path, chance = (i, *between), 1.0
            for a, b in itertools.pairwise(path):
                chance *= h[a][b] * sum(phi[a][c] * phi[b][c] for c in both)
            arrives += chance * h[path[-1]][j]
        ideal = sum(phi[i][c] * phi[j][c] / masses[c] for c in both)
        total -= ideal * math.log(arrives + LEAST_PROBABILITY)
    pairs = {"mean_of_rows": 5, "mean_of_pairs": 25}[normalisation]
    found = compact_clusters_loss(
        embeddings, labels, steps=3, normalisation=normalisation, temperature=2.0
    )
    assert float(found) == pytest.approx(total / (3 * pairs), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    embeddings, labels = drawn(7, 3, classes=2, features=2)
    embeddings[-1] = 0.0  # Without a direction.

    def loss(of):
        return compact_clusters_loss(of, labels, similarity=kind, temperature=0.7)

    assert torch.autograd.gradcheck(loss, embeddings.requires_grad_())


def test_gradients_flow_through_the_propagated_labels_too():
    embeddings, labels = drawn(8, 3)
    embeddings.requires_grad_()
    posteriors = spread_labels(embeddings, labels)
    posteriors[3:, 0].sum().backward()
    assert embeddings.grad.abs().min() > 0


def test_order_among_the_labelled_and_among_the_others_is_no_matter():
    embeddings, labels = drawn(12, 5)
    torch.manual_seed(0)
    first, others = torch.randperm(5), 5 + torch.randperm(7)
    shuffled = embeddings[torch.cat([first, others])].requires_grad_()
    embeddings.requires_grad_()
    one = compact_clusters_loss(embeddings, labels)
    other = compact_clusters_loss(shuffled, labels[first])
    torch.testing.assert_close(one, other)
    one.backward()
    other.backward()
    order = torch.cat([first, others])
    torch.testing.assert_close(embeddings.grad[order], shuffled.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_large_embeddings_give_finite_losses_and_gradients(kind):
    embeddings, labels = drawn(40, 6, dtype=torch.float32)
    embeddings = (100 * embeddings).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = compact_clusters_loss(embeddings, labels, similarity=kind)
    assert (embeddings @ embeddings.T).max() > 1e4
    assert loss.dtype == torch.float32
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()


def test_labelled_samples_alone_will_do():
    embeddings, labels = drawn(6, 6)
    transitions = transition_matrix(similarities(embeddings, "dot"))
    torch.testing.assert_close(propagated(transitions, labels), labels)
    expected = -(
        ideal_transitions(labels) * (transitions + LEAST_PROBABILITY).log()
    ).sum(dim=1)
    found = compact_clusters_loss(embeddings.requires_grad_(), labels, steps=1)
    torch.testing.assert_close(found, expected.mean())
    found.backward()
    assert embeddings.grad.isfinite().all()


def test_a_class_without_labels_is_left_out():
    embeddings, labels = drawn(12, 6)
    with_one_more = torch.cat([labels, torch.zeros(6, 1).double()], dim=1)
    found = compact_clusters_loss(embeddings, with_one_more)
    torch.testing.assert_close(found, compact_clusters_loss(embeddings, labels))


def test_labels_must_be_there_and_of_samples():
    embeddings, labels = drawn(4, 6)
    with pytest.raises(ValueError, match="6 labels for 4 samples; at least 1"):
        compact_clusters_loss(embeddings, labels)
    with pytest.raises(ValueError, match="0 labels for 4 samples"):
        compact_clusters_loss(embeddings, labels[:0])


def test_pulling_brings_unlabelled_samples_to_the_labels_of_their_cluster():
    torch.manual_seed(0)
    ends = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    around = ends.repeat(20, 1) + 0.3 * torch.randn(40, 2)
    embeddings = torch.cat([ends, around]).requires_grad_()
    for _ in range(60):
        loss = compact_clusters_loss(
            embeddings, torch.eye(2), similarity="euclidean", temperature=0.3
        )
        (gradient,) = torch.autograd.grad(loss, embeddings)
        with torch.no_grad():
            embeddings -= gradient
    posteriors = spread_labels(
        embeddings.detach(), torch.eye(2), similarity="euclidean", temperature=0.3
    )
    assert (posteriors.argmax(dim=1)[2:] == torch.arange(40) % 2).all()
    assert loss.item() == pytest.approx(math.log(21), abs=0.05)
