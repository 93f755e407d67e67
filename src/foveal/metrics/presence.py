"""How well it is told which images show a structure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.stats import rankdata


@dataclass(frozen=True)
class PresenceScores:
    """Of one structure over images; ``None`` where one kind of image is missing.

    Of several classifiers together there is no ``area_under_roc``: logits of one say
    nothing about those of another.
    """

    images: int
    """With and without the structure."""

    showing: int
    """Images with the structure."""

    sensitivity: float | None
    """Share of the images with the structure that are told so."""

    specificity: float | None
    """Share of the images without the structure that are told so."""

    area_under_roc: float | None
    """Chance that an image with the structure has a higher logit than one without."""

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of sensitivity and specificity: 0.5 for a guess that is always alike."""
        if self.sensitivity is None or self.specificity is None:
            return None
        return (self.sensitivity + self.specificity) / 2

    def to_json(self) -> dict[str, float | int | None]:
        """All of them by name."""
        return asdict(self) | {"balanced_accuracy": self.balanced_accuracy}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> "PresenceScores":
        """What `to_json` gave.

        Raises:
            TypeError: Entries are missing, or there are others.
        """
        known = {key: entries[key] for key in entries if key != "balanced_accuracy"}
        return cls(**known)


def presence_scores(
    logits: Float[NDArray[np.floating], " image"],
    present: Bool[NDArray[np.bool_], " image"],
) -> PresenceScores:
    """Compare the logits of a structure's presence with what images show.

    Args:
        logits: Above 0 stands for "present".
        present: Whether each image shows the structure.
    """
    told = logits > 0
    showing = int(present.sum())
    others = len(present) - showing
    area = None
    if showing and others:
        # Mann and Whitney's U; equal logits count half.
        ranks = float(rankdata(logits)[present].sum())
        area = (ranks - showing * (showing + 1) / 2) / (showing * others)
    return PresenceScores(
        images=len(present),
        showing=showing,
        sensitivity=float(told[present].mean()) if showing else None,
        specificity=float(1 - told[~present].mean()) if others else None,
        area_under_roc=area,
    )


def pooled_presence(
    each: Sequence[Mapping[str, PresenceScores]],
) -> dict[str, PresenceScores]:
    """Scores of all images together, every image told by one of several classifiers.

    Args:
        each: At least one, all of the same structures.
    """
    return {name: _pooled([scores[name] for scores in each]) for name in each[0]}


def _pooled(each: Sequence[PresenceScores]) -> PresenceScores:
    images, showing = sum(one.images for one in each), sum(one.showing for one in each)
    found = sum(one.showing * (one.sensitivity or 0.0) for one in each)
    passed = sum((one.images - one.showing) * (one.specificity or 0.0) for one in each)
    return PresenceScores(
        images=images,
        showing=showing,
        sensitivity=found / showing if showing else None,
        specificity=passed / (images - showing) if images > showing else None,
        area_under_roc=each[0].area_under_roc if len(each) == 1 else None,
    )
