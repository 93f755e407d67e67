"""A trained network with all it needs to read a case as it was trained to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.case import Case
from foveal.inference.numerics import Numerics, apply_layout
from foveal.inference.predict import patch_function, stream_logits
from foveal.inference.restore import resampled_rows, uncropped_rows
from foveal.inference.tiling import Tiles
from foveal.networks.interface import Network
from foveal.preprocessing.pipeline import PreprocessingRecipe, preprocess_case


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
    def num_channels(self) -> int:
        """That a case must have."""
        return len(self.recipe.channels)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """In the order in which a case must have them."""
        return tuple(channel.name for channel in self.recipe.channels)

    @property
    def orientation(self) -> str:
        """Of the rows that `probabilities` gives."""
        return self.recipe.orientation

    def probabilities(self, case: Case) -> Iterator[Float[Tensor, "class _ j k"]]:
        """Class probabilities on the case's own grid, reoriented, row by row.

        Args:
            case: Its channels as in training; label map not needed.

        Yields:
            Consecutive blocks of rows along the first axis of the reoriented grid.

        Raises:
            CaseError: The case has another number of channels, or cannot be brought
                to the network's scale; see `preprocess_case`.
        """
        prepared = preprocess_case(case, self.recipe)
        image = torch.from_numpy(prepared.image)
        logits = stream_logits(
            patch_function(self.network, self.numerics, self.device),
            image,
            self.tiles,
            self.num_classes,
        )
        back = prepared.restoration
        rows = resampled_rows(logits, back.preprocessed_shape, back.cropped_shape)
        yield from uncropped_rows(
            (block.softmax(dim=0) for block in rows),
            back.window,
            back.reoriented_shape,
            self.num_classes,
        )
