"""How unsure a voxel is: variance, entropies and mutual information of several passes.

A pass gives every voxel a distribution over classes. Of several (members of an
ensemble, mirrored images, dropout masks) running means are kept, as all of these
follow from them: the entropy of the mean distribution (predictive entropy) is what the
passes leave open together, the mean of their entropies (expected entropy) is what each
of them leaves open by itself, and the rest, the mutual information, is how much they
disagree (Houlsby et al. 2011, https://arxiv.org/abs/1112.5745; for segmentation Nair et
al. 2020, https://doi.org/10.1016/j.media.2019.101557). All in nats.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def entropy(
    probabilities: Float[Tensor, "class rows j k"],
) -> Float[Tensor, "rows j k"]:
    """Entropy of every voxel's distribution: minus the sum of p log p.

    Args:
        probabilities: Non-negative, of sum 1 over classes; 0 counts as 0 log 0 = 0.

    Returns:
        In nats: 0 where a class is certain, log(classes) where all are alike.
    """
    return torch.special.entr(probabilities).sum(dim=0)


def mutual_information(
    predictive: Float[Tensor, "rows j k"], expected: Float[Tensor, "rows j k"]
) -> Float[Tensor, "rows j k"]:
    """How much knowing the pass would tell about the class of a voxel.

    Args:
        predictive: `entropy` of the mean probabilities.
        expected: Mean over the same passes of their `entropy`.

    Returns:
        In nats; 0 where all passes agree, or for a single one.
    """
    # Entropy is concave, so less than 0 (Jensen) is rounding.
    return (predictive - expected).clamp_min(0)


def variance(
    mean: Float[Tensor, "_ rows j k"], mean_of_squares: Float[Tensor, "_ rows j k"]
) -> Float[Tensor, "_ rows j k"]:
    """Variance over passes of a probability, of classes or of structures.

    That of a structure of several classes follows from the structure's own means: the
    probabilities of its classes are not independent.

    Args:
        mean: Over passes.
        mean_of_squares: Over the same passes.

    Returns:
        Mean squared distance from the mean, at most 1/4; 0 for a single pass.
    """
    # The difference of two nearly equal numbers may round below 0.
    return (mean_of_squares - mean.square()).clamp_min(0)
