"""Several models on one case: their probabilities averaged as they stream by.

One model is an ensemble of one, so that there is a single way from a case to its label
map. A further member adds its network and its preprocessed image to the peak of memory,
never a volume of probabilities.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foveal.case import Case
from foveal.errors import RunError
from foveal.inference.model import Model
from foveal.inference.restore import (
    ROWS_AT_ONCE,
    TakeRows,
    decided_label_map,
    in_equal_blocks,
)

AGREED = (
    "num_channels",
    "channel_names",
    "structures",
    "label_values",
    "background_value",
    "separate_masks",
    "orientation",
)
"""What members have in common, so that their average means something."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """One model, or several whose probabilities are averaged."""

    models: tuple[Model, ...]
    """At least one."""

    def __post_init__(self) -> None:
        """Refuse models that cannot be averaged.

        Raises:
            RunError: There is none, or they differ in one of `AGREED`.
        """
        if not self.models:
            raise RunError("no model is given; name at least one run or model file")
        for other in self.models[1:]:
            for what in AGREED:
                mine, theirs = getattr(self.models[0], what), getattr(other, what)
                if mine != theirs:
                    raise RunError(
                        f"the models differ in {what.replace('_', ' ')}: {mine} and "
                        f"{theirs}; only models of the same task can be averaged"
                    )

    @property
    def structures(self) -> Mapping[str, tuple[int, ...]]:
        """Name to the inside classes whose union it is."""
        return self.models[0].structures

    @property
    def label_values(self) -> tuple[int, ...]:
        """Value of each label in label maps."""
        return self.models[0].label_values

    @property
    def structure_values(self) -> dict[str, tuple[int, ...]]:
        """Name of each structure to its values in label maps."""
        return {
            name: tuple(self.label_values[number - 1] for number in classes)
            for name, classes in self.structures.items()
        }

    @property
    def separate_masks(self) -> bool:
        """Whether predictions are one mask per structure."""
        return self.models[0].separate_masks

    @property
    def orientation(self) -> str:
        """Of the rows that `probabilities` gives."""
        return self.models[0].orientation

    @property
    def num_channels(self) -> int:
        """That a case must have."""
        return self.models[0].num_channels

    @property
    def resample_channels(self) -> bool:
        """Whether a case's channels may lie on other grids than the first."""
        return any(model.recipe.resample_channels for model in self.models)

    def probabilities(self, case: Case) -> Iterator[Float[Tensor, "class _ j k"]]:
        """Class probabilities averaged over models, on the case's reoriented grid.

        Args:
            case: As read, in stored order.

        Yields:
            Consecutive blocks of rows, as `Model.probabilities` does.

        Raises:
            CaseError: As `Model.probabilities`.
        """
        streams = [
            in_equal_blocks(model.probabilities(case), ROWS_AT_ONCE)
            for model in self.models
        ]
        for blocks in zip(*streams, strict=True):
            yield blocks[0] if len(blocks) == 1 else torch.stack(blocks).mean(dim=0)

    def predict(
        self, case: Case, take_rows: TakeRows | None = None
    ) -> NDArray[np.integer]:
        """Label map of a case on its own grid, with the user's label values.

        Args:
            case: As `foveal.read_case` gives it.
            take_rows: Also gets the class probabilities as they pass.

        Returns:
            ``(i, j, k)`` in stored order.

        Raises:
            CaseError: As `Model.probabilities`.
        """
        return decided_label_map(
            self.probabilities(case),
            case.grid,
            self.orientation,
            self.label_values,
            tuple(self.structures.values()),
            take_rows,
            background_value=self.models[0].background_value,
        )
