"""Several models on one case: their probabilities averaged as they stream by.

One model is an ensemble of one, so that there is a single way from a case to its label
map. A further member adds its network and its preprocessed image to the peak of memory,
never a volume of probabilities.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.case import Case
from foveal.errors import RunError
from foveal.inference.model import Model
from foveal.inference.restore import ROWS_AT_ONCE, in_equal_blocks


def require_agreement(models: Sequence[Model]) -> None:
    """Refuse models that cannot be averaged.

    Raises:
        RunError: They differ in structures, label values or orientation.
    """
    first = models[0]
    for other in models[1:]:
        for what in ("structures", "label_values", "orientation"):
            mine, theirs = getattr(first, what), getattr(other, what)
            if mine != theirs:
                raise RunError(
                    f"the runs differ in {what.replace('_', ' ')}: {mine} and "
                    f"{theirs}; only runs of the same task can be averaged"
                )


def mean_probabilities(
    models: Sequence[Model], case: Case
) -> Iterator[Float[Tensor, "class _ j k"]]:
    """Class probabilities averaged over models, on the case's reoriented grid.

    Args:
        models: At least one; see `require_agreement`.
        case: As read, in stored order.

    Yields:
        Consecutive blocks of rows, as `Model.probabilities` does.
    """
    streams = [
        in_equal_blocks(model.probabilities(case), ROWS_AT_ONCE) for model in models
    ]
    for blocks in zip(*streams, strict=True):
        yield blocks[0] if len(blocks) == 1 else torch.stack(blocks).mean(dim=0)
