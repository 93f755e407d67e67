"""Compact clusters by label propagation: the regulariser of embeddings, CCLP.

Kamnitsas et al., "Semi-supervised learning via compact latent space clustering", ICML
2018, https://arxiv.org/abs/1806.02679; K. Kamnitsas's thesis (Imperial College London),
chapter 6, whose equations are named below. Symbols: A adjacency, H transitions of a
random walk, Phi posteriors, T ideal transitions, M agreement of labels, N samples, S
the longest chain.

Added to the equations, as in the authors' program: H is mixed with a little of an even
one, which keeps the linear system regular, and small numbers are added to the masses of
classes and within the logarithm. All is computed in double precision: where hardly any
path leads from an unlabelled sample to a labelled one, single precision would leave the
posteriors a few correct digits.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Similarity = Literal["dot", "cosine", "euclidean"]

Normalisation = Literal["mean_of_rows", "mean_of_pairs"]

EVEN_SHARE = 1e-5
"""Of the transitions: from every sample to any, itself included."""

LEAST_PROBABILITY = 1e-6
"""Added to those whose logarithm is taken."""

LEAST_MASS = 1e-5
"""Added to the expected numbers of samples of the classes."""

LEAST_LENGTH = 1e-3
"""Of embeddings that are normalised: one of zeros has no direction."""


def compact_clusters_loss(
    embeddings: Float[Tensor, "sample feature"],
    labels: Float[Tensor, "labelled class"],
    *,
    steps: int = 3,
    normalisation: Normalisation = "mean_of_rows",
    similarity: Similarity = "dot",
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """How far a random walk among samples is from one in one even cluster per class.

    Eq. 6.11. Gradients flow through everything, the propagated labels included.

    Args:
        embeddings: Labelled samples first.
        labels: Of the first samples, one-hot or probabilities; a column of zeros
            changes nothing.
        steps: S, at least 1.
        normalisation: ``"mean_of_rows"``: cross entropies of the rows of T and H,
            averaged over rows, 1/N, as in the authors' program. ``"mean_of_pairs"``:
            1/N^2, as in eq. 6.9 and 6.11; N times smaller.
        similarity: See `similarities`.
        temperature: See `similarities`.

    Returns:
        Not negative but for rounding. One even, separate cluster of m samples per
        class has, but for the small numbers added, log m by the mean of rows; so no
        embedding brings it to 0.

    Raises:
        ValueError: There is no labelled sample, or there are more labels than samples.
    """
    exact = _in_double(embeddings)
    with torch.autocast(exact.device.type, enabled=False):
        edges = similarities(exact, similarity, temperature)
        transitions = transition_matrix(edges)
        posteriors = propagated(transitions, labels.to(exact))
        ideal = ideal_transitions(posteriors)
        within = transitions * (posteriors @ posteriors.T)  # H o M
        arrivals = transitions  # H^(1)
        total = _cross_entropy(ideal, arrivals)
        for _ in range(steps - 1):
            arrivals = within @ arrivals  # Eq. 6.10: H^(s) = (H o M) H^(s-1)
            total = total + _cross_entropy(ideal, arrivals)
    samples = len(embeddings)
    pairs = samples if normalisation == "mean_of_rows" else samples**2
    precision = torch.promote_types(embeddings.dtype, torch.float32)
    return (total / (steps * pairs)).to(embeddings.device, precision)


def spread_labels(
    embeddings: Float[Tensor, "sample feature"],
    labels: Float[Tensor, "labelled class"],
    *,
    similarity: Similarity = "dot",
    temperature: float = 1.0,
) -> Float[Tensor, "sample class"]:
    """Class posteriors that the labels of the first samples give to all, see eq. 6.7.

    Args:
        embeddings: Labelled samples first.
        labels: Of the first samples, one-hot or probabilities.
        similarity: See `similarities`.
        temperature: See `similarities`.

    Returns:
        In double precision; rows sum to 1.

    Raises:
        ValueError: There is no labelled sample, or there are more labels than samples.
    """
    exact = _in_double(embeddings)
    with torch.autocast(exact.device.type, enabled=False):
        edges = similarities(exact, similarity, temperature)
        return propagated(transition_matrix(edges), labels.to(exact))


def similarities(
    embeddings: Float[Tensor, "sample feature"],
    kind: Similarity,
    temperature: float = 1.0,
) -> Float[Tensor, "sample sample"]:
    """Score of every pair of samples, the exponent of eq. 6.2.

    Args:
        embeddings: Of samples.
        kind: ``"dot"``: their product, the thesis's. ``"cosine"``: that of embeddings
            brought to length 1. ``"euclidean"``: minus their squared distance.
        temperature: Divides the scores.
    """
    if kind == "cosine":
        squares = embeddings.square().sum(dim=1, keepdim=True)
        embeddings = embeddings / (squares + LEAST_LENGTH**2).sqrt()
    products = embeddings @ embeddings.T
    if kind == "euclidean":
        squares = embeddings.square().sum(dim=1)
        products = 2 * products - squares[:, None] - squares
    return products / temperature


def transition_matrix(
    similarities: Float[Tensor, "sample sample"],
) -> Float[Tensor, "sample sample"]:
    """H of eq. 6.3, smoothed: every transition has some probability, rows sum to 1.

    Args:
        similarities: Of any size; the exponentials are not formed apart.
    """
    transitions = similarities.softmax(dim=1)
    return (1 - EVEN_SHARE) * transitions + EVEN_SHARE / len(similarities)


def propagated(
    transitions: Float[Tensor, "sample sample"],
    labels: Float[Tensor, "labelled class"],
) -> Float[Tensor, "sample class"]:
    """Class posteriors of all samples once labels have spread, Phi of eq. 6.7.

    The limit of eq. 6.5: labelled samples keep their labels, every other one takes the
    mean of those that the walk leads to.

    Args:
        transitions: Labelled samples first; rows sum to 1, no entry is 0.
        labels: Of the first samples.

    Returns:
        The labels, then those of the other samples. Rows sum to 1 and lie in [0, 1]
        where those of the labels do.

    Raises:
        ValueError: There is no labelled sample, or there are more labels than samples.
    """
    labelled, samples = len(labels), len(transitions)
    if not 0 < labelled <= samples:
        raise ValueError(
            f"{labelled} labels for {samples} samples; at least 1 sample must be "
            "labelled, and none twice"
        )
    among = transitions[labelled:, labelled:]  # H_UU
    arriving = transitions[labelled:, :labelled] @ labels  # H_UL Y_L
    identity = torch.eye(samples - labelled, dtype=among.dtype, device=among.device)
    return torch.cat([labels, torch.linalg.solve(identity - among, arriving)])


def ideal_transitions(
    posteriors: Float[Tensor, "sample class"],
) -> Float[Tensor, "sample sample"]:
    """T of eq. 6.8: evenly to all samples of the own class, to no others.

    Args:
        posteriors: Of the classes; one that no sample has changes nothing.

    Returns:
        Symmetric; rows sum to 1 but for the small number added to the masses.
    """
    masses = posteriors.sum(dim=0) + LEAST_MASS  # m_c
    return (posteriors / masses) @ posteriors.T


def _in_double(embeddings: Tensor) -> Tensor:
    """In double precision; on the processor if they are where there is none."""
    if embeddings.device.type == "mps":
        embeddings = embeddings.cpu()
    return embeddings.double()


def _cross_entropy(ideal: Tensor, arrivals: Tensor) -> Tensor:
    """Of all rows together, eq. 6.9 without its factor."""
    return -(ideal * (arrivals + LEAST_PROBABILITY).log()).sum()
