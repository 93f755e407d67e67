"""How well it is told which images show a structure."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.stats import rankdata


@dataclass(frozen=True)
class PresenceScores:
    """Of one structure over images; ``None`` where one kind of image is missing."""

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
