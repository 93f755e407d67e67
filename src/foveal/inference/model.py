"""A trained network with all it needs to read a case as it was trained to."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foveal.case import Case
from foveal.inference.dropout import dropout_on, tile_draws
from foveal.inference.memory import MemoryBudget
from foveal.inference.numerics import Numerics, apply_layout
from foveal.inference.predict import TileDraws, patch_function, stream_logits
from foveal.inference.restore import (
    memory_of_blocks,
    resampled_rows,
    uncropped_rows,
    voxels_behind,
)
from foveal.inference.tiling import Tiles
from foveal.networks.interface import Network
from foveal.preprocessing.pipeline import (
    PreprocessedCase,
    PreprocessingRecipe,
    preprocess_case,
)


class Pass(NamedTuple):
    """One run of a network over a case."""

    mirrored_axes: tuple[int, ...] = ()
    """Axes along which the network sees the case reversed."""

    dropout_seed: int | None = None
    """Of the draws of a pass with dropout; ``None``: dropout is off, as usual. Passes
    that are mirrored otherwise have other draws."""

    member: int = 0
    """Number of the model among those of an ensemble, whose draws differ."""


PLAIN = Pass()


class Task(NamedTuple):
    """What a model predicts from what; members of an ensemble have it in common."""

    channel_names: tuple[str, ...]
    """In the order in which a case must have them."""

    structures: Mapping[str, tuple[int, ...]]
    """Name to the inside classes whose union it is."""

    label_values: tuple[int, ...]
    """Value of each label in label maps, in the order of inside classes from 1."""

    background_value: int
    separate_masks: bool
    """Whether predictions are one mask per structure."""

    orientation: str
    """Of the rows of probabilities."""

    @property
    def num_classes(self) -> int:
        """Labels and background."""
        return len(self.label_values) + 1


@dataclass(frozen=True, eq=False)
class Model:
    """The predictor of one run; `foveal.ensembles.members` makes label maps of it."""

    network: Network
    recipe: PreprocessingRecipe
    structures: Mapping[str, tuple[int, ...]]
    """Name to the inside classes whose union it is."""

    label_values: tuple[int, ...]
    """Value of each label in label maps, in the order of inside classes from 1."""

    separate_masks: bool
    """Whether references were one mask per structure, so that predictions are too."""

    tiles: Tiles
    """How the network wants volumes cut."""

    numerics: Numerics
    background_value: int = 0
    """Value of background in label maps."""

    mirrored_axes: tuple[int, ...] = ()
    """Along which a case may be reversed, as the plan says."""

    sagittal_axis: int = 0

    swapped_classes: tuple[int, ...] = ()
    """Class that each becomes when the sagittal axis is reversed; empty: none does."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        """Bring the network to its device and layout, ready to predict."""
        self.network.to(self.device).eval()
        apply_layout(self.network, self.numerics.memory_layout)

    @property
    def num_classes(self) -> int:
        """Labels and background."""
        return len(self.label_values) + 1

    @property
    def task(self) -> Task:
        """What it predicts from what."""
        return Task(
            tuple(channel.name for channel in self.recipe.channels),
            self.structures,
            self.label_values,
            self.background_value,
            self.separate_masks,
            self.recipe.orientation,
        )

    def mirrorings(self) -> tuple[tuple[int, ...], ...]:
        """All ways to reverse a case, the first of which leaves it as it is."""
        axes = self.mirrored_axes
        return tuple(
            chosen
            for count in range(len(axes) + 1)
            for chosen in combinations(axes, count)
        )

    def probabilities(
        self,
        prepared: PreprocessedCase,
        one_pass: Pass = PLAIN,
        memory: MemoryBudget | None = None,
    ) -> Iterator[tuple[int, Float[Tensor, "class _ j k"]]]:
        """Class probabilities on the case's own grid, reoriented, row by row.

        Args:
            prepared: The case, preprocessed by ``recipe``.
            one_pass: How the network sees it.
            memory: What the process may take, see `stream_logits`.

        Yields:
            Consecutive blocks of rows along the first axis of the reoriented grid, each
            with the number of its first row: upwards, or downwards where that axis is
            reversed.

        Raises:
            CaseError: The memory is too small for the case.
        """
        mirrored = one_pass.mirrored_axes
        function = patch_function(self.network, self.numerics, self.device)
        draws: TileDraws | None = None
        switched: AbstractContextManager[None] = nullcontext()
        if one_pass.dropout_seed is not None:
            draws = tile_draws(
                one_pass.dropout_seed,
                self.device,
                f"member {one_pass.member}",
                f"mirrored {mirrored}",
            )
            switched = dropout_on(self.network)
        image = torch.from_numpy(prepared.image)
        back = prepared.restoration
        region = _reversed(prepared.region, mirrored)
        wanted = None
        if region is not None:
            wanted = voxels_behind(region, back.preprocessed_shape)
        with switched:
            logits = stream_logits(
                function,
                image.flip([1 + axis for axis in mirrored]) if mirrored else image,
                self.tiles,
                self.task.num_classes,
                wanted=wanted,
                memory=memory,
                missing_channels=prepared.missing_channels,
                draws=draws,
                later_bytes=memory_of_blocks(
                    self.num_classes, back.preprocessed_shape, back.reoriented_shape
                ),
            )
            rows = resampled_rows(logits, back.preprocessed_shape, back.cropped_shape)
            whole = uncropped_rows(
                (block.softmax(dim=0) for block in rows),
                mirrored_window(back.window, back.reoriented_shape, mirrored),
                back.reoriented_shape,
                self.task.num_classes,
                inside=region,
            )
            done = 0
            for block in whole:
                done += block.shape[1]
                if 0 in mirrored:
                    first = back.reoriented_shape[0] - done
                else:
                    first = done - block.shape[1]
                yield first, self._seen_straight(block, mirrored)

    def prepared(self, case: Case) -> PreprocessedCase:
        """The case as the network was trained to see it.

        Args:
            case: Its channels as in training; label map not needed.

        Raises:
            CaseError: The case has another number of channels, or cannot be brought
                to the network's scale; see `preprocess_case`.
        """
        return preprocess_case(case, self.recipe)

    def _seen_straight(self, block: Tensor, mirrored: Sequence[int]) -> Tensor:
        """Probabilities of a reversed case, as those of the case itself."""
        if not mirrored:
            return block
        if self.sagittal_axis in mirrored and self.swapped_classes:
            # What the network calls right is left, and the other way round.
            block = block[list(self.swapped_classes)]
        return block.flip([1 + axis for axis in mirrored])


def _reversed(
    region: NDArray[np.bool_] | None, axes: Sequence[int]
) -> NDArray[np.bool_] | None:
    return region if region is None or not axes else np.flip(region, tuple(axes))


def mirrored_window(
    window: Sequence[slice], shape: Sequence[int], axes: Sequence[int]
) -> tuple[slice, ...]:
    """Where a window of a volume lies when the volume is reversed along axes."""
    return tuple(
        slice(length - part.stop, length - part.start) if axis in axes else part
        for axis, (part, length) in enumerate(zip(window, shape, strict=True))
    )
