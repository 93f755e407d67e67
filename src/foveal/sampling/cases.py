"""What drawing a patch asks of a case."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable  # the run-time shape checks look at signatures with it
class SampledCase(Protocol):
    """A case whose patches are drawn; reading a small window is cheap."""

    @property
    def name(self) -> str:
        """Differs between the cases that a sampler draws from."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        ...

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Voxels per inside class, background first; empty if unlabelled."""
        ...

    @property
    def annotated(self) -> tuple[bool, ...] | None:
        """Per structure, whether it was contoured; ``None``: all."""
        ...

    @property
    def mask(self) -> object | None:
        """Something, if `read_mask` can be called."""
        ...

    @property
    def weight_map(self) -> object | None:
        """Something, if `read_weight_map` can be called."""
        ...

    def class_voxel(self, class_index: int, n: int) -> tuple[int, int, int]:
        """Voxel ``n`` of a foreground class."""
        ...

    def read_label_map(self, window: Sequence[slice]) -> NDArray[np.uint8]:
        """Inside classes of a window."""
        ...

    def read_mask(self, window: Sequence[slice]) -> NDArray[Any]:
        """Not 0 inside the mask."""
        ...

    def read_weight_map(self, window: Sequence[slice]) -> NDArray[np.float32]:
        """The user's weights, not negative."""
        ...
