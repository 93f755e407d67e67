"""Majority and weighted votes over label maps, and votes as rows of classes."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from torch import Tensor

from foveal.ensembles.votes import Votes, gather_votes, most_supported
from foveal.errors import SettingsError

Weight = float | Mapping[int, float]
"""Of a member's votes: one, or one for each label other than background."""


def majority_vote(label_maps: Iterable[NDArray[np.integer]]) -> NDArray[np.integer]:
    """Label that most members give each voxel.

    Ties are ruled by `most_supported`: a tie with background is background, so that of
    two members only what both say stays.

    Args:
        label_maps: As of `gather_votes`.

    Returns:
        ``(i, j, k)``; of a single member its own.

    Raises:
        GeometryError: The label maps differ in shape.
    """
    gathered = gather_votes(label_maps)
    return gathered.label_map(majority_of(gathered))


def majority_of(votes: Votes) -> NDArray[np.intp]:
    """As `majority_vote`, for each combination: places in ``votes.labels``."""
    equal = np.ones((votes.num_members, len(votes.labels)))
    return most_supported(votes, votes.support(equal))


def weighted_vote(
    label_maps: Iterable[NDArray[np.integer]], weights: Sequence[Weight]
) -> NDArray[np.integer]:
    """Label with the greatest sum of its voters' weights in each voxel.

    With equal weights this is the majority vote, whose rule for ties it shares.

    Args:
        label_maps: As of `gather_votes`.
        weights: Of each member, such as its validated Dice. Where they differ by label,
            a vote for background weighs the mean over the member's labels.

    Returns:
        ``(i, j, k)``.

    Raises:
        GeometryError: The label maps differ in shape.
        SettingsError: A weight is not above 0, there are not as many as members, or
            one lacks a label that occurs.
    """
    gathered = gather_votes(label_maps)
    names = [f"member {number}" for number in range(1, gathered.num_members + 1)]
    require_weights(weights, names)
    return gathered.label_map(weighted_of(gathered, weights, names))


def weighted_of(
    votes: Votes, weights: Sequence[Weight], names: Sequence[str]
) -> NDArray[np.intp]:
    """As `weighted_vote`, for each combination: places in ``votes.labels``.

    Args:
        votes: Of the members.
        weights: That `require_weights` lets pass.
        names: Of the members, for messages.

    Raises:
        SettingsError: A weight lacks a label that occurs.
    """
    of_labels = [
        _of_labels(name, weight, votes.labels)
        for name, weight in zip(names, weights, strict=True)
    ]
    return most_supported(votes, votes.support(np.array(of_labels)))


def require_weights(weights: Sequence[Weight], names: Sequence[str]) -> None:
    """Refuse weights that are no votes.

    Raises:
        SettingsError: There are not as many as members, or one is 0, negative or not
            finite.
    """
    if len(weights) != len(names):
        raise SettingsError(
            f"{len(weights)} weights are given for {len(names)} members; give one "
            "each, in the same order"
        )
    for name, weight in zip(names, weights, strict=True):
        if not isinstance(weight, Mapping):
            _require_weight(name, weight)
            continue
        for label, one in weight.items():
            _require_weight(f"label {label} of {name}", one)


def _of_labels(who: str, weight: Weight, labels: Sequence[int]) -> list[float]:
    """Weight of a vote for each label, background included."""
    if isinstance(weight, Mapping):
        missing = [label for label in labels if label != 0 and label not in weight]
        if missing:
            raise SettingsError(
                f"{who} has no weight for the labels {missing} that occur; its weights "
                f"are for {sorted(weight)}: name these labels too, or give it one "
                "weight for all"
            )
        of_background = sum(weight.values()) / len(weight) if weight else 1.0
        return [of_background if label == 0 else weight[label] for label in labels]
    return [weight] * len(labels)


def _require_weight(who: str, weight: float) -> None:
    if weight == 0:
        raise SettingsError(
            f"{who} has weight 0, so it would change nothing; leave it out, or give it "
            "a weight above 0"
        )
    if not 0 < weight < float("inf"):
        raise SettingsError(
            f"{who} has weight {weight:g}; weights must be above 0 and finite"
        )


def votes(
    label_map: Integer[Tensor, "i j k"], num_classes: int
) -> Float[Tensor, "class i j k"]:
    """Votes of one member: 1 for the class of each voxel, 0 for the others.

    The mean of several members' votes is the share of votes, which is fused and decided
    as probabilities are.

    Args:
        label_map: Inside classes, 0 to ``num_classes - 1``.
        num_classes: Background included.
    """
    rows = torch.zeros((num_classes, *label_map.shape), device=label_map.device)
    return rows.scatter_(0, label_map.to(torch.int64)[None], 1.0)
