"""Agreement over all voxels of a data set: accuracies and intersections over union.

With p_ij the voxels of class i that are predicted as class j and t_i = sum_j p_ij, as
in Long et al. 2015 (https://arxiv.org/abs/1411.4038), section 5. Classes are disjoint;
background is one of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DEFINITIONS = {
    "pixel_accuracy": "sum p_ii / sum t_i",
    "mean_accuracy": "mean over classes of p_ii / t_i",
    "mean_iou": "mean over classes of p_ii / (t_i + sum_j p_ji - p_ii)",
    "frequency_weighted_iou": "the same, weighted by t_i / sum t_i",
    "mean_dice": "mean over classes of 2 p_ii / (t_i + sum_j p_ji)",
}
"""Score to what it means. Classes without a voxel on either side are left out, and for
``mean_accuracy`` those without one in the references."""


@dataclass(frozen=True)
class ClassCounts:
    """Voxels of one class over all cases."""

    reference: int
    """t_i."""

    predicted: int
    """Sum over j of p_ji."""

    agreed: int
    """p_ii."""

    def __add__(self, other: "ClassCounts") -> "ClassCounts":
        """Counts of more cases."""
        return ClassCounts(
            self.reference + other.reference,
            self.predicted + other.predicted,
            self.agreed + other.agreed,
        )


def class_scores(counts: Mapping[str, ClassCounts]) -> dict[str, float]:
    """Every score of `DEFINITIONS`.

    Args:
        counts: Of every class, background included, at least one voxel in all.
    """
    seen = [one for one in counts.values() if one.reference + one.predicted]
    total = sum(one.reference for one in seen)
    iou = [one.agreed / (one.reference + one.predicted - one.agreed) for one in seen]
    accuracies = [one.agreed / one.reference for one in seen if one.reference]
    return {
        "pixel_accuracy": sum(one.agreed for one in seen) / total,
        "mean_accuracy": sum(accuracies) / len(accuracies),
        "mean_iou": sum(iou) / len(iou),
        "frequency_weighted_iou": sum(
            one.reference / total * value for one, value in zip(seen, iou, strict=True)
        ),
        "mean_dice": sum(
            2 * one.agreed / (one.reference + one.predicted) for one in seen
        )
        / len(seen),
    }
